import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nanograd.digits.levels import PROBLEMS, array_to_levels, scale_of, to_levels

DTYPES = [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint64, np.float16, np.float64, bool]


def some_levels(dtype: Any) -> NDArray[Any]:
    """(5, 784): the largest pixel of each image is that of the dtype, if it is at most 255."""
    highest = 1 if dtype is bool else min(255, np.iinfo(dtype).max if dtype(0.5) == 0 else 255)
    images = np.random.default_rng(3).integers(0, highest + 1, (5, 784))
    images[:, 7] = highest
    return images.astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_levels_of_any_dtype_are_kept(dtype):
    images = some_levels(dtype)

    levels, problems = to_levels(images)

    assert (problems == -1).all()
    assert np.array_equal(levels, images.astype(np.uint8) * (255 if dtype is bool else 1))
    assert dtype is not np.uint8 or np.shares_memory(levels, images)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_and_ones_have_the_scale_of_their_column(dtype):
    images = np.zeros((4, 784), dtype)
    images[1:, 5], images[3, 7] = 1, 1
    is_bool, is_whole = dtype is bool, np.dtype(dtype).kind in "iu"

    ink = {scale: to_levels(images, scale)[0][:, 5].tolist() for scale in (1, 255)}
    problems = {scale: to_levels(images, scale)[1].tolist() for scale in (16, None)}

    assert ink[1] == [0, 255, 255, 255]
    assert ink[255] == ([0, 255, 255, 255] if is_bool else [0, 1, 1, 1])
    assert problems[16] == [-1, *([-1] * 3 if is_bool else [3] * 3)]
    assert problems[None] == [-1, *([4] * 3 if is_whole else [-1] * 3)]


@given(st.lists(st.sampled_from([0.5, 1, 0.996, 3, 200]), max_size=3))
def test_scale_of_a_column_decides_of_zeros_and_ones_alone(others):
    images = np.zeros((len(others), 784))
    images[:, 3], images[:, 5] = 0.25, others

    for scale in (1, 16, 255):
        assert np.array_equal(to_levels(images, scale)[0], to_levels(images)[0])


@pytest.mark.parametrize(
    ("largest", "scale"),
    [
        ([], 1),
        ([0, 1, 0.3], 1),
        ([1, 1.0019], 1),
        ([1, 1.01], 16),
        ([16], 16),
        ([17, None], 255),
        ([None, 255.4], 255),
        ([255.5], None),
        ([1, np.inf], None),
        ([np.nan, 1], None),
        ([None, 9], None),
        ([999, 20], 255),
    ],
)
def test_scale_follows_from_the_largest_pixels(largest, scale):
    assert scale_of(largest) == scale_of(largest[::-1]) == scale


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_shares_of_full_ink_are_rounded_to_the_nearest_level(dtype):
    images = some_levels(np.uint8)

    assert np.array_equal(to_levels((images / 255).astype(dtype))[0], images)


def test_limits_of_the_scales_are_those_of_each_image_alone():
    largest = [0, 0.25, 1, 1.001, 17, 255, 255.4, -0.001]
    wrong = {
        "not a finite number": [np.nan, -np.inf],
        "below 0, as in standardised images": [-0.4242, -1],
        "above 255": [256, 2**60],
        "above 1 but at most 16, so the scale is unclear": [1.5, 2, 16],
    }
    images = np.zeros((17, 7))
    images[:, 5] = [*largest, *(value for values in wrong.values() for value in values)]

    levels, problems = to_levels(images)

    assert levels[:8, 5].tolist() == [0, 64, 255, 255, 17, 255, 255, 0]
    assert problems.tolist() == [-1] * 8 + [0, 0, 1, 1, 2, 2, 3, 3, 3]
    assert all(detail in PROBLEMS[number] for number, detail in enumerate(wrong))


def test_array_of_floats_is_converted_with_one_copy():
    images = np.tile(np.linspace(0, 1, 784), (1930, 1))
    tracemalloc.start()

    levels, problem = array_to_levels(images)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert problem is None
    assert levels[0, -1] == 255
    assert peak < 1.5 * images.nbytes  # one copy, the levels and a mask
