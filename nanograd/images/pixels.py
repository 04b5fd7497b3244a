"""Numbers in columns, as pictures of grey levels.

Lists, nested lists, tensors and flat columns become arrays of pictures of one size. A row whose
numbers are no picture, or have no clear scale, is rejected and does not affect others.
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nanograd.digits import levels
from nanograd.digits.dataset import NUM_PIXELS
from nanograd.errors import Reason, Rejection
from nanograd.images.shapes import (
    Shape,
    Tensor,
    as_pictures,
    is_list,
    picture_axes,
    shapes_of_lists,
)

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Pixels(NamedTuple):
    """Pictures of one size, and rejections of other rows."""

    pictures: NDArray[np.uint8]  # (n, height, width, channels) uint8
    rows: Ints  # (n,) int64, the row of each; increasing
    rejections: list[Rejection]


def from_flat_columns(columns: Sequence[pa.Array], scale: int | None) -> Iterator[Pixels]:
    """Yield the pictures of 784 columns in the order of the pixels, and of a scale."""
    null = np.any([is_null(column) for column in columns], axis=0)
    values = np.stack([_to_numpy(column) for column in columns], axis=1)
    yield _reject(np.flatnonzero(null), "a pixel is null")
    yield _scale(values[~null], np.flatnonzero(~null), scale)


def from_lists(array: pa.Array, tensor: Tensor) -> Iterator[Pixels]:
    """Yield the pictures of lists, which may be the storage of tensors of one shape."""
    found, owner = np.unique(shapes_of_lists(array), axis=0, return_inverse=True)
    shapes = [tuple(shape) for shape in found.tolist()]
    if tensor.shape is not None and not is_list(array.type.value_type):
        size = (prod(tensor.shape),)
        shapes = [tensor.shape if shape == size else () for shape in shapes]
    yield from _by_shape(array, shapes, owner, tensor)


def from_tensors(data: pa.Array, shapes: pa.Array, tensor: Tensor) -> Iterator[Pixels]:
    """Yield the pictures of tensors that each have a shape of their own."""
    lengths = shapes_of_lists(data)[:, 0].tolist()
    stated = [tuple(shape or ()) for shape in shapes.to_pylist()]
    found = [
        shape if None not in shape and prod(shape) == length else ()
        for shape, length in zip(stated, lengths, strict=True)
    ]
    shapes = sorted(set(found))
    place = {shape: number for number, shape in enumerate(shapes)}
    owner = np.array([place[shape] for shape in found], np.int64)
    yield from _by_shape(data, shapes, owner, tensor)


def from_raw(images: Sequence[bytes], rows: Ints) -> Pixels:
    """Return the pictures of 784 bytes each."""
    values = np.frombuffer(b"".join(images), np.uint8).reshape(len(images), NUM_PIXELS)
    return _scale(values, rows)


def is_null(array: pa.Array) -> Mask:
    """Return which values are null."""
    mask: Mask = array.is_null().to_numpy(zero_copy_only=False)
    return mask


def _by_shape(
    array: pa.Array, shapes: Sequence[Shape], owner: Ints, tensor: Tensor
) -> Iterator[Pixels]:
    """Yield the pictures of each shape; `owner` is the number of each row's shape."""
    null = is_null(array)
    yield _reject(np.flatnonzero(null), "the image is null", Reason.NO_BYTES)
    for number, shape in enumerate(shapes):
        rows = np.flatnonzero((owner == number) & ~null)
        axes = picture_axes(shape, tensor.permutation)
        if axes is None:
            text = " x ".join("?" if length < 0 else str(length) for length in shape) or "its"
            yield _reject(rows, f"{text} numbers are not a picture, as 28 x 28 would be")
        else:
            yield from _of_one_shape(array, rows, shape, axes, tensor.scale)


def _of_one_shape(
    array: pa.Array, rows: Ints, shape: Shape, axes: Shape, scale: int | None
) -> Iterator[Pixels]:
    flat = array if len(rows) == len(array) else array.take(pa.array(rows))
    while is_list(flat.type):
        flat = flat.flatten()
    values = _to_numpy(flat).reshape(len(rows), *shape)
    if flat.null_count:
        null = is_null(flat).reshape(len(rows), -1).any(axis=1)
        yield _reject(rows[null], "a pixel is null")
        values, rows = values[~null], rows[~null]
    yield _scale(values.transpose(0, *(axis + 1 for axis in axes)), rows, scale)


def _scale(values: NDArray[Any], rows: Ints, scale: int | None = None) -> Pixels:
    """Return numbers as grey levels, without those whose scale is unclear."""
    found, problems = levels.to_levels(values, scale)
    if (problems < 0).all():
        return Pixels(as_pictures(found), rows, [])
    rejections = [
        Rejection(int(row), Reason.BAD_PIXEL, levels.describe(problem))
        for row, problem in zip(rows, problems, strict=True)
        if problem >= 0
    ]
    return Pixels(as_pictures(found[problems < 0]), rows[problems < 0], rejections)


def _reject(rows: Ints, detail: str, reason: Reason = Reason.WRONG_SHAPE) -> Pixels:
    rejections = [Rejection(int(row), reason, detail) for row in rows]
    return Pixels(np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, np.int64), rejections)


def _to_numpy(array: pa.Array) -> NDArray[Any]:
    """Convert numbers of any type to an array, with 0 for null."""
    if pa.types.is_boolean(array.type):
        bits: NDArray[Any] = array.cast(pa.uint8()).fill_null(0).to_numpy(zero_copy_only=False)
        return bits.view(np.bool_)
    if pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    if pa.types.is_float16(array.type):
        array = array.cast(pa.float32())
    values: NDArray[Any] = array.fill_null(0).to_numpy(zero_copy_only=False)
    return values
