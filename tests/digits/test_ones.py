import numpy as np
import pytest
from numpy.typing import NDArray

from nanograd.digits.variants import flagged

MIDDLING = np.full(7, 0.5)
FOOTED = np.array([0.5, 0.5, 0.5, 0.1, 0.5, 0.5, 0.5])


def bar() -> NDArray[np.uint8]:
    image = np.zeros((28, 28), np.uint8)
    image[4:24, 13:16] = 255
    return image


def test_flag_hangs_to_the_left_of_the_upper_end() -> None:
    image = flagged(bar(), MIDDLING)

    upper, lower = (np.flatnonzero(rows.max(axis=0) > 127) for rows in (image[:14], image[15:]))
    assert upper.min() <= lower.min() - 3
    assert upper.max() <= lower.max() + 1


def test_some_flags_begin_lower_and_may_be_level() -> None:
    lowest = np.array([0.5, 0.99, 0.5, 0.5, 0.5, 0.5, 0.99])

    image = flagged(bar(), lowest)

    rows = np.flatnonzero(image.max(axis=1) > 127)
    left = np.flatnonzero((image[:, : np.flatnonzero(image[rows[0]] > 127)[0]] > 127).any(axis=1))
    assert 0.2 <= (left[0] - rows[0]) / len(rows) <= 0.35
    assert left[-1] - left[0] <= 4


@pytest.mark.parametrize("draw", [MIDDLING, FOOTED])
def test_some_have_a_foot_that_reaches_to_both_sides(draw: NDArray[np.float64]) -> None:
    image = flagged(bar(), draw)

    bottom = np.flatnonzero(image.max(axis=1) > 127)[-1]
    stem, foot = (np.flatnonzero(image[row] > 127) for row in (bottom - 8, bottom - 1))
    footed = draw is FOOTED
    assert (foot.min() <= stem.min() - 3) == (foot.max() >= stem.max() + 3) == footed


def test_blank_image_gets_no_flag() -> None:
    blank = np.zeros((28, 28), np.uint8)

    assert not flagged(blank, MIDDLING).any()
