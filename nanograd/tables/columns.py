"""Which column of a table holds the images, told from the Arrow schema alone.

Recognised: an encoded picture as `struct<bytes, path>` (Hugging Face) or binary; 784 raw bytes; 784
numbers as a list, a nested 28 x 28 list or a tensor; Spark's image struct; 784 flat columns. A
pickled column is refused.

References:
    Apache Spark, "Image data source" (origin, height, width, nChannels, mode, data; data is BGR);
    Apache Arrow, "Canonical extension types" (fixed and variable shape tensor).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow as pa

from nanograd.data.dataset import NUM_PIXELS
from nanograd.errors import DataError

IMAGE_NAMES = ("image", "img", "picture", "pixels", "bytes", "data")
LABEL_NAMES = ("label", "digit", "target", "y")

# Spellings of 784 flat columns: pixel0 ... pixel783 (or from 1), 1x1 ... 28x28.
_FLAT = (re.compile(r"pixel_?(\d+)"), re.compile(r"(\d+)x(\d+)"))
SPARK_FIELDS = ("height", "width", "nChannels", "data")
_PICKLED = "arrow_pickled_object"


@dataclass(frozen=True)
class ImageColumn:
    """Where the images are.

    Args:
        kind: encoded (pictures, or 784 raw bytes), numbers, tensor (numbers beside their shape),
            spark, or flat.
        names: of the column, or of the 784 in the order of the pixels.
    """

    kind: str
    names: tuple[str, ...]


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
    if len(set(schema.names)) < len(schema.names):
        raise DataError(f"two columns have the same name among {', '.join(schema.names)}")
    found = {name: kind for name in names if (kind := _kind(schema.field(name)))}
    numbers = [each.name for each in schema if _is_number(each.type)]
    if not found and (flat := _flat_columns(numbers)):
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
        return next((name for name in usual if _is_whole(schema.field(name).type)), None)
    if override not in schema.names or not _is_whole(schema.field(override).type):
        raise DataError(
            f"{override!r} is no column of whole numbers among {', '.join(schema.names)}"
        )
    return override


def _kind(field: pa.Field) -> str | None:
    type_, metadata = field.type, field.metadata or {}
    extension = getattr(type_, "extension_name", "") or metadata.get(
        b"ARROW:extension:name", b""
    ).decode(errors="replace")
    if _PICKLED in extension:
        raise DataError(f"column {field.name!r} holds pickled objects, which are never loaded")
    if isinstance(type_, pa.BaseExtensionType):
        type_ = type_.storage_type
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_struct(type_):
        return _kind_of_struct({each.name: each.type for each in type_.fields})
    if _is_binary(type_):
        return "encoded"
    return "numbers" if is_list(type_) and _is_number(_leaf(type_)) else None


def _kind_of_struct(fields: dict[str, pa.DataType]) -> str | None:
    if set(SPARK_FIELDS) <= set(fields):
        return "spark" if _is_binary(fields["data"]) else None
    if "bytes" in fields:
        return "encoded" if _is_binary(fields["bytes"]) else None
    if set(fields) == {"data", "shape"}:
        return "tensor" if is_list(fields["data"]) and is_list(fields["shape"]) else None
    return None


def _is_binary(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(type_)
        or pa.types.is_large_binary(type_)
        or pa.types.is_fixed_size_binary(type_)
        or pa.types.is_binary_view(type_)
    )


def is_list(type_: pa.DataType) -> bool:
    """Whether it is any of Arrow's kinds of lists."""
    return bool(
        pa.types.is_list(type_)
        or pa.types.is_large_list(type_)
        or pa.types.is_fixed_size_list(type_)
    )


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))


def _is_whole(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_.value_type if pa.types.is_dictionary(type_) else type_))


def _leaf(type_: pa.DataType) -> pa.DataType:
    return _leaf(type_.value_type) if is_list(type_) else type_


def _flat_columns(names: Sequence[str]) -> tuple[str, ...] | None:
    for pattern in _FLAT:
        places = {name: match for name in names if (match := pattern.fullmatch(name))}
        ordered = sorted(places, key=lambda name: [int(part) for part in places[name].groups()])
        if len(ordered) == NUM_PIXELS:
            return tuple(ordered)
    return None


_NULL = "__HIVE_DEFAULT_PARTITION__"


def values(place: str) -> dict[str, str | None]:
    """The columns that a file's folders say.

    >>> values("s3://bucket/year=2026/writer=O%27Hara/part-0.parquet")
    {'year': '2026', 'writer': "O'Hara"}
    """
    pairs = (folder.partition("=") for folder in place.split("/")[:-1])
    return {
        unquote(name): None if value == _NULL else unquote(value)
        for name, equals, value in pairs
        if equals and name
    }


def schema(places: Iterable[str]) -> pa.Schema:
    """The columns of all files: whole numbers where every value is one, else text.

    >>> schema(["a/year=2026/x.parquet", "a/year=2027/writer=ann/x.parquet"]).types
    [DataType(int64), DataType(string)]
    """
    found: dict[str, bool] = {}
    for place in places:
        for name, value in values(place).items():
            found[name] = found.get(name, True) and (value is None or _is_whole_number(value))
    return pa.schema(
        [(name, pa.int64() if whole else pa.string()) for name, whole in found.items()]
    )


def add_columns(table: pa.Table, place: str, partitions: pa.Schema) -> pa.Table:
    """A file's rows with the columns of its folders that it does not have itself.

    Args:
        table: n rows of the file.
        place: of the file.
        partitions: of all files of the job.
    """
    said = values(place)
    for field in partitions:
        if field.name in said and field.name not in table.column_names:
            value = said[field.name]
            if value is not None and field.type == pa.int64():
                value = int(value)  # type: ignore[assignment]
            column = pa.repeat(pa.scalar(value, field.type), table.num_rows)
            table = table.append_column(field, column)
    return table


def _is_whole_number(value: str) -> bool:
    return value.isascii() and value.removeprefix("-").isdigit() and len(value) < 19
