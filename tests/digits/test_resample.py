import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nanograd.digits.dataset import SIDE
from nanograd.digits.resample import resample, resample_rows
from tests.helpers.models import some_images


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
