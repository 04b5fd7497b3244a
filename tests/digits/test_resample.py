import math

import numpy as np
import pytest
from numpy.typing import NDArray

from nanograd.digits.dataset import SIDE
from nanograd.digits.resample import PIECE, resample, resample_rows
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


def along(start: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float32], ...]:
    """Rows from `start` at `y`: arguments of `resample_rows`, and coordinates for `resample`."""
    x = (start[:, :, None] + np.arange(PIECE)).astype(np.float32)
    rows = np.broadcast_to(y.astype(np.float32)[:, :, None], (len(y), SIDE, SIDE))
    coordinates = np.stack([x[:, :, :SIDE], rows]).reshape(2, -1, SIDE * SIDE)
    return x, y.astype(np.float32), coordinates


@pytest.mark.parametrize("num_images", [0, 1, 193])
def test_resample_rows_gives_the_bits_of_resample(num_images):
    images = some_images(num_images)
    generator = np.random.default_rng(5)
    start, y = generator.uniform(-40, 40, (2, num_images, SIDE))
    start[::3], y[::2] = np.rint(start[::3]), np.rint(y[::2])
    x, rows, coordinates = along(start, y)

    result = resample_rows(images, x, rows)

    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, resample(images, coordinates))


def test_row_rounded_over_a_whole_number_has_the_same_bits():
    images = some_images(1)
    start = np.full((1, SIDE), 2 - 2e-7)  # float32 tells 3 - 2e-7 from 3, but not 23 - 2e-7 from 23
    x, rows, coordinates = along(start, np.arange(SIDE)[None] + 0.5)

    result = resample_rows(images, x, rows)

    assert len(np.unique(np.floor(x + 1) - np.arange(PIECE))) > 1
    np.testing.assert_array_equal(result, resample(images, coordinates))
