import numpy as np
import pytest
from numpy.typing import NDArray

from nanograd.data.stems import shortened


def four(below: int) -> NDArray[np.uint8]:
    """Two strokes down, a bar, and the right stroke so far below it."""
    image = np.zeros((28, 28), np.uint8)
    image[4:14, 7:9] = 255
    image[12:14, 7:20] = 255
    image[4 : 14 + below, 16:18] = 255
    return image


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.9])
def test_stem_ends_at_the_bar_or_little_below(draw: float) -> None:
    image = shortened(four(below=8), np.array([draw]))

    rows = np.flatnonzero(image.max(axis=1) > 127)
    bar = rows[np.argmax((image[rows] > 127).sum(axis=1))]
    height = rows[-1] - rows[0] + 1
    assert rows[-1] - bar <= 0.45 * height
    assert (rows[-1] - bar <= 3) == (draw < 0.5)


def test_shortened_four_is_as_large_as_mnists_digits() -> None:
    image = shortened(four(below=8), np.array([0.0]))

    ink = image > 20
    sides = [np.ptp(np.flatnonzero(ink.any(axis=axis))) + 1 for axis in (0, 1)]
    assert 18 <= max(sides) <= 20


@pytest.mark.parametrize("image", [four(below=1), np.zeros((28, 28), np.uint8)])
def test_four_without_a_stem_below_its_bar_is_left(image: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(shortened(image, np.array([0.5])), image)
