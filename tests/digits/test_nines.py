import numpy as np
import pytest
from numpy.typing import NDArray

from nanograd.digits.variants import tailed


def nine() -> NDArray[np.uint8]:
    """A square loop and a stem on its right."""
    image = np.zeros((28, 28), np.uint8)
    image[4:14, 8:18] = 255
    image[7:11, 11:15] = 0
    image[4:24, 15:18] = 255
    return image


@pytest.mark.parametrize("reach", [0.0, 0.9])
def test_tail_goes_to_the_left_at_the_lower_end(reach: float) -> None:
    image = tailed(nine(), np.array([reach, 0.25]))

    rows = np.flatnonzero((image > 127).any(axis=1))
    stem, tail = (np.flatnonzero(image[row] > 127) for row in (rows[-1] - 7, rows[-1] - 1))
    assert 3 <= stem.min() - tail.min() <= 0.7 * len(rows)
    assert (stem.min() - tail.min() > 7) == (reach > 0.5)
    assert tail.max() <= stem.max() + 1


def test_tail_may_rise() -> None:
    level, risen = (tailed(nine(), np.array([0.9, rise])) for rise in (0.2, 0.99))

    ends = [
        np.flatnonzero(image[:, np.flatnonzero((image[16:] > 127).any(axis=0))[0]][16:] > 127)
        for image in (level, risen)
    ]
    assert ends[1].max() < ends[0].max()


def test_blank_image_stays_blank() -> None:
    assert not tailed(np.zeros((28, 28), np.uint8), np.full(2, 0.5)).any()
