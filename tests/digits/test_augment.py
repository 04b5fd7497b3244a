from dataclasses import fields

import numpy as np
import pytest
from numpy.typing import NDArray

from nanograd.digits.augment import (
    NUM_DRAWS,
    Distortion,
    distort,
    field_coordinates,
    field_weights,
    vary_stroke,
)
from nanograd.digits.deskew import Size, deskew
from nanograd.runtime.randomness import stream
from tests.helpers.models import some_images

ALL = Distortion(elastic=1.5, rotation=10.0, scaling=0.15, shear=0.1, shift=1.0, stroke=1.0)
EACH = [Distortion(**{each.name: 0.5}) for each in fields(Distortion)]


def some_draws(num_images: int) -> NDArray[np.float32]:
    draws = np.random.default_rng(3).uniform(-1, 1, (num_images, NUM_DRAWS)).astype(np.float32)
    draws.flags.writeable = False
    return draws


def displacement(distortion: Distortion, draws: NDArray[np.float32]) -> NDArray[np.float64]:
    """(2, B, 28, 28): distance from each pixel, right and down, of its source."""
    row, column = np.mgrid[:28, :28].reshape(2, 1, 784)
    sources = field_coordinates(field_weights(distortion, draws)).astype(np.float64)
    moved = sources - np.stack([column, row])
    return moved.reshape(2, len(draws), 28, 28)


@pytest.mark.parametrize("num_images", [0, 193])
def test_only_a_distortion_changes_images(num_images):
    images = some_images(num_images)

    same = distort(images, Distortion(), stream(0, 3))

    assert not Distortion()
    assert same.dtype == np.float32
    np.testing.assert_array_equal(same, images)
    for distortion in EACH:
        assert distortion
        changed = distort(images, distortion, stream(0, 3))
        assert np.array_equal(changed, images) == (num_images == 0)


@pytest.mark.parametrize("num_images", [1, 64, 65])
def test_bits_follow_from_the_random_stream_whatever_comes_later(num_images):
    images = some_images(193)

    many, few, other = (
        distort(images[:number], ALL, stream(0, 3, shard))
        for number, shard in ((193, 1), (num_images, 1), (193, 2))
    )

    # The bits of a matrix product may depend on its number of rows, which is that of a block of 64
    # images, or of the rest.
    whole = num_images // 64 * 64
    np.testing.assert_array_equal(few[:whole], many[:whole])
    np.testing.assert_allclose(few, many[:num_images], atol=0.01)
    assert not np.array_equal(many, other)
    assert 0 <= many.min() <= many.max() <= 255


def test_elastic_field_has_the_stated_root_mean_square_and_is_smooth():
    moved = displacement(Distortion(elastic=1.7), some_draws(4000))

    for axis in moved:
        assert np.sqrt(np.mean(axis**2)) == pytest.approx(1.7, rel=0.02)
        assert np.mean(axis) == pytest.approx(0, abs=0.085)
        # Noise smoothed by a Gaussian of deviation s is correlated by exp(-d^2 / 4 s^2).
        correlation = np.corrcoef(axis[:, 14, 12], axis[:, 14, 16])[0, 1]
        assert correlation == pytest.approx(np.exp(-16 / 64), abs=0.07)


def test_affine_coordinates_equal_the_matrix_products():
    draws = some_draws(7)
    angle, wide, high, shear, right, down = draws[:, :6].astype(np.float64).T
    angle = np.radians(10) * angle

    distortion = Distortion(rotation=10, scaling=0.2, shear=0.3, shift=2)
    actual = field_coordinates(field_weights(distortion, draws))

    for i in range(7):
        turn = [[np.cos(angle[i]), -np.sin(angle[i])], [np.sin(angle[i]), np.cos(angle[i])]]
        size = np.diag([1 + 0.2 * wide[i], 1 + 0.2 * high[i]])
        matrix = turn @ size @ [[1, 0.3 * shear[i]], [0, 1]]
        for y, x in np.ndindex(28, 28):
            expected = matrix @ [x - 13.5, y - 13.5] + 13.5 + 2 * np.array([right[i], down[i]])
            np.testing.assert_allclose(actual[:, i, 28 * y + x], expected, atol=1e-4)
    assert actual.dtype == np.float32


def test_stroke_is_mixed_with_the_maximum_or_minimum_of_its_neighbours():
    images = some_images(2)
    padded = np.pad(images.reshape(2, 28, 28), ((0, 0), (1, 1), (1, 1))).astype(int)

    thick, thin = vary_stroke(images, np.array([0.5, -1.0], np.float32)).reshape(2, 28, 28)

    for y, x in np.ndindex(28, 28):
        most = padded[0, y : y + 3, x : x + 3].max()
        least = padded[1, y : y + 3, x : x + 3].min()
        assert thick[y, x] == pytest.approx(0.75 * padded[0, y + 1, x + 1] + 0.25 * most)
        assert thin[y, x] == pytest.approx(0.5 * padded[1, y + 1, x + 1] + 0.5 * least)


def test_deskewing_without_distortion_equals_deskew(sample):
    digits = sample.train.images[:193]

    for size in (Size(), Size(width=3.5), Size(height=5.5), Size(3.0, 5.0)):
        deskewed = distort(digits, Distortion(), stream(0, 3), size)

        assert deskewed.dtype == np.float32
        # deskew rounds to whole values.
        np.testing.assert_allclose(deskewed, deskew(digits, size), atol=0.51)
