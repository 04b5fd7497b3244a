import numpy as np
import pytest
from numpy.typing import NDArray

from nanograd.data.flags import add_flags, flagged
from nanograd.data.form import centre_of_mass
from nanograd.data.mnist import Mnist

MIDDLING = np.full(6, 0.5)
FOOTED = np.array([0.5, 0.5, 0.5, 0.1, 0.5, 0.5])


def bar() -> NDArray[np.uint8]:
    image = np.zeros((28, 28), np.uint8)
    image[4:24, 13:16] = 255
    return image


@pytest.mark.parametrize("share", [0.0, 0.1, 0.7])
def test_add_flags_changes_that_share_of_the_ones_and_nothing_else(
    sample: Mnist, share: float
) -> None:
    changed = (add_flags(sample.train, share, 3).images != sample.train.images).any(axis=1)

    ones = sample.train.labels == 1
    assert not changed[~ones].any()
    assert changed[ones].mean() == pytest.approx(share, abs=0.08)


def test_add_flags_follows_from_the_seed(sample: Mnist) -> None:
    first, again, other = (add_flags(sample.train, 0.5, seed).sha256() for seed in (1, 1, 2))

    assert first == again != other


def test_flagged_ones_stand_in_the_middle(sample: Mnist) -> None:
    ones = sample.train.take(np.flatnonzero(sample.train.labels == 1))

    images = add_flags(ones, 0.99, 0).images.reshape(-1, 28, 28)

    places = np.array([centre_of_mass(image) for image in images])
    # A one with a speck beside it may reach the frame.
    assert np.mean(np.abs(places - 14) <= 0.6) > 0.98
    assert (images.max(axis=(1, 2)) > 200).all()


def test_flag_hangs_to_the_left_of_the_upper_end() -> None:
    image = flagged(bar(), MIDDLING)

    upper, lower = (np.flatnonzero(rows.max(axis=0) > 127) for rows in (image[:14], image[15:]))
    assert upper.min() <= lower.min() - 3
    assert upper.max() <= lower.max() + 1


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
