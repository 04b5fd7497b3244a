import numpy as np
import pytest

from nanograd.data.form import centre_of_mass
from nanograd.data.mnist import Mnist
from nanograd.data.styles import add_styles


@pytest.mark.parametrize("shares", [(0.0, 0.0), (0.1, 0.0), (0.0, 0.1), (0.7, 0.3)])
def test_that_share_of_the_ones_and_fours_is_redrawn_and_nothing_else(
    sample: Mnist, shares: tuple[float, float]
) -> None:
    before, labels = sample.train.images, sample.train.labels

    changed = (add_styles(sample.train, *shares, 3).images != before).any(axis=1)

    assert not changed[(labels != 1) & (labels != 4)].any()
    for digit, share in zip((1, 4), shares, strict=True):
        assert changed[labels == digit].mean() == pytest.approx(share, abs=0.08)


def test_styles_follow_from_the_seed(sample: Mnist) -> None:
    first, again, other = (add_styles(sample.train, 0.5, 0.5, seed).sha256() for seed in (1, 1, 2))

    assert first == again != other


def test_each_style_has_draws_of_its_own(sample: Mnist) -> None:
    ones = sample.train.labels == 1

    alone, both = (add_styles(sample.train, 0.5, share, 1).images for share in (0.0, 0.5))

    np.testing.assert_array_equal(alone[ones], both[ones])


def test_images_are_left_alone_and_there_may_be_none(sample: Mnist) -> None:
    before = sample.train.images.tobytes()

    add_styles(sample.train, 0.5, 0.5, 0)
    none = add_styles(sample.train.take(np.arange(0)), 0.5, 0.5, 0)

    assert sample.train.images.tobytes() == before
    assert none.images.shape == (0, 784)


# A four that is made larger is blurred by it.
@pytest.mark.parametrize(("digit", "darkest"), [(1, 200), (4, 150)])
def test_redrawn_digits_stand_in_the_middle(sample: Mnist, digit: int, darkest: int) -> None:
    digits = sample.train.take(np.flatnonzero(sample.train.labels == digit))

    images = add_styles(digits, 0.99, 0.99, 0).images.reshape(-1, 28, 28)

    places = np.array([centre_of_mass(image) for image in images])
    # A digit with a speck beside it may reach the frame.
    assert np.mean(np.abs(places - 14) <= 0.6) > 0.98
    assert (images.max(axis=(1, 2)) > darkest).all()
