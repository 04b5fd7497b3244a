import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nanograd.digits.dataset import SIDE
from nanograd.digits.deskew import (
    MAX_STRETCH,
    Size,
    deskew,
    deskewed_coordinates,
    resample,
    resample_rows,
)
from tests.helpers.models import some_images


def moments(image: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Centre of mass (x, y) and slant of one image, in plain loops."""
    ink = [(x, y, int(image[28 * y + x])) for y in range(28) for x in range(28)]
    mass = sum(p for _, _, p in ink)
    mean_x, mean_y = (sum(each[axis] * each[2] for each in ink) / mass for axis in (0, 1))
    covariance = sum((x - mean_x) * (y - mean_y) * p for x, y, p in ink)
    return mean_x, mean_y, covariance / sum((y - mean_y) ** 2 * p for _, y, p in ink)


def test_deskewed_digits_have_no_slant_and_are_centred(sample):
    digits = deskew(sample.train.images[:193])

    x, y, slant = np.array([moments(digit) for digit in digits]).T
    np.testing.assert_allclose(x, 14, atol=0.1)
    np.testing.assert_allclose(y, 14, atol=0.1)
    np.testing.assert_allclose(slant, 0, atol=0.05)


def test_blank_image_stays_blank_and_ink_in_a_single_row_is_only_centred():
    assert deskew(np.zeros((0, 784), np.uint8)).shape == (0, 784)
    assert not deskew(np.zeros((7, 784), np.uint8)).any()
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 3, 5:10] = 200

    deskewed = deskew(image.reshape(1, 784)).reshape(28, 28)

    expected = np.zeros((28, 28), np.uint8)
    expected[14, 12:17] = 200
    np.testing.assert_array_equal(deskewed, expected)


def test_deskewing_by_rows_gives_the_bits_of_the_definition(sample):
    images = np.concatenate([sample.train.images[:193], some_images(7), some_images(14)])
    images[193:200, :280], images[200:207, 300:], images[-1] = 0, 0, 0

    for size in (Size(), Size(height=5.0), Size(3.0, 5.0)):
        deskewed = deskew(images, size)

        expected = np.rint(resample(images, deskewed_coordinates(images, size)))
        np.testing.assert_array_equal(deskewed, expected)
        alone = [deskew(images[number : number + 1], size) for number in range(len(images))]
        np.testing.assert_array_equal(np.concatenate(alone), deskewed)
        np.testing.assert_array_equal(deskew(np.asfortranarray(images), size), deskewed)


def test_sums_in_float32_are_exact(sample):
    extremes = np.zeros((4, 28, 28), np.uint8)
    extremes[0], extremes[1, ::27, ::27], extremes[2, 0], extremes[3, :, 0] = 255, 255, 255, 255
    images = np.concatenate([sample.train.images[:193], extremes.reshape(-1, 784)])

    coordinates = deskewed_coordinates(images, Size(3.0, 5.0))

    in_doubles = deskewed_coordinates(images.astype(np.float32), Size(3.0, 5.0))
    np.testing.assert_array_equal(coordinates, in_doubles)


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
def test_deskewed_digits_have_the_requested_size_within_a_factor_of_one_fifth(sample, size):
    images = sample.test.images
    before, after = deviations(deskew(images)), deviations(deskew(images, size))

    for target, was, now in zip(size, before, after, strict=True):
        expected = np.clip(target or was, was / MAX_STRETCH, was * MAX_STRETCH)
        # A sheared, rounded grid has other moments.
        assert np.median(np.abs(now / expected - 1)) < 0.02


def by_hand(image: NDArray[np.uint8], x: float, y: float) -> float:
    """Bilinear interpolation at one point, from the definition."""
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < SIDE and 0 <= column < SIDE:
                weight = (1 - abs(x - column)) * (1 - abs(y - row))
                total += weight * int(image[row * SIDE + column])
    return total


def test_every_point_is_interpolated_as_by_the_definition():
    images = some_images(3)
    generator = np.random.default_rng(5)
    coordinates = generator.uniform(-4, 32, (2, 3, 784)).astype(np.float32)
    coordinates[:, :, ::7] = np.rint(coordinates[:, :, ::7])  # at the pixels, their bits
    coordinates[0, :, 1], coordinates[1, :, 2] = 1e30, -1e30

    result = resample(images, coordinates)

    expected = [
        [by_hand(image, float(x), float(y)) for x, y in zip(*coordinates[:, i], strict=True)]
        for i, image in enumerate(images)
    ]
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-3)


def resample_by_definition(
    images: NDArray[np.uint8], columns: Any, shifts: Any, y: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Round the result of `resample` at the coordinates of `resample_rows`."""
    x = (columns[:, None] + shifts[:, :, None]).astype(np.float32)
    rows = np.broadcast_to(y[:, :, None], x.shape)
    return np.rint(resample(images, np.stack([x, rows]).reshape(2, -1, SIDE * SIDE)))


@pytest.mark.parametrize("step", [1.0, 0.85, 1.2])
@pytest.mark.parametrize("furthest", [14, 40])
@pytest.mark.parametrize("num_images", [0, 1, 193])
def test_resample_rows_gives_the_bits_of_resample(num_images, furthest, step):
    images = some_images(num_images).copy()
    images[::5] = 0
    images[1::5, :280], images[2::5, 300:] = 0, 0
    generator = np.random.default_rng(5)
    shifts, y = generator.uniform(-furthest, furthest, (2, num_images, SIDE))
    columns = generator.uniform(-14, 14, (num_images, 1)) + step * np.arange(SIDE)
    shifts[::3], columns[::3], y[::2] = np.rint(shifts[::3]), np.rint(columns[::3]), np.rint(y[::2])
    rows = columns, shifts, (y + 14).astype(np.float32)

    result = resample_rows(images, *rows, unit_steps=step == 1)

    assert result.dtype == np.uint8
    expected = resample_by_definition(images, *rows)
    np.testing.assert_array_equal(result, expected)
    again = resample_rows(np.asfortranarray(images), *rows, unit_steps=False)
    np.testing.assert_array_equal(again, expected)


def test_row_rounded_over_a_whole_number_has_the_same_bits():
    images = some_images(1)
    # float32 tells 3 - 2e-7 from 3, but not 23 - 2e-7 from 23
    columns, shifts = np.arange(2.0, 30.0)[None], np.full((1, SIDE), -2e-7)
    y = np.arange(SIDE, dtype=np.float32)[None] + np.float32(0.5)

    result = resample_rows(images, columns, shifts, y, unit_steps=True)

    x = (columns + shifts[0, 0]).astype(np.float32) + 1
    assert len(np.unique(np.floor(x) - np.arange(SIDE))) > 1
    np.testing.assert_array_equal(result, resample_by_definition(images, columns, shifts, y))
