import numpy as np
import pytest

from nanograd.data.paper import otsu


def test_otsu_takes_the_middle_between_two_far_tones() -> None:
    tones = np.array([51] * 90 + [204] * 10, np.uint8)

    threshold, separation = otsu(tones)

    assert threshold == pytest.approx(127.5, abs=1)
    assert separation > 0.9
