import numpy as np
import pytest

from nanograd.data.strokes import pen_width, running_max


@pytest.mark.parametrize("radius", [0, 1, 2, 5])
def test_running_max_equals_the_plain_definition(radius: int) -> None:
    values = np.random.default_rng(radius).random((7, 5, 2), dtype=np.float32)

    widest = running_max(values, radius)

    for y, x in np.ndindex(7, 5):
        window = values[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
        assert np.array_equal(widest[y, x], window.max(axis=(0, 1)))


@pytest.mark.parametrize("width", [2, 5, 11])
def test_pen_width_of_a_bar_is_its_width(width: int) -> None:
    ink = np.zeros((70, 40), np.float32)
    ink[5:65, 10 : 10 + width] = 1

    assert pen_width(ink) == pytest.approx(width, rel=0.05)
