"""From Arrow columns to images and labels; the schemas of what predictions are written as.

A path in a table is followed only where that was allowed. A row that cannot be read is rejected
with its reason and touches no other row.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nanograd.data.dataset import NUM_PIXELS
from nanograd.tables.columns import SPARK_FIELDS, ImageColumn, is_list
from nanograd.tables.rows import PICTURE_STARTS, Reading, read_each

PREDICTIONS = pa.schema(
    [
        ("source_file", pa.string()),
        ("source_row", pa.int64()),
        ("prediction", pa.int8()),
        ("confidence", pa.float32()),
        ("scores", pa.list_(pa.float32(), 10)),
        ("label", pa.int8()),
    ]
)

QUARANTINE = pa.schema(
    [
        ("source_file", pa.string()),
        ("source_row", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)

Images = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class Reject(NamedTuple):
    """A row that cannot be predicted.

    Args:
        row: its position in the table that was read; None for a whole file.
        reason: short and stable.
        detail: one sentence for a person.
    """

    row: int | None
    reason: str
    detail: str


class Decoded(NamedTuple):
    """The images of a table.

    Args:
        images: (n, 784) uint8, ink 255 on 0; may be a read-only view of Arrow's memory.
        rows: (n,) int64, the row of each; increasing.
        rejects: the other rows.
    """

    images: Images
    rows: NDArray[np.int64]
    rejects: list[Reject]


def read_images(table: pa.Table, column: ImageColumn, reading: Reading) -> Decoded:
    """All images of a table, and what could not be read.

    Encoded pictures pass the normaliser, which leaves those alone that have MNIST's form; numbers
    and raw bytes are MNIST's form by definition. Numbers up to 1 in a row are shares of full ink.

    Args:
        table: n rows.
        column: from `find_image_column`.
        reading: what pictures pass on their way.
    """
    if column.kind == "flat":
        arrays = [_single(table.column(name)) for name in column.names]
        null = np.any([_is_null(array) for array in arrays], axis=0)
        columns = [array.fill_null(0).to_numpy(zero_copy_only=False) for array in arrays]
        numbers = _from_numbers(np.stack(columns, axis=1)[~null], ~null, "a pixel is null")
        return _normalised(numbers, reading)
    array = _single(table.column(column.names[0]))
    if column.kind == "numbers":
        return _normalised(_from_lists(array), reading)
    if column.kind == "tensor":
        return _normalised(_from_lists(_child(array, "data")), reading)
    if column.kind == "spark":
        names = [name for name in array.type.names if name in SPARK_FIELDS]
        children = [_child(array, name) for name in names]
        whole = pa.StructArray.from_arrays(children, names, mask=array.is_null())
        return _each(whole.to_pylist(), reading.spark)
    return _from_pictures(array, reading)


def read_labels(table: pa.Table, name: str | None) -> tuple[NDArray[np.int8], list[Reject]]:
    """Labels of a table's rows.

    Args:
        table: n rows.
        name: from `find_label_column`.

    Returns:
        labels: (n,) int8, -1 where there is none.
        rejects: rows whose label is no digit.
    """
    if name is None:
        return np.full(table.num_rows, -1, np.int8), []
    array = _single(table.column(name)).cast(pa.int64(), safe=False)
    null, values = _is_null(array), array.fill_null(0).to_numpy()
    bad = np.flatnonzero((values < 0) | (values > 9))
    labels = np.where(null, -1, values.clip(0, 9)).astype(np.int8)
    return labels, [
        Reject(int(row), "bad_label", f"the label is {values[row]}, not 0 to 9") for row in bad
    ]


def _single(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(pa.large_binary()) if pa.types.is_binary_view(array.type) else array


def _child(array: pa.StructArray, name: str) -> pa.Array:
    """A field; flatten() hands a null of the struct down to it."""
    return array.flatten()[array.type.get_field_index(name)]


def _is_null(array: pa.Array) -> Mask:
    mask: Mask = array.is_null().to_numpy(zero_copy_only=False)
    return mask


def _from_pictures(array: pa.Array, reading: Reading) -> Decoded:
    paths: list[str | None] = [None] * len(array)
    if pa.types.is_struct(array.type):
        if reading.image_root and array.type.get_field_index("path") >= 0:
            paths = _child(array, "path").to_pylist()
        array = _child(array, "bytes")
    if pa.types.is_binary_view(array.type):
        array = array.cast(pa.large_binary())
    if _all_raw(array):
        flat = np.frombuffer(b"".join(array.to_pylist()), np.uint8).reshape(-1, NUM_PIXELS)
        return _normalised(Decoded(flat, np.arange(len(array)), []), reading)

    files = array.to_pylist()
    images, plain = reading.plain(files)
    if plain.all():
        return Decoded(images, np.arange(len(files)), [])
    return _merged(images, plain, _one_by_one(files, paths, np.flatnonzero(~plain), reading))


def _one_by_one(
    files: list[bytes | None],
    paths: list[str | None],
    rows: NDArray[np.int64],
    reading: Reading,
) -> Decoded:
    def read(row: int) -> Images:
        path = paths[row] if files[row] is None else None
        return reading.followed(path) if path else reading.encoded(files[row])

    images, kept, rejects = _each(rows.tolist(), read)
    return Decoded(images, rows[kept], [each._replace(row=int(rows[each.row])) for each in rejects])


def _merged(images: Images, plain: Mask, others: Decoded) -> Decoded:
    """Pictures read at once and pictures read one by one, in the order of the rows."""
    if not len(images):
        return others
    rows = np.concatenate([np.flatnonzero(plain), others.rows])
    order = np.argsort(rows)
    return Decoded(np.concatenate([images, others.images])[order], rows[order], others.rejects)


def _all_raw(array: pa.Array) -> bool:
    """Whether every row is 784 bytes that are no picture file."""
    if array.null_count or not len(array):
        return False
    if not pc.all(pc.equal(pc.binary_length(array), NUM_PIXELS)).as_py():
        return False
    return not any(data.startswith(PICTURE_STARTS) for data in array.to_pylist())


def _each(rows: list[Any], read: Callable[[Any], Images]) -> Decoded:
    images, numbers, refused = read_each(rows, read)
    rejects = [Reject(row, error.reason, error.detail) for row, error in refused]
    return Decoded(images, numbers, rejects)


def _normalised(numbers: Decoded, reading: Reading) -> Decoded:
    """Pixels that are MNIST's form by definition: as they are, unless all shall be normalised."""
    if not reading.always:
        return numbers
    images, kept, rejects = _each(list(numbers.images), reading.numbers)
    rows = numbers.rows
    refused = [each._replace(row=int(rows[each.row])) for each in rejects]
    return Decoded(images, rows[kept], [*numbers.rejects, *refused])


def _from_lists(array: pa.Array) -> Decoded:
    whole = _leaf_counts(array) == NUM_PIXELS
    flat = array if whole.all() else array.filter(pa.array(whole))
    while is_list(flat.type):
        flat = flat.flatten()
    values = flat.fill_null(0).to_numpy(zero_copy_only=False).reshape(-1, NUM_PIXELS)
    if flat.null_count:
        null = _is_null(flat).reshape(-1, NUM_PIXELS).any(axis=1)
        whole[np.flatnonzero(whole)[null]] = False
        values = values[~null]
    return _from_numbers(values, whole, "the row does not hold 28 x 28 numbers")


def _leaf_counts(array: pa.Array) -> NDArray[np.int64]:
    """How many numbers each row of nested lists holds; lists of odd lengths count as none."""
    lengths = pc.list_value_length(array).fill_null(0).to_numpy().astype(np.int64)
    total = lengths
    if is_list(array.type.value_type):
        below = _leaf_counts(array.flatten())
        owner = np.repeat(np.arange(len(array)), lengths)
        total = np.bincount(owner, below, len(array)).astype(np.int64)
    return np.where(np.isin(lengths, (1, 28, NUM_PIXELS)), total, 0)


def _from_numbers(values: NDArray[Any], whole: Mask, otherwise: str) -> Decoded:
    """Numbers of the whole rows, (n, 784), as bytes; rows that are not whole are rejected."""
    rows = np.flatnonzero(whole)
    rejects = [Reject(int(row), "wrong_shape", otherwise) for row in np.flatnonzero(~whole)]
    if values.dtype != np.uint8:
        with np.errstate(invalid="ignore"):
            least, most = values.min(axis=1, initial=0), values.max(axis=1, initial=0)
            good = (least >= 0) & (most <= 255)  # false for NaN too
        detail = "a pixel is not a number from 0 to 255"
        rejects += [Reject(int(row), "bad_pixel", detail) for row in rows[~good]]
        values, rows, most = values[good], rows[good], most[good]
        values = np.rint(np.where(most[:, None] <= 1, values * 255, values))
    return Decoded(values.astype(np.uint8, copy=False), rows, rejects)
