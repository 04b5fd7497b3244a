import numpy as np
import pytest

from nanograd.data.paper import otsu


def test_otsu_takes_the_middle_between_two_far_tones() -> None:
    tones = np.array([0.2] * 90 + [0.8] * 10, np.float32)

    assert otsu(tones) == pytest.approx(0.5, abs=0.01)
