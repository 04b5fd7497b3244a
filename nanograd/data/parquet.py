"""From Arrow columns to images: every accepted kind of image column, and the output's schemas.

Recognised from the schema alone: an encoded picture as `struct<bytes, path>` (Hugging Face) or
binary; 784 raw bytes; 784 numbers as a list, a nested 28 x 28 list or a tensor; 784 flat columns.
A path is never followed, a pickled column is refused. A row that cannot be read is rejected with
its reason and touches no other row.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nanograd.data import handwriting, pictures
from nanograd.data.dataset import NUM_PIXELS
from nanograd.data.pictures import UnreadableError
from nanograd.errors import DataError

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

IMAGE_NAMES = ("image", "img", "picture", "pixels", "bytes", "data")
LABEL_NAMES = ("label", "digit", "target", "y")

# Spellings of 784 flat columns: pixel0 ... pixel783 (or from 1), 1x1 ... 28x28.
_FLAT = (re.compile(r"pixel_?(\d+)"), re.compile(r"(\d+)x(\d+)"))
_PICKLED = "arrow_pickled_object"
# First bytes of the accepted picture formats; 784 bytes that begin otherwise are raw pixels.
_PICTURE_STARTS = (
    b"\x89PNG",
    b"\xff\xd8",
    b"GIF8",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"RIFF",
    b"P5",
    b"P6",
)

Images = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class ImageColumn:
    """Where the images are.

    Args:
        kind: encoded (pictures, or 784 raw bytes), numbers, or flat.
        names: of the column, or of the 784 in the order of the pixels.
    """

    kind: str
    names: tuple[str, ...]


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


def find_image_column(schema: pa.Schema, override: str | None = None) -> ImageColumn:
    """The image column of a table.

    Args:
        schema: of the table.
        override: its name, if the user said so.

    Raises:
        DataError: there is none, more than one that could be meant, or it is pickled.
    """
    names = list(schema.names) if override is None else [override]
    if override is not None and override not in schema.names:
        raise DataError(f"there is no column {override!r} among {', '.join(schema.names)}")
    found = {name: kind for name in names if (kind := _kind(schema.field(name)))}
    if not found and (flat := _flat_columns(schema.names)):
        return ImageColumn("flat", flat)
    usual = [name for name in found if name.lower() in IMAGE_NAMES]
    chosen = usual[:1] or (list(found) if len(found) == 1 else [])
    if not chosen:
        raise DataError(
            f"no image column is recognised among {', '.join(schema.names)}; "
            "name one with --image-column"
        )
    return ImageColumn(found[chosen[0]], (chosen[0],))


def find_label_column(schema: pa.Schema, override: str | None = None) -> str | None:
    """The label column of a table: whole numbers, by its usual names or the user's word.

    Raises:
        DataError: the column that the user named is not there or holds no whole numbers.
    """
    if override is None:
        usual = [name for name in schema.names if name.lower() in LABEL_NAMES]
        return next((name for name in usual if pa.types.is_integer(schema.field(name).type)), None)
    if override not in schema.names or not pa.types.is_integer(schema.field(override).type):
        raise DataError(
            f"{override!r} is no column of whole numbers among {', '.join(schema.names)}"
        )
    return override


def read_images(table: pa.Table, column: ImageColumn, *, polarity: str, max_pixels: int) -> Decoded:
    """All images of a table, and what could not be read.

    Encoded pictures pass the normaliser, which leaves those alone that have MNIST's form; numbers
    and raw bytes are MNIST's form by definition. Numbers up to 1 in a row are shares of full ink.

    Args:
        table: n rows.
        column: from `find_image_column`.
        polarity: of encoded pictures: auto, dark-on-light or light-on-dark.
        max_pixels: of encoded pictures.
    """
    if column.kind == "flat":
        arrays = [_single(table.column(name)) for name in column.names]
        null = np.any([_is_null(array) for array in arrays], axis=0)
        columns = [array.fill_null(0).to_numpy(zero_copy_only=False) for array in arrays]
        return _from_numbers(np.stack(columns, axis=1)[~null], ~null, "a pixel is null")
    array = _single(table.column(column.names[0]))
    if column.kind == "numbers":
        return _from_lists(array)
    if pa.types.is_struct(array.type):
        # flatten() hands a null of the struct down to its children.
        array = array.flatten()[array.type.get_field_index("bytes")]
    if _all_raw(array):
        flat = np.frombuffer(b"".join(array.to_pylist()), np.uint8)
        return Decoded(flat.reshape(-1, NUM_PIXELS), np.arange(len(array)), [])
    return _from_bytes(array, lambda data: _picture(data, polarity, max_pixels))


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


def _kind(field: pa.Field) -> str | None:
    type_, metadata = field.type, field.metadata or {}
    extension = getattr(type_, "extension_name", "") or metadata.get(
        b"ARROW:extension:name", b""
    ).decode(errors="replace")
    if _PICKLED in extension:
        raise DataError(f"column {field.name!r} holds pickled objects, which are never loaded")
    if isinstance(type_, pa.BaseExtensionType):
        type_ = type_.storage_type
    if pa.types.is_struct(type_) and type_.get_field_index("bytes") >= 0:
        type_ = type_.field("bytes").type
        return "encoded" if _is_binary(type_) else None
    if _is_binary(type_):
        return "encoded"
    return "numbers" if _is_list(type_) and _is_number(_leaf(type_)) else None


def _is_binary(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(type_)
        or pa.types.is_large_binary(type_)
        or pa.types.is_fixed_size_binary(type_)
    )


def _is_list(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(type_)
        or pa.types.is_large_list(type_)
        or pa.types.is_fixed_size_list(type_)
    )


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))


def _leaf(type_: pa.DataType) -> pa.DataType:
    return _leaf(type_.value_type) if _is_list(type_) else type_


def _flat_columns(names: Sequence[str]) -> tuple[str, ...] | None:
    for pattern in _FLAT:
        places = {name: match for name in names if (match := pattern.fullmatch(name))}
        ordered = sorted(places, key=lambda name: [int(part) for part in places[name].groups()])
        if len(ordered) == NUM_PIXELS:
            return tuple(ordered)
    return None


def _single(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _is_null(array: pa.Array) -> Mask:
    mask: Mask = array.is_null().to_numpy(zero_copy_only=False)
    return mask


def _all_raw(array: pa.Array) -> bool:
    """Whether every row is 784 bytes that are no picture file."""
    if array.null_count or not len(array):
        return False
    if not pc.all(pc.equal(pc.binary_length(array), NUM_PIXELS)).as_py():
        return False
    return not any(data.startswith(_PICTURE_STARTS) for data in array.to_pylist())


def _from_bytes(array: pa.Array, decode: Callable[[bytes], Images]) -> Decoded:
    images, rows, rejects = [], [], []
    for row, scalar in enumerate(array):
        data = scalar.as_py()
        try:
            if data is None:
                raise UnreadableError("no_bytes", "the picture's bytes are null")
            images.append(decode(data))
            rows.append(row)
        except UnreadableError as error:
            rejects.append(Reject(row, error.reason, error.detail))
    stacked = np.stack(images) if images else np.zeros((0, NUM_PIXELS), np.uint8)
    return Decoded(stacked, np.array(rows, np.int64), rejects)


def _picture(data: bytes, polarity: str, max_pixels: int) -> Images:
    if len(data) == NUM_PIXELS and not data.startswith(_PICTURE_STARTS):
        return np.frombuffer(data, np.uint8)
    picture = pictures.decode(data, max_pixels=max_pixels)
    return handwriting.normalise(picture, polarity=polarity).reshape(NUM_PIXELS)


def _from_lists(array: pa.Array) -> Decoded:
    whole = _leaf_counts(array) == NUM_PIXELS
    flat = array if whole.all() else array.filter(pa.array(whole))
    while _is_list(flat.type):
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
    if _is_list(array.type.value_type):
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
