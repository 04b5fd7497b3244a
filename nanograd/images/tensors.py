"""Conversion of numbers in columns to pictures.

Lists, nested lists, tensors and flat columns are converted to arrays of pictures of equal size. A
row is refused if its numbers are no picture or their scale is unclear. Other rows are not affected.

References:
    Apache Arrow, "Canonical extension types" (`shape` is the shape of the storage; `permutation`
    lists the axes of the storage in their logical order).
"""

import json
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from nanograd.digits import levels
from nanograd.digits.dataset import NUM_PIXELS, SIDE
from nanograd.errors import Reason, UnreadableError
from nanograd.runtime.arrays import Bytes, Ints, Mask

Shape: TypeAlias = tuple[int, ...]
# (n, height, width, channels) uint8, and the row number of each picture.
Pictures: TypeAlias = tuple[Bytes, Ints]
# Why rows are no pictures, by their numbers.
Refused: TypeAlias = dict[int, UnreadableError]

# Key of `Tensor.scale` in the metadata of a column, or of the first of 784 flat columns.
SCALE = b"nanograd.scale"


class Tensor(NamedTuple):
    """What type and metadata of a column say about its tensors."""

    shape: Shape | None  # shape of each tensor's storage; None if it is not known
    permutation: Shape | None  # order of the axes; None if it is the order of the storage
    scale: int | None = None  # result of `levels.scale_of`


def is_any(type_: pa.DataType, *names: str) -> bool:
    """Test whether `pa.types.is_NAME` is true of a type for any of the names."""
    return any(getattr(pa.types, f"is_{name}")(type_) for name in names)


def is_list(type_: pa.DataType) -> bool:
    """Test whether a type is one of Arrow's list types."""
    kinds = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")
    return is_any(type_, *kinds)


def leaf(type_: pa.DataType) -> pa.DataType:
    """Return the type of the innermost values of nested lists."""
    return leaf(type_.value_type) if is_list(type_) else type_


def plain_type(type_: pa.DataType) -> pa.DataType:
    """Replace views of text and bytes in a type, which many of Arrow's functions do not take."""
    if is_any(type_, "string_view"):
        return pa.large_string()
    if is_any(type_, "binary_view"):
        return pa.large_binary()
    if is_any(type_, "dictionary"):
        return pa.dictionary(type_.index_type, plain_type(type_.value_type), type_.ordered)
    if is_any(type_, "struct"):
        return pa.struct([each.with_type(plain_type(each.type)) for each in type_.fields])
    if is_any(type_, "list"):
        return pa.list_(type_.value_field.with_type(plain_type(type_.value_type)))
    return type_


def without_views(array: pa.Array) -> pa.Array:
    """Replace views of text, bytes or lists, at any depth, by plain types.

    List views are made anew from their values and lengths, because pyarrow 26's cast empties the
    last list.
    """
    if (type_ := plain_type(array.type)) != array.type:
        array = array.cast(type_)
    while is_list(type_) and not is_any(type_, "list_view", "large_list_view"):
        type_ = type_.value_type
    if not is_list(type_):
        return array
    lengths = pc.list_value_length(array).fill_null(0).to_numpy()
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
    values = without_views(array.flatten())
    return pa.LargeListArray.from_arrays(offsets, values, mask=array.is_null())


def tensor_of(field: pa.Field) -> Tensor:
    """Return the shape of a column's tensors, by its extension type, metadata or fixed list sizes.

    Of a type of Ray, `open_parquet` keeps only the metadata. Ray 2.49 to 2.54 wrote this metadata
    as a pickle, which is never loaded. Then the shape is known only from fixed list sizes.

    >>> tensor_of(pa.field("", pa.list_(pa.list_(pa.int8(), 28), 30))).shape
    (30, 28)
    """
    metadata, type_ = field.metadata or {}, field.type
    shape, permutation = getattr(type_, "shape", None), getattr(type_, "permutation", None)
    if shape is None:
        try:
            stored = json.loads(metadata[b"ARROW:extension:metadata"])
        except (KeyError, ValueError):
            stored = None
        shape = stored  # Ray stores the shape alone
        if isinstance(stored, dict):
            shape, permutation = stored.get("shape"), stored.get("permutation")
    known, sizes = _whole(shape), list[int]()
    while known is None and is_any(type_, "fixed_size_list"):
        sizes.append(type_.list_size)
        type_ = type_.value_type
    if known is None and not is_list(type_):
        known = _whole(sizes)
    scale = int(metadata[SCALE]) if SCALE in metadata else None
    return Tensor(known, _whole(permutation), scale)


def _whole(numbers: Any) -> Shape | None:
    """Return a tuple of whole numbers, or None for anything else."""
    are_whole = isinstance(numbers, list | tuple) and {*map(type, numbers)} == {int}
    return tuple(numbers) if are_whole else None


def picture_axes(shape: Shape, permutation: Shape | None = None) -> Shape | None:
    """Return the axes of height, width and channels in a tensor; None if it is no picture.

    784 numbers are 28 x 28. Axes of length 1 are ignored. If three axes are left, the channels
    are the last one if it has length 3 or 4, otherwise the first one if that has length 3 or 4.

    >>> [picture_axes(each) for each in [(784,), (1, 32, 30), (14, 14, 4), (3, 28, 28), (783,)]]
    [(0,), (1, 2), (0, 1, 2), (1, 2, 0), None]
    >>> picture_axes((28, 30), (1, 0)), picture_axes((28, 3, 30), (2, 0, 1)), picture_axes((3,), ())
    ((1, 0), (2, 0, 1), None)
    """
    stored = tuple(range(len(shape)))
    axes = permutation or stored
    if tuple(sorted(axes)) != stored or min(shape, default=0) < 1:
        return None
    # pyarrow 26 writes the inverse of a cyclic permutation of three axes. Such a permutation only
    # moves the axis of the channels.
    is_cycle = axes != tuple(sorted(stored, key=lambda axis: axes[axis]))
    if is_cycle and (found := picture_axes(shape)):
        return found
    long = tuple(axis for axis in axes if shape[axis] != 1)
    match [shape[axis] for axis in long]:
        case [length] if length == NUM_PIXELS:
            return long
        case [_, _] | [_, _, 3 | 4]:
            return long
        case [3 | 4, _, _]:
            return (*long[1:], long[0])
    return None


def as_pictures(values: Bytes, axes: Shape) -> Bytes:
    """Transpose n tensors, (n, ...), by their `picture_axes` to (n, height, width, channels)."""
    sizes = [values.shape[1 + axis] for axis in axes] if len(axes) > 1 else [SIDE, SIDE]
    rest = (axis for axis in range(values.ndim - 1) if axis not in axes)
    moved = values.transpose(0, *(1 + axis for axis in (*axes, *rest)))
    return moved.reshape(len(values), *sizes[:2], sizes[2] if len(sizes) > 2 else 1)


def from_flat_columns(
    columns: Sequence[pa.Array], scale: int | None, refused: Refused
) -> Iterator[Pictures]:
    """Yield the pictures in 784 columns, given in the order of the pixels.

    This function and the following ones add rows that are no picture to `refused`.
    """
    null = np.any([_is_null(column) for column in columns], axis=0)
    arrays, number = [_to_numpy(column) for column in columns], len(null)
    # Transposing takes four times as long if columns are a multiple of 4 KiB apart, because they
    # evict each other from the cache.
    size = len(columns), number + (64 - number) % 4096
    stacked = np.empty(size, np.result_type(*arrays))[:, :number]
    values = np.ascontiguousarray(np.stack(arrays, out=stacked).T)
    _refuse(np.flatnonzero(null), "a pixel is null", refused)
    yield _scale(values[~null], np.flatnonzero(~null), scale, refused)


def from_lists(
    array: pa.Array, tensor: Tensor, refused: Refused, stated: pa.Array | None = None
) -> Iterator[Pictures]:
    """Yield the pictures in lists, or in tensors whose shape is `stated` for each row."""
    # `owner` is the index of each row's shape in `shapes`.
    if stated is None:
        found, owner = np.unique(_shapes_of_lists(array), axis=0, return_inverse=True)
        shapes = [tuple(shape) for shape in found.tolist()]
        if tensor.shape is not None and not is_list(array.type.value_type):
            size = (prod(tensor.shape),)
            shapes = [tensor.shape if shape == size else () for shape in shapes]
    else:
        lengths = pc.list_value_length(array).fill_null(0).to_pylist()
        pairs = zip((tuple(shape or ()) for shape in stated.to_pylist()), lengths, strict=True)
        each = [() if None in shape or prod(shape) != size else shape for shape, size in pairs]
        place = {shape: number for number, shape in enumerate(set(each))}
        shapes, owner = list(place), np.array([place[shape] for shape in each], np.int64)
    null = _is_null(array)
    _refuse(np.flatnonzero(null), "the image is null", refused, Reason.NO_BYTES)
    for number, shape in enumerate(shapes):
        rows = np.flatnonzero((owner == number) & ~null)
        axes = picture_axes(shape, tensor.permutation)
        if axes is None:
            text = " x ".join("?" if length < 0 else str(length) for length in shape) or "its"
            _refuse(rows, f"{text} numbers are not a picture, as 28 x 28 would be", refused)
            continue
        flat = array if len(rows) == len(array) else array.take(pa.array(rows))
        while is_list(flat.type):
            flat = flat.flatten()
        values = _to_numpy(flat).reshape(len(rows), *shape)
        if flat.null_count:
            bad = _is_null(flat).reshape(len(rows), -1).any(axis=1)
            _refuse(rows[bad], "a pixel is null", refused)
            values, rows = values[~bad], rows[~bad]
        yield _scale(values, rows, tensor.scale, refused, axes)


def from_raw(array: pa.Array, are_raw: Mask, refused: Refused) -> Pictures:
    """Return the pictures in some rows of a binary array, whose values have 784 bytes each."""
    data, starts = split_bytes(array)
    if are_raw.all():  # the values follow each other
        values = data[starts[0] : starts[-1]].reshape(-1, NUM_PIXELS)
    else:
        values = sliding_window_view(data, NUM_PIXELS)[starts[:-1][are_raw]]
    return _scale(values, np.flatnonzero(are_raw), None, refused)


def split_bytes(array: pa.Array) -> tuple[Bytes, Ints]:
    """Return the bytes of a binary array, and where each value begins and the last one ends."""
    array = array.cast(pa.large_binary())
    _, offsets, data = array.buffers()
    starts = np.frombuffer(offsets or bytes(8), np.int64)
    values = np.frombuffer(data or b"", np.uint8)
    return values, starts[array.offset : array.offset + len(array) + 1]


def _scale(
    values: NDArray[Any], rows: Ints, scale: int | None, refused: Refused, axes: Shape = (0,)
) -> Pictures:
    """Convert numbers to pictures; refuse rows whose scale is unclear."""
    found, problems = levels.to_levels(values, scale)
    usable = problems < 0
    if not usable.all():
        for row, problem in zip(rows[~usable].tolist(), problems[~usable], strict=True):
            refused[row] = UnreadableError(Reason.BAD_PIXEL, levels.PROBLEMS[problem])
        found, rows = found[usable], rows[usable]
    return as_pictures(found, axes), rows


def _refuse(rows: Ints, detail: str, refused: Refused, reason: Reason = Reason.WRONG_SHAPE) -> None:
    refused |= dict.fromkeys(rows.tolist(), UnreadableError(reason, detail))


def _is_null(array: pa.Array) -> Mask:
    if not array.null_count:
        return np.zeros(len(array), np.bool_)
    mask: Mask = array.is_null().to_numpy(zero_copy_only=False)
    return mask


def _to_numpy(array: pa.Array) -> NDArray[Any]:
    """Convert numbers of any Arrow type to a numpy array, with 0 for null."""
    if is_any(array.type, "boolean"):
        bits: NDArray[Any] = array.cast(pa.uint8()).fill_null(0).to_numpy(zero_copy_only=False)
        return bits.view(np.bool_)
    if is_any(array.type, "decimal"):
        array = array.cast(pa.float64())
    elif is_any(array.type, "float16"):
        array = array.cast(pa.float32())
    array = array.fill_null(0) if array.null_count else array
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values


def _shapes_of_lists(array: pa.Array) -> Ints:
    """Return the shapes of n rows of lists nested d deep, (n, d).

    A length is -1 if the lists at its depth differ in length, or if there are none. A null counts
    as an empty list.

    >>> _shapes_of_lists(pa.array([[[1, 2], [3, 4]], [[1], [2, 3]], None])).tolist()
    [[2, 2], [2, -1], [0, -1]]
    """
    lengths: Ints = pc.list_value_length(array).fill_null(0).to_numpy().astype(np.int64)
    if not is_list(array.type.value_type):
        return lengths[:, None]
    below = _shapes_of_lists(array.flatten())
    shapes = np.full((len(array), 1 + below.shape[1]), -1)
    shapes[:, 0] = lengths
    starts, filled = np.cumsum(lengths) - lengths, lengths > 0
    if filled.any():
        least = np.minimum.reduceat(below, starts[filled])
        most = np.maximum.reduceat(below, starts[filled])
        shapes[filled, 1:] = np.where(least == most, least, -1)
    return shapes
