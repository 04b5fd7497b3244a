import numpy as np
import pytest

from nanograd.pictures.morphology import pen_width


@pytest.mark.parametrize("width", [2, 5, 11])
def test_pen_width_of_a_bar_is_its_width(width: int) -> None:
    ink = np.zeros((70, 40), np.float32)
    ink[5:65, 10 : 10 + width] = 1

    assert pen_width(ink) == pytest.approx(width, rel=0.05)
