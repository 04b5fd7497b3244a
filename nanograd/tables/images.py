"""Images and labels from Arrow columns.

A row that cannot be read is rejected with its reason and does not affect other rows. A path in a
table is followed only where `image_root` allows it.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nanograd.data.dataset import NUM_PIXELS, SIDE
from nanograd.errors import Reason, Rejection, UnreadableError
from nanograd.tables import columns, rows
from nanograd.tables.columns import ImageColumn, ImageKind, is_list
from nanograd.tables.rows import ReadOptions

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Item = TypeVar("Item")


class Images(NamedTuple):
    """The images of a table."""

    images: Bytes  # (n, 784) uint8, ink 255 on 0; may be a read-only view of Arrow's memory
    rows: Ints  # (n,) int64, the row of each; increasing
    labels: NDArray[np.int8]  # (n,) int8, -1 where there is none


class _Decoded(NamedTuple):
    images: Bytes
    rows: Ints
    rejections: list[Rejection]


def required_columns(
    schema: pa.Schema, file: str, partitions: pa.Schema, options: ReadOptions
) -> tuple[str, ...]:
    """Name the columns of a file, or of its folders, that `read` needs.

    Raises:
        DataError: the file has no image column, or a column that was named does not fit.
    """
    images = columns.find_image_column(schema, options.image_column).names
    table = columns.add_partitions(schema.empty_table(), file, partitions)
    label = columns.find_label_column(table.schema, options.label_column)
    return (*images, label) if label else images


def read(table: pa.Table, options: ReadOptions) -> tuple[Images, list[Rejection]]:
    """Read the images and labels of a table.

    Encoded pictures are normalised, which leaves those in MNIST's form unchanged; numbers and raw
    bytes are in MNIST's form by definition. Numbers up to 1 in a row are shares of full ink.

    Returns:
        The images that have a digit for a label, or none, and a rejection of every other row.

    Raises:
        DataError: see `required_columns`.
    """
    column = columns.find_image_column(table.schema, options.image_column)
    images, kept, rejections = _read_images(table, column, options)
    name = columns.find_label_column(table.schema, options.label_column)
    labels, bad_labels = _read_labels(table, name)
    if bad_labels:
        bad = {each.row for each in bad_labels}
        good = np.array([row not in bad for row in kept.tolist()], dtype=bool)
        images, kept = images[good], kept[good]
        rejections = [*bad_labels, *(each for each in rejections if each.row not in bad)]
    return Images(images, kept, labels[kept]), rejections


def _read_labels(table: pa.Table, name: str | None) -> tuple[NDArray[np.int8], list[Rejection]]:
    if name is None:
        return np.full(table.num_rows, -1, np.int8), []
    array = _to_array(table.column(name)).cast(pa.int64(), safe=False)
    values = array.fill_null(0).to_numpy()
    labels = np.where(_is_null(array), -1, values.clip(0, 9)).astype(np.int8)
    return labels, [
        Rejection(int(row), Reason.BAD_LABEL, f"the label is {values[row]}, not 0 to 9")
        for row in np.flatnonzero((values < 0) | (values > 9))
    ]


def _read_images(table: pa.Table, column: ImageColumn, options: ReadOptions) -> _Decoded:
    arrays = [_to_array(table.column(name)) for name in column.names]
    if column.kind == ImageKind.FLAT:
        null = np.any([_is_null(array) for array in arrays], axis=0)
        pixels = [array.fill_null(0).to_numpy(zero_copy_only=False) for array in arrays]
        numbers = _from_numbers(np.stack(pixels, axis=1)[~null], ~null, "a pixel is null")
        return _normalise_numbers(numbers, options)
    [array] = arrays
    if column.kind == ImageKind.NUMBERS:
        return _normalise_numbers(_from_lists(array), options)
    if column.kind == ImageKind.TENSOR:
        return _normalise_numbers(_from_lists(_child(array, "data")), options)
    if column.kind == ImageKind.SPARK:
        names = [name for name in array.type.names if name in columns.SPARK_FIELDS]
        children = [_child(array, name) for name in names]
        whole = pa.StructArray.from_arrays(children, names, mask=array.is_null())
        return _read_each(enumerate(whole.to_pylist()), partial(rows.read_spark, options=options))
    return _from_pictures(array, options)


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
    return array.cast(pa.large_binary()) if pa.types.is_binary_view(array.type) else array


def _child(array: pa.StructArray, name: str) -> pa.Array:
    """Return a field, null where the struct is null."""
    return array.flatten()[array.type.get_field_index(name)]


def _is_null(array: pa.Array) -> Mask:
    mask: Mask = array.is_null().to_numpy(zero_copy_only=False)
    return mask


def _from_pictures(array: pa.Array, options: ReadOptions) -> _Decoded:
    paths: list[str | None] = [None] * len(array)
    if pa.types.is_struct(array.type):
        if options.image_root and array.type.get_field_index("path") >= 0:
            paths = _child(array, "path").to_pylist()
        array = _without_views(_child(array, "bytes"))
    files = array.to_pylist()
    if files and all(data is not None and rows.is_raw(data) for data in files):
        pixels = np.frombuffer(b"".join(files), np.uint8).reshape(-1, NUM_PIXELS)
        return _normalise_numbers(_Decoded(pixels, np.arange(len(files)), []), options)

    def read_row(row: int) -> Bytes:
        path = paths[row] if files[row] is None else None
        return rows.read_file(path, options) if path else rows.read_encoded(files[row], options)

    plain, which = rows.read_plain(files, options)
    if which.all():
        return _Decoded(plain, np.arange(len(files)), [])
    others = _read_each(((row, row) for row in np.flatnonzero(~which).tolist()), read_row)
    numbers = np.concatenate([np.flatnonzero(which), others.rows])
    order = np.argsort(numbers)
    images = np.concatenate([plain, others.images])[order]
    return _Decoded(images, numbers[order], others.rejections)


def _read_each(items: Iterable[tuple[int, Item]], read_item: Callable[[Item], Bytes]) -> _Decoded:
    """Read items, each given with its row, one by one."""
    images, numbers, rejections = [], [], []
    for row, item in items:
        try:
            images.append(read_item(item))
            numbers.append(row)
        except UnreadableError as error:
            rejections.append(Rejection(row, error.reason, error.detail))
    stacked = np.stack(images) if images else np.zeros((0, NUM_PIXELS), np.uint8)
    return _Decoded(stacked, np.array(numbers, np.int64), rejections)


def _normalise_numbers(numbers: _Decoded, options: ReadOptions) -> _Decoded:
    """Normalise images that are in MNIST's form by definition, if all shall be normalised."""
    if options.normalise != "always":
        return numbers
    items = zip(numbers.rows.tolist(), numbers.images, strict=True)
    done = _read_each(items, partial(rows.read_pixels, options=options))
    return done._replace(rejections=[*numbers.rejections, *done.rejections])


def _from_lists(array: pa.Array) -> _Decoded:
    whole = _count_leaves(array) == NUM_PIXELS
    flat = array if whole.all() else array.filter(pa.array(whole))
    while is_list(flat.type):
        flat = flat.flatten()
    values = flat.fill_null(0).to_numpy(zero_copy_only=False).reshape(-1, NUM_PIXELS)
    if flat.null_count:
        null = _is_null(flat).reshape(-1, NUM_PIXELS).any(axis=1)
        whole[np.flatnonzero(whole)[null]] = False
        values = values[~null]
    return _from_numbers(values, whole, "the row does not hold 28 x 28 numbers")


def _count_leaves(array: pa.Array) -> Ints:
    """Count the numbers in each row of nested lists; lists of other lengths count as none."""
    lengths = pc.list_value_length(array).fill_null(0).to_numpy().astype(np.int64)
    total = lengths
    if is_list(array.type.value_type):
        below = _count_leaves(array.flatten())
        owner = np.repeat(np.arange(len(array)), lengths)
        total = np.bincount(owner, below, len(array)).astype(np.int64)
    return np.where(np.isin(lengths, (1, SIDE, NUM_PIXELS)), total, 0)


def _from_numbers(values: NDArray[Any], whole: Mask, otherwise: str) -> _Decoded:
    """Convert numbers of the whole rows, (n, 784), to bytes; reject the other rows."""
    kept, others = np.flatnonzero(whole), np.flatnonzero(~whole)
    rejections = [Rejection(int(row), Reason.WRONG_SHAPE, otherwise) for row in others]
    if values.dtype != np.uint8:
        with np.errstate(invalid="ignore"):
            least, most = values.min(axis=1, initial=0), values.max(axis=1, initial=0)
            good = (least >= 0) & (most <= 255)  # false for NaN too
        detail = "a pixel is not a number from 0 to 255"
        rejections += [Rejection(int(row), Reason.BAD_PIXEL, detail) for row in kept[~good]]
        values, kept, most = values[good], kept[good], most[good]
        values = np.rint(np.where(most[:, None] <= 1, values * 255, values))
    return _Decoded(values.astype(np.uint8, copy=False), kept, rejections)
