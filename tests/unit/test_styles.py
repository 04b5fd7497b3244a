import numpy as np
import pytest

from nanograd.data.form import centre_of_mass
from nanograd.data.mnist import Mnist
from nanograd.data.styles.redraw import add_styles


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_that_share_of_the_ones_fours_and_nines_is_redrawn_and_nothing_else(
    sample: Mnist, share: float
) -> None:
    before, labels = sample.train.images, sample.train.labels

    changed = (add_styles(sample.train, share, 3).images != before).any(axis=1)

    assert not changed[~np.isin(labels, (1, 4, 9))].any()
    for digit in (1, 4, 9):
        assert changed[labels == digit].mean() == pytest.approx(share, abs=0.08)


def test_styles_follow_from_the_seed(sample: Mnist) -> None:
    first, again, other = (add_styles(sample.train, 0.5, seed).sha256() for seed in (1, 1, 2))

    assert first == again != other


def test_more_are_redrawn_with_a_larger_share_and_the_others_as_before(sample: Mnist) -> None:
    plain, some, more = (add_styles(sample.train, share, 1).images for share in (0.0, 0.2, 0.6))

    ones = sample.train.labels == 1
    redrawn = (some != plain).any(axis=1) & ones
    np.testing.assert_array_equal(some[redrawn], more[redrawn])
    assert redrawn.sum() < ((more != plain).any(axis=1) & ones).sum()


def test_images_are_left_alone_and_there_may_be_none(sample: Mnist) -> None:
    before = sample.train.images.tobytes()

    add_styles(sample.train, 0.5, 0)
    none = add_styles(sample.train.take(np.arange(0)), 0.5, 0)

    assert sample.train.images.tobytes() == before
    assert none.images.shape == (0, 784)


@pytest.mark.parametrize("digit", [1, 4, 9])
def test_redrawn_digits_stand_in_the_middle(sample: Mnist, digit: int) -> None:
    digits = sample.train.take(np.flatnonzero(sample.train.labels == digit))

    images = add_styles(digits, 0.99, 0).images.reshape(-1, 28, 28)

    places = np.array([centre_of_mass(image) for image in images])
    # A digit with a speck beside it may reach the frame.
    assert np.mean(np.abs(places - 14) <= 0.6) > 0.98
    assert (images.max(axis=(1, 2)) > 200).all()
