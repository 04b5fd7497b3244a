import numpy as np
import pytest
from numpy.typing import NDArray

from nanograd.data.mnist import Mnist
from nanograd.digits.deskew import MOST_STRETCH, Size, deslant, upright_places
from nanograd.digits.resample import resample


def moments(image: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Centre of mass (x, y) and slant of one image, in plain loops."""
    ink = [(x, y, int(image[28 * y + x])) for y in range(28) for x in range(28)]
    mass = sum(p for _, _, p in ink)
    mean_x = sum(x * p for x, _, p in ink) / mass
    mean_y = sum(y * p for _, y, p in ink) / mass
    covariance = sum((x - mean_x) * (y - mean_y) * p for x, y, p in ink)
    return mean_x, mean_y, covariance / sum((y - mean_y) ** 2 * p for _, y, p in ink)


def leaning(slant: float) -> NDArray[np.uint8]:
    """A stroke two pixels wide that leans."""
    image = np.zeros((28, 28), np.uint8)
    for row in range(5, 24):
        column = round(12 + slant * (row - 14))
        image[row, column : column + 2] = 255
    return image.reshape(1, 784)


def test_digits_are_upright_and_centred(sample: Mnist) -> None:
    digits = deslant(sample.train.images[:193])

    assert digits.dtype == np.uint8
    x, y, slant = np.array([moments(digit) for digit in digits]).T
    np.testing.assert_allclose(x, 14, atol=0.1)
    np.testing.assert_allclose(y, 14, atol=0.1)
    np.testing.assert_allclose(slant, 0, atol=0.05)


@pytest.mark.parametrize("slant", [-0.5, -0.2, 0.0, 0.3, 0.6])
def test_leaning_stroke_becomes_a_column(slant: float) -> None:
    upright = deslant(leaning(slant))

    assert upright.dtype == np.uint8
    columns = upright.reshape(28, 28).sum(axis=0, dtype=np.int64)
    assert columns[12:17].sum() >= 0.95 * columns.sum()


@pytest.mark.parametrize("num_images", [0, 1, 7])
def test_blank_images_stay_blank(num_images: int) -> None:
    upright = deslant(np.zeros((num_images, 784), np.uint8))

    assert upright.dtype == np.uint8
    assert upright.shape == (num_images, 784)
    assert not upright.any()


def test_ink_in_a_single_row_is_only_centred() -> None:
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 3, 5:10] = 200

    upright = deslant(image.reshape(1, 784)).reshape(28, 28)

    assert upright.dtype == np.uint8
    expected = np.zeros((28, 28), np.uint8)
    expected[14, 12:17] = 200
    np.testing.assert_array_equal(upright, expected)


def test_an_image_is_deslanted_alike_alone_and_among_others(sample: Mnist) -> None:
    images = sample.test.images[:193]

    together = deslant(images)
    alone = np.concatenate([deslant(images[i : i + 1]) for i in range(193)])

    assert alone.dtype == np.uint8
    np.testing.assert_array_equal(alone, together)


def test_images_are_left_alone(sample: Mnist) -> None:
    before = sample.test.images.tobytes()

    upright = deslant(sample.test.images)

    assert upright.dtype == np.uint8
    assert sample.test.images.tobytes() == before


def test_rows_read_together_give_the_bits_of_the_definition(sample: Mnist) -> None:
    images = sample.train.images[:193]

    upright = deslant(images)

    expected = np.rint(resample(images, upright_places(images)))
    np.testing.assert_array_equal(upright, expected)


def deviations(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Standard deviation of the ink in x and in y, (2, B)."""
    ink = images.astype(np.float64).reshape(-1, 28, 28)
    ink /= ink.sum(axis=(1, 2), keepdims=True)
    profiles = np.stack([ink.sum(axis=1), ink.sum(axis=2)])
    found: NDArray[np.float64] = np.sqrt(
        profiles @ np.arange(28) ** 2 - (profiles @ np.arange(28)) ** 2
    )
    return found


@pytest.mark.parametrize("size", [Size(width=3.5), Size(height=5.5), Size(3.0, 5.0)])
def test_upright_digits_are_as_large_as_asked_for_as_far_as_a_fifth_goes(
    sample: Mnist, size: Size
) -> None:
    before, after = (
        deviations(deslant(sample.test.images)),
        deviations(deslant(sample.test.images, size)),
    )

    for asked, was, now in zip(size, before, after, strict=True):
        expected = np.clip(asked or was, was / MOST_STRETCH, was * MOST_STRETCH)
        # A sheared, rounded grid has other moments.
        assert np.median(np.abs(now / expected - 1)) < 0.02
