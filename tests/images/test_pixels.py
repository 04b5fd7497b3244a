"""Arrays of pixels are pictures like any other, whatever column holds them."""

from collections.abc import Callable
from decimal import Decimal
from itertools import permutations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from nanograd.digits.dataset import Mnist
from nanograd.images.reader import read_table
from nanograd.settings.specs import ReadOptions
from tests.helpers.image_columns import (
    Pixels,
    bar_image,
    ray_tensors,
    read_column,
    reasons,
    tensors,
)
from tests.helpers.odd_files import encoded


@pytest.fixture(scope="module")
def digits(sample: Mnist) -> Pixels:
    return sample.test.images[:7].reshape(7, 28, 28)


def shifted(digits: Pixels) -> Pixels:
    return np.roll(digits, (4, 3), (1, 2))


def noise(digits: Pixels) -> Pixels:
    return np.random.default_rng(7).integers(0, 256, digits.shape, dtype=np.uint8)


def small(digits: Pixels) -> Pixels:
    inner = digits[:, 4:24:2, 4:24:2]
    return np.pad(inner, ((0, 0), (9, 9), (9, 9)))


DRAWN: dict[str, Callable[[Pixels], Pixels]] = {
    "as they are": lambda digits: digits,
    "inverted": lambda digits: 255 - digits,
    "shifted": shifted,
    "shifted, inverted": lambda digits: 255 - shifted(digits),
    "small": small,
    "faint": lambda digits: digits // 4,
    "noise": noise,
    "blank": np.zeros_like,
    "white": lambda digits: np.full_like(digits, 255),
}


@pytest.mark.parametrize(
    ("polarity", "normalise"),
    [
        *(("auto", "auto"), ("dark-on-light", "auto"), ("light-on-dark", "auto")),
        *(("auto", "always"), ("dark-on-light", "never")),
    ],
)
@pytest.mark.parametrize("drawn", DRAWN)
def test_raw_pixels_are_read_like_their_png_files(drawn, polarity, normalise, digits):
    images = DRAWN[drawn](digits)
    options = {"polarity": polarity, "normalise": normalise}

    of_png, refused = read_column([encoded(Image.fromarray(image)) for image in images], **options)

    for column in (tensors(images), pa.array([image.tobytes() for image in images])):
        found, rejections = read_column(column, **options)
        assert np.array_equal(found.images, of_png.images)
        assert np.array_equal(found.rows, of_png.rows)
        assert reasons(rejections) == reasons(refused)


def size_32(images: Pixels) -> Pixels:
    return np.pad(images, ((0, 0), (2, 2), (2, 2)))


def oblong(images: Pixels) -> Pixels:
    return np.pad(images, ((0, 0), (0, 3), (4, 9)))


def red(images: Pixels) -> Pixels:
    return np.stack([np.full_like(images, 255), 255 - images, 255 - images], axis=3)


def clear(images: Pixels) -> Pixels:
    """Black ink on transparent paper, 14 x 14 x 4: as many numbers as 28 x 28."""
    alpha = images[:, ::2, ::2]
    return np.stack([*[np.zeros_like(alpha)] * 3, alpha], axis=3)


@pytest.mark.parametrize("make", [size_32, oblong, red, clear])
@pytest.mark.parametrize("form", ["lists", "channels first", "with a batch axis", "floats"])
def test_tensors_of_any_size_and_colour_are_read_like_their_png_files(make, form, digits):
    images = make(digits)
    values: Any = images
    if form == "channels first":
        values = np.moveaxis(images, 3, 1) if images.ndim == 4 else images[:, None]
    elif form == "with a batch axis":
        values = images[:, None, None]
    elif form == "floats":
        values = images / np.float32(255)
    column = pa.array(images.tolist()) if form == "lists" else tensors(np.ascontiguousarray(values))

    found, rejections = read_column(column)

    of_png, refused = read_column([encoded(Image.fromarray(image)) for image in images])
    assert np.array_equal(found.images, of_png.images)
    assert reasons(rejections) == reasons(refused)
    assert len(found.rows) >= 6


@pytest.mark.parametrize("axes", list(permutations(range(3))), ids=str)
def test_permutation_of_a_tensor_is_honoured(axes, digits):
    pictures = red(digits)
    stored = np.ascontiguousarray(pictures.transpose(0, *(1 + np.argsort(axes))))
    type_ = pa.fixed_shape_tensor(pa.uint8(), stored.shape[1:], permutation=axes)
    storage = pa.FixedSizeListArray.from_arrays(pa.array(stored.ravel()), 28 * 28 * 3)
    column = pa.ExtensionArray.from_storage(type_, storage)

    found, _ = read_column(column)

    if axes in {(0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 1, 0)}:  # pyarrow 26 fails for cycles
        assert np.array_equal(column.to_numpy_ndarray(), pictures)
    # pyarrow writes a view of an array with a permutation of its own.
    view = pa.FixedShapeTensorArray.from_numpy_ndarray(
        stored.transpose(0, *(1 + axis for axis in axes))
    )
    for images in (found.images, read_column(view)[0].images):
        assert np.array_equal(images, read_column(tensors(pictures))[0].images)
        assert len(images) == 7


def test_tensors_of_several_shapes_share_a_column(digits):
    shapes = [(28, 28), (784,), (32, 32), (3, 28, 28), (27, 28), (2, 3), None]
    shapes += [(), (-28, -28), (None, 28), (10**9, 10**9), (2**62, 4, 784), (0, 784)]
    values = [
        *(digits[0], digits[1].ravel(), size_32(digits)[2], np.stack([digits[3]] * 3)),
        *(np.zeros((28, 28)), np.zeros((2, 4)), *[np.zeros(784)] * 6, np.zeros(0)),
    ]
    rows = [
        {"data": value.ravel().astype(int).tolist(), "shape": shape}
        for value, shape in zip(values, shapes, strict=True)
    ]
    type_ = pa.struct([("data", pa.list_(pa.uint8())), ("shape", pa.list_(pa.int64()))])

    found, rejections = read_column([*rows, {"data": None, "shape": (28, 28)}, None], type_)

    assert found.rows.tolist() == [0, 1, 2, 3]
    assert np.array_equal(found.images[[0, 1, 3]], digits[[0, 1, 3]].reshape(3, 784))
    wrong = [(row, "wrong_shape") for row in range(4, 13)]
    assert reasons(rejections) == [*wrong, (13, "no_bytes"), (14, "no_bytes")]


@pytest.mark.parametrize("outer", [pa.list_, pa.large_list])
def test_nested_lists_that_are_no_pictures_do_not_affect_others(outer, digits):
    one, other = digits[0].tolist(), digits[1].tolist()
    ragged = [[0, 255], *one[1:]], [*one[:27], None], [[]] * 28, [], one[:1], None
    columns = [[*ragged, other], [one, *ragged, other], ragged]

    for rows in columns:
        found, rejections = read_column(rows, outer(pa.list_(pa.int16())))

        assert found.images.tobytes() == b"".join(
            np.uint8(row).tobytes() for row in rows if row in (one, other)
        )
        assert len(found.rows) + len(rejections) == len(rows)
        assert {reason for _, reason in reasons(rejections)} == {"wrong_shape", "no_bytes"}


# A process without Ray sees its extension types in a Parquet file as this.
@pytest.mark.parametrize("name", ["tensor", "tensor_v2"])
def test_stored_tensors_of_ray_have_their_shape(name, digits):
    pictures = size_32(digits)
    found, _ = read_table(ray_tensors(pictures, name), ReadOptions())
    assert np.array_equal(found.images, read_column(tensors(pictures))[0].images)
    assert len(found.rows) == 7


WRONG = {
    "infinite": ([np.inf] * 784, pa.float16(), "bad_pixel"),
    "not a number": ([np.nan, *[0.5] * 783], pa.float64(), "bad_pixel"),
    "negative": ([-1] * 784, pa.int8(), "bad_pixel"),
    "sixteen": ([16] * 784, pa.uint8(), "bad_pixel"),
    "too few": ([0.0] * 783, pa.float64(), "wrong_shape"),
    "too many": ([0] * 1024, pa.uint8(), "wrong_shape"),
    "none": ([], pa.uint8(), "wrong_shape"),
    **{
        f"null {type_}": ([None, *[zero] * 783], type_, "wrong_shape")
        for zero, type_ in [
            *[(0.0, pa.float64()), (np.float16(0), pa.float16())],
            *[(False, pa.bool_()), (Decimal(0), pa.decimal128(4, 1))],
        ]
    },
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_row_of_numbers_is_rejected_alone(kind):
    row, type_, reason = WRONG[kind]
    bits = (bar_image() // 255).tolist()
    is_decimal = pa.types.is_decimal(type_)
    bar = [Decimal(bit) for bit in bits] if is_decimal else pa.array(bits).cast(type_).to_pylist()

    rows, metadata = [bar, row, bar], {"nanograd.scale": "1"}
    found, rejections = read_column(rows, pa.list_(type_), metadata)

    assert np.array_equal(found.images, [bar_image()] * 2)
    assert found.rows.tolist() == [0, 2]
    assert reasons(rejections) == [(1, reason)]


def test_raw_pixels_with_a_bright_border_are_counted(digits):
    def num_dark(column: pa.Array, **options: str) -> int:
        return read_column(column, **options)[0].num_dark

    assert num_dark(tensors(255 - digits)) == num_dark(tensors(255 - digits), normalise="always")
    assert num_dark(tensors(255 - digits)) == 7
    assert num_dark(tensors(255 - digits), normalise="never") == 0
    assert num_dark(tensors(255 - digits), polarity="dark-on-light") == 0
    assert num_dark(tensors(digits)) == 0
    assert num_dark(pa.array([encoded(Image.fromarray(255 - digit)) for digit in digits])) == 0
