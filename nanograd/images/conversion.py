"""Images and labels from Arrow columns.

A row that cannot be read is rejected with its reason and does not affect other rows. A path in a
table is followed only where `image_root` allows it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nanograd.digits.dataset import NUM_CLASSES, NUM_PIXELS, SIDE
from nanograd.errors import DataError, Reason, Rejection, UnreadableError
from nanograd.images import columns, pixels, rows
from nanograd.images.columns import ImageColumn, ImageKind, Partitions, to_python
from nanograd.images.pixels import Ints, Mask, Pixels
from nanograd.images.shapes import is_list, tensor_of, without_views
from nanograd.settings.specs import ReadOptions

Bytes = NDArray[np.uint8]
Item = TypeVar("Item")

# A digit or -1 as text; pandas writes 7.0 where other values of the column are missing.
_LABEL_TEXT = r"^(?:-1|[0-9])(?:\.0*)?$"


class Images(NamedTuple):
    """The images of a table."""

    images: Bytes  # (n, 784) uint8, ink 255 on 0; may be a read-only view of Arrow's memory
    rows: Ints  # (n,) int64, the row of each; increasing
    labels: NDArray[np.int8]  # (n,) int8, -1 where there is none
    num_bad_labels: int  # labels of them that are no digit, and are left out
    num_dark: int  # raw pixels that `auto` takes for dark ink on light paper


class _Decoded(NamedTuple):
    images: Bytes
    rows: Ints
    rejections: list[Rejection]
    num_dark: int = 0


def required_columns(
    schema: pa.Schema, file: str, partitions: Partitions, options: ReadOptions
) -> tuple[str, ...]:
    """Name the columns of a file, or of its folders, that `read` needs.

    Raises:
        DataError: the file has no image column, or a column that was named does not fit.
    """
    images = columns.find_image_column(schema, options.image_column).names
    label = columns.find_label_column(partitions.extend(schema, file), options.label_column)
    return (*images, label) if label else images


def read(table: pa.Table, options: ReadOptions) -> tuple[Images, list[Rejection]]:
    """Read the images and labels of a table.

    Pictures are normalised, whether encoded or arrays of pixels; those in MNIST's form are left
    unchanged. `nanograd.digits.levels` has the rule for the scale of numbers.

    Returns:
        The images, with their labels, and a rejection of every other row.

    Raises:
        DataError: see `required_columns`.
    """
    column = columns.find_image_column(table.schema, options.image_column)
    found = _merge([*_read_images(table, column, options)])
    name = columns.find_label_column(table.schema, options.label_column)
    labels, bad = _read_labels(table, name)
    num_bad = int(bad[found.rows].sum())
    images = Images(found.images, found.rows, labels[found.rows], num_bad, found.num_dark)
    return images, found.rejections


def read_with(
    table: pa.Table, options: ReadOptions, retries: Sequence[ReadOptions]
) -> tuple[Images, list[Rejection]]:
    """Read a table as `read` does, and the rows that are rejected again with other options.

    Raises:
        DataError: no options fit the columns of the table.
    """
    try:
        found, rejections = read(table, options)
    except DataError as error:
        if not retries:
            raise
        rejected = range(table.num_rows)
        rejections = [Rejection(row, Reason.WRONG_SCHEMA, str(error)) for row in rejected]
        nothing = np.zeros(0, np.int64)
        found = Images(np.zeros((0, NUM_PIXELS), np.uint8), nothing, nothing.astype(np.int8), 0, 0)
    for others in retries:
        if not rejections:
            break
        rows = np.array([each.row for each in rejections], np.int64)
        try:
            more, again = read(table.take(pa.array(rows)), others)
        except DataError:
            continue
        where = np.concatenate([found.rows, rows[more.rows]])
        order = np.argsort(where)
        found = Images(
            np.concatenate([found.images, more.images])[order],
            where[order],
            np.concatenate([found.labels, more.labels])[order],
            found.num_bad_labels + more.num_bad_labels,
            found.num_dark + more.num_dark,
        )
        rejections = [replace(each, row=int(rows[each.row or 0])) for each in again]
    return found, rejections


def _read_labels(table: pa.Table, name: str | None) -> tuple[NDArray[np.int8], Mask]:
    """Return the label of each row, -1 where there is none, and which are no digit.

    Whole numbers of any type count, also as text; where classes are named, their names. -1, null,
    NaN and empty text are no label; pandas writes NaN as text, too.
    """
    if name is None:
        return np.full(table.num_rows, -1, np.int8), np.zeros(table.num_rows, np.bool_)
    array, classes = _to_array(table.column(name)), columns.class_digits(table.schema, name)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        text = pc.ascii_trim_whitespace(array)
        text = pc.if_else(pc.is_in(pc.ascii_lower(text), pa.array(["", "nan"])), None, text)
        other = pc.invert(pc.match_substring_regex(text, _LABEL_TEXT))
        array, classes = pc.if_else(other, "10", text), None  # no digit
    values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    none = np.isnan(values) | (values == -1)
    if classes is not None:
        digits = np.array([*classes, None], np.float64)  # NaN for names of no digit
        known = np.isin(values, range(len(classes)))
        values = digits[np.where(known, values, len(classes)).astype(np.int64)]
    digit = np.isin(values, range(NUM_CLASSES))
    return np.where(digit, values, -1).astype(np.int8), ~none & ~digit


def _read_images(table: pa.Table, column: ImageColumn, options: ReadOptions) -> Iterator[_Decoded]:
    arrays = [_to_array(table.column(name)) for name in column.names]
    array, tensor = arrays[0], tensor_of(table.schema.field(column.names[0]))
    match column.kind:
        case ImageKind.FLAT:
            yield from _from_pixels(pixels.from_flat_columns(arrays, tensor.scale), options)
        case ImageKind.NUMBERS:
            yield from _from_pixels(pixels.from_lists(array, tensor), options)
        case ImageKind.TENSOR:
            data, shapes = _child(array, "data"), _child(array, "shape")
            yield from _from_pixels(pixels.from_tensors(data, shapes, tensor), options)
        case ImageKind.SPARK:
            names = [name for name in array.type.names if name in columns.SPARK_FIELDS]
            children = [_child(array, name) for name in names]
            whole = pa.StructArray.from_arrays(children, names, mask=array.is_null())
            items = enumerate(whole.to_pylist())
            yield _read_each(items, partial(rows.read_spark, options=options))
        case ImageKind.ENCODED:
            yield from _from_pictures(array, options)


def _to_array(column: pa.ChunkedArray) -> pa.Array:
    """Convert a column to one array without extension type, dictionary and views."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return _without_views(array)


def _without_views(array: pa.Array) -> pa.Array:
    if pa.types.is_binary_view(array.type):
        return array.cast(pa.large_binary())
    if is_list(array.type):
        return without_views(array)
    return array.cast(pa.large_string()) if pa.types.is_string_view(array.type) else array


def _child(array: pa.StructArray, name: str) -> pa.Array:
    """Return a field, null where the struct is null."""
    return array.flatten()[array.type.get_field_index(name)]


def _from_pixels(found: Iterable[Pixels], options: ReadOptions) -> Iterator[_Decoded]:
    for pictures, numbers, rejections in found:
        dark = are_dark_on_light(pictures) if options.polarity == "auto" else np.zeros(0)
        num_dark = 0 if options.normalise == "never" else int(dark.sum())
        images, ready = rows.select_ready(_as_grey(pictures), options)
        left = np.ones(len(numbers), np.bool_)
        left[: len(ready)] = ~ready
        yield _Decoded(images, numbers[~left], rejections, num_dark)
        items = zip(numbers[left].tolist(), pictures[left], strict=True)
        yield _read_each(items, partial(rows.read_array, options=options))


def _as_grey(pictures: Bytes) -> Bytes:
    """Return pictures of 28 x 28 without colour as (n, 784); none of others."""
    if pictures.shape[1:3] != (SIDE, SIDE) or pictures.shape[3] == 4:
        return np.zeros((0, NUM_PIXELS), np.uint8)
    if pictures.shape[3] == 3 and (pictures != pictures[..., :1]).any():
        return np.zeros((0, NUM_PIXELS), np.uint8)
    return pictures[..., 0].reshape(len(pictures), NUM_PIXELS)


def are_dark_on_light(pictures: Bytes) -> Mask:
    """Test pictures, (n, height, width, channels), for bright corners: no ink reaches them."""
    height, width = pictures.shape[1:3]
    corners = pictures[:, :: max(height - 1, 1), :: max(width - 1, 1)]
    bright: Mask = corners.mean(axis=(1, 2, 3)) > 127
    return bright


def _from_pictures(array: pa.Array, options: ReadOptions) -> Iterator[_Decoded]:
    paths: Sequence[str | None] = [None] * len(array)
    if pa.types.is_struct(array.type):
        names = array.type.names
        if "path" in names and columns.is_text(array.type.field("path").type):
            paths = to_python(_child(array, "path"))
        nothing = pa.nulls(len(array), pa.binary())
        array = _without_views(_child(array, "bytes")) if "bytes" in names else nothing
    files, is_pixels = array.to_pylist(), pa.types.is_fixed_size_binary(array.type)
    raw = np.array(
        [data is not None and (is_pixels or rows.is_raw(data)) for data in files], np.bool_
    )
    numbers = np.flatnonzero(raw)
    yield from _from_pixels([pixels.from_raw([files[row] for row in numbers], numbers)], options)
    encoded = [None if is_raw else data for is_raw, data in zip(raw, files, strict=True)]
    images, plain = rows.read_plain(encoded, options)
    yield _Decoded(images, np.flatnonzero(plain), [])

    def read_row(row: int) -> Bytes:
        path = paths[row] if files[row] is None else None
        if not path:
            return rows.read_encoded(files[row], options)
        if options.image_root:
            return rows.read_file(path, options)
        detail = f"the row has no bytes but a path, {path}, which --image-root would allow to read"
        raise UnreadableError(Reason.NO_BYTES, detail)

    yield _read_each(((row, row) for row in np.flatnonzero(~plain & ~raw).tolist()), read_row)


def _read_each(items: Iterable[tuple[int, Item]], read_item: Callable[[Item], Bytes]) -> _Decoded:
    """Read each row, one by one."""
    images, numbers, rejections = [], [], []
    for row, item in items:
        try:
            images.append(read_item(item))
            numbers.append(row)
        except UnreadableError as error:
            rejections.append(Rejection(row, error.reason, error.detail))
    stacked = np.stack(images) if images else np.zeros((0, NUM_PIXELS), np.uint8)
    return _Decoded(stacked, np.array(numbers, np.int64), rejections)


def _merge(parts: Sequence[_Decoded]) -> _Decoded:
    """Put rows that were read in several ways in their order."""
    nothing = _Decoded(np.zeros((0, NUM_PIXELS), np.uint8), np.zeros(0, np.int64), [])
    filled = [part for part in parts if len(part.rows)] or [nothing]
    rejections = [each for part in parts for each in part.rejections]
    num_dark = sum(part.num_dark for part in parts)
    if len(filled) == 1:
        images, numbers = filled[0].images, filled[0].rows
    else:
        numbers = np.concatenate([part.rows for part in filled])
        order = np.argsort(numbers)
        images, numbers = np.concatenate([part.images for part in filled])[order], numbers[order]
    rejections.sort(key=lambda each: each.row or 0)
    return _Decoded(images, numbers, rejections, num_dark)
