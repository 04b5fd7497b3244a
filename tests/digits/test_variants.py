import numpy as np
import pytest

from nanograd.data.mnist import Mnist
from nanograd.digits import variants
from nanograd.digits.form import centre_of_mass
from nanograd.digits.variants import add_styles, num_redrawn


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_that_share_of_the_ones_fours_and_nines_is_added_and_nothing_changed(
    sample: Mnist, share: float
) -> None:
    digits = sample.train

    more = add_styles(digits, share, 3)

    assert len(more) == len(digits) + num_redrawn(digits, share)
    assert more.take(slice(len(digits))).sha256() == digits.sha256()
    added = np.bincount(more.labels[len(digits) :], minlength=10)
    expected = np.round(share * np.bincount(digits.labels, minlength=10))
    np.testing.assert_array_equal(added, np.where(np.isin(np.arange(10), (1, 4, 9)), expected, 0))


def test_added_digits_are_redrawn(sample: Mnist) -> None:
    added = add_styles(sample.train, 0.3, 3).images[len(sample.train) :]

    known = {image.tobytes() for image in sample.train.images}
    assert not any(image.tobytes() in known for image in added)


def test_styles_follow_from_the_seed(sample: Mnist) -> None:
    first, again, other = (add_styles(sample.train, 0.5, seed).sha256() for seed in (1, 1, 2))

    assert first == again != other


def test_with_a_larger_share_the_same_are_redrawn_and_more(sample: Mnist) -> None:
    some, more = (
        {image.tobytes() for image in add_styles(sample.train, share, 1).images}
        for share in (0.2, 0.6)
    )

    assert some < more


def test_images_are_left_alone_and_there_may_be_none(sample: Mnist) -> None:
    before = sample.train.images.tobytes()

    add_styles(sample.train, 0.5, 0)
    none = add_styles(sample.train.take(np.arange(0)), 0.5, 0)

    assert sample.train.images.tobytes() == before
    assert none.images.shape == (0, 784)


@pytest.mark.parametrize("digit", [1, 4, 9])
def test_redrawn_digits_stand_in_the_middle(sample: Mnist, digit: int) -> None:
    digits = sample.train.take(np.flatnonzero(sample.train.labels == digit))

    images = add_styles(digits, 0.99, 0).images[len(digits) :].reshape(-1, 28, 28)

    places = np.array([centre_of_mass(image) for image in images])
    # A digit with a speck beside it may reach the frame.
    assert np.mean(np.abs(places - 14) <= 0.6) > 0.98
    assert (images.max(axis=(1, 2)) > 200).all()


@pytest.mark.parametrize("rows", [(0, 0), (0, 1), (12, 14), (27, 27), (11, 15)])
def test_a_dot_or_a_dash_that_is_called_a_digit_is_left_alone(rows: tuple[int, int]) -> None:
    image = np.zeros((28, 28), np.uint8)
    image[rows[0] : rows[1] + 1, 10:13] = 255

    for redraw, num_draws in (
        (variants.flagged, 7),
        (variants.tailed, 2),
    ):
        np.testing.assert_array_equal(redraw(image, np.full(num_draws, 0.5)), image)
