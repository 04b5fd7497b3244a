"""Shapes of the numbers in a column: nested lists, tensors, and which of them are pictures.

References:
    Apache Arrow, "Canonical extension types" (a tensor's shape is that of its storage;
    `permutation` lists the axes of the storage in their logical order).
"""

import json
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nanograd.digits.dataset import NUM_PIXELS, SIDE

Shape = tuple[int, ...]

_COLOURS = (3, 4)
# In the metadata of a column, or of the first of flat ones, see `Tensor`.
SCALE = b"nanograd.scale"


class Tensor(NamedTuple):
    """What a type says about the tensors of a column."""

    shape: Shape | None  # of the storage of each; None if the type does not say
    permutation: Shape | None  # order of its axes; None as they are
    scale: int | None = None  # of their numbers, see `levels.scale_of`


def is_list(type_: pa.DataType) -> bool:
    """Test for any of Arrow's list types."""
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(type_) for test in tests) or is_list_view(type_)


def is_list_view(type_: pa.DataType) -> bool:
    """Test for lists whose offsets are in any order."""
    return bool(pa.types.is_list_view(type_) or pa.types.is_large_list_view(type_))


def without_views(array: pa.Array) -> pa.Array:
    """Return lists in place of their views, at any depth.

    Not by a cast: that of pyarrow 26 makes the last list of a file's views empty.
    """
    type_ = array.type
    while is_list(type_) and not is_list_view(type_):
        type_ = type_.value_type
    if not is_list(type_):
        return array
    lengths = pc.list_value_length(array).fill_null(0).to_numpy()
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
    values = without_views(array.flatten())
    return pa.LargeListArray.from_arrays(offsets, values, mask=array.is_null())


def leaf(type_: pa.DataType) -> pa.DataType:
    """Return the type of the values of nested lists."""
    return leaf(type_.value_type) if is_list(type_) else type_


def tensor_of(field: pa.Field) -> Tensor:
    """Return the shape of a column's tensors, by its extension type, its metadata or fixed sizes.

    A process without Ray sees Ray's types as metadata only. Those of Ray 2.49 to 2.54 are pickled,
    and never loaded.
    """
    shape = getattr(field.type, "shape", None)
    permutation = getattr(field.type, "permutation", None)
    if shape is None:
        try:
            stored = json.loads((field.metadata or {})[b"ARROW:extension:metadata"])
        except (KeyError, ValueError):
            stored = None
        if isinstance(stored, dict):
            shape, permutation = stored.get("shape"), stored.get("permutation")
        elif isinstance(stored, list):  # Ray's
            shape = stored
    shape = _whole(shape) or _fixed_sizes(field.type)
    scale = (field.metadata or {}).get(SCALE)
    return Tensor(shape, _whole(permutation), None if scale is None else int(scale))


def _whole(numbers: object) -> Shape | None:
    """Return a tuple of whole numbers, or None for anything else."""
    if not isinstance(numbers, list | tuple) or not all(type(each) is int for each in numbers):
        return None
    return tuple(numbers) or None


def _fixed_sizes(type_: pa.DataType) -> Shape | None:
    """Return the shape of fixed-size lists in each other.

    >>> _fixed_sizes(pa.list_(pa.list_(pa.int8(), 28), 28)), _fixed_sizes(pa.list_(pa.int8()))
    ((28, 28), None)
    """
    shape: list[int] = []
    while is_list(type_):
        if not pa.types.is_fixed_size_list(type_):
            return None
        shape.append(type_.list_size)
        type_ = type_.value_type
    return tuple(shape) or None


def picture_shape(shape: Shape) -> Shape | None:
    """Return height, width and channels of the picture that a tensor holds, or None.

    784 numbers are 28 x 28. Axes of length 1 do not matter. Colour is the last axis or the first.

    >>> [picture_shape(each) for each in [(784,), (1, 32, 30), (14, 14, 4), (3, 28, 28), (783,)]]
    [(28, 28, 1), (32, 30, 1), (14, 14, 4), (28, 28, 3), None]
    """
    if min(shape, default=0) < 1:
        return None
    match [length for length in shape if length != 1]:
        case [length] if length == NUM_PIXELS:
            return SIDE, SIDE, 1
        case [height, width]:
            return height, width, 1
        case [height, width, last] if last in _COLOURS:
            return height, width, last
        case [first, height, width] if first in _COLOURS:
            return height, width, first
    return None


def picture_axes(shape: Shape, permutation: Shape | None) -> Shape | None:
    """Return the order in which the axes of a storage make a picture, or None.

    >>> picture_axes((28, 30), (1, 0)), picture_axes((28, 3, 30), (2, 0, 1)), picture_axes((3,), ())
    ((1, 0), (2, 0, 1), None)
    """
    stored = tuple(range(len(shape)))
    axes = permutation or stored
    if tuple(sorted(axes)) != stored:
        return None
    # pyarrow 26 writes a cycle of three axes inverted. It only moves the axis of the colours.
    inverse = tuple(sorted(stored, key=lambda axis: axes[axis]))
    if axes != inverse and picture_shape(shape):
        return stored
    return axes if picture_shape(tuple(shape[axis] for axis in axes)) else None


def as_pictures(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Arrange n tensors, (n, ...), as the pictures of `picture_shape`, (n, H, W, channels)."""
    shape = picture_shape(values.shape[1:])
    if shape is None:
        raise ValueError(f"{values.shape[1:]} is not the shape of a picture")
    inner = [length for length in values.shape[1:] if length != 1]
    if len(inner) == len(shape) and inner[2] not in _COLOURS:
        return np.moveaxis(values.reshape(len(values), *inner), 1, 3)
    return values.reshape(len(values), *shape)


def shapes_of_lists(array: pa.Array) -> NDArray[np.int64]:
    """Return the shape of each row of lists nested d deep, (n, d); -1 where lengths differ.

    >>> shapes_of_lists(pa.array([[[1, 2], [3, 4]], [[1], [2, 3]], None])).tolist()
    [[2, 2], [2, -1], [0, -1]]
    """
    lengths: NDArray[np.int64] = pc.list_value_length(array).fill_null(0).to_numpy().astype(int)
    if not is_list(array.type.value_type):
        return lengths[:, None]
    below = shapes_of_lists(array.flatten())
    shapes = np.full((len(array), 1 + below.shape[1]), -1)
    shapes[:, 0] = lengths
    starts, filled = np.cumsum(lengths) - lengths, lengths > 0
    if filled.any():
        least = np.minimum.reduceat(below, starts[filled])
        most = np.maximum.reduceat(below, starts[filled])
        shapes[filled, 1:] = np.where(least == most, least, -1)
    return shapes
