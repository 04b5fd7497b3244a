"""The columns of a table that hold images and labels, found by the Arrow schema alone.

Recognised: an encoded picture as `struct<bytes, path>` (Hugging Face) or binary; 784 raw bytes; 784
numbers as a list, a nested 28 x 28 list or a tensor; Spark's image struct; 784 flat columns. A
pickled column is refused. Folders named `name=value` are columns, too.

References:
    Apache Spark, "Image data source" (origin, height, width, nChannels, mode, data; data is BGR);
    Apache Arrow, "Canonical extension types" (fixed and variable shape tensor).
"""

import re
from collections.abc import Iterable
from enum import Enum, auto
from typing import NamedTuple
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
# Values of folders: whole numbers that fit, and what Hive writes for null.
_INT64 = re.compile(r"(?=.{1,18}$)-?[0-9]+")
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


class ImageKind(Enum):
    """How a column holds images."""

    ENCODED = auto()  # picture files, or 784 raw bytes
    NUMBERS = auto()  # lists
    TENSOR = auto()  # numbers beside their shape
    SPARK = auto()
    FLAT = auto()  # a column for each pixel


class ImageColumn(NamedTuple):
    """The column of the images."""

    kind: ImageKind  # how it holds them
    names: tuple[str, ...]  # of the column, or of 784 in the order of the pixels


def find_image_column(schema: pa.Schema, name: str | None = None) -> ImageColumn:
    """Find the image column of a table, by its name or by its type.

    Raises:
        DataError: no column, or several, can be meant, or it is pickled.
    """
    listed = ", ".join(schema.names)
    if name is not None and name not in schema.names:
        raise DataError(f"there is no column {name!r} among {listed}")
    if len(set(schema.names)) < len(schema.names):
        raise DataError(f"two columns have the same name among {listed}")
    fields = schema if name is None else [schema.field(name)]
    found = {field.name: kind for field in fields if (kind := _kind(field))}
    if not found and (flat := _flat_columns(schema)):
        return ImageColumn(ImageKind.FLAT, flat)
    usual = [each for each in found if each.lower() in IMAGE_NAMES]
    chosen = usual[:1] or (list(found) if len(found) == 1 else [])
    if not chosen:
        raise DataError(
            f"no image column is recognised among {listed}; name one with --image-column"
        )
    return ImageColumn(found[chosen[0]], (chosen[0],))


def find_label_column(schema: pa.Schema, name: str | None = None) -> str | None:
    """Find the label column of a table, of whole numbers, by its name or by the usual names.

    Raises:
        DataError: the named column does not exist or holds no whole numbers.
    """
    if name is None:
        usual = [each for each in schema.names if each.lower() in LABEL_NAMES]
        return next((each for each in usual if _is_whole(schema.field(each).type)), None)
    if name not in schema.names or not _is_whole(schema.field(name).type):
        raise DataError(
            f"{name!r} is not a column of whole numbers among {', '.join(schema.names)}"
        )
    return name


def _kind(field: pa.Field) -> ImageKind | None:
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
    if is_binary(type_):
        return ImageKind.ENCODED
    return ImageKind.NUMBERS if is_list(type_) and _is_number(_leaf(type_)) else None


def _kind_of_struct(fields: dict[str, pa.DataType]) -> ImageKind | None:
    if set(SPARK_FIELDS) <= set(fields):
        return ImageKind.SPARK if is_binary(fields["data"]) else None
    if "bytes" in fields:
        return ImageKind.ENCODED if is_binary(fields["bytes"]) else None
    if set(fields) == {"data", "shape"}:
        return ImageKind.TENSOR if is_list(fields["data"]) and is_list(fields["shape"]) else None
    return None


def _flat_columns(schema: pa.Schema) -> tuple[str, ...] | None:
    names = [field.name for field in schema if _is_number(field.type)]
    for pattern in _FLAT:
        matches = {name: match for name in names if (match := pattern.fullmatch(name))}
        if len(matches) == NUM_PIXELS:
            return tuple(sorted(matches, key=lambda name: [*map(int, matches[name].groups())]))
    return None


def is_binary(type_: pa.DataType) -> bool:
    """Test for any of Arrow's binary types."""
    is_ = pa.types
    tests = (is_.is_binary, is_.is_large_binary, is_.is_fixed_size_binary, is_.is_binary_view)
    return any(test(type_) for test in tests)


def is_list(type_: pa.DataType) -> bool:
    """Test for any of Arrow's list types."""
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(type_) for test in tests)


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))


def _is_whole(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_.value_type if pa.types.is_dictionary(type_) else type_))


def _leaf(type_: pa.DataType) -> pa.DataType:
    return _leaf(type_.value_type) if is_list(type_) else type_


# Not by pyarrow.dataset.HivePartitioning: it parses only names of a given schema, and what it
# infers by itself is int32, which would change the ids and output of jobs begun before.
def partition_values(file: str) -> dict[str, str | None]:
    """Parse the partition columns of a file from its folders.

    >>> partition_values("s3://bucket/year=2026/writer=O%27Hara/part-0.parquet")
    {'year': '2026', 'writer': "O'Hara"}
    """
    pairs = (folder.partition("=") for folder in file.split("/")[:-1])
    return {
        unquote(name): None if value == _HIVE_NULL else unquote(value)
        for name, equals, value in pairs
        if equals and name
    }


def partition_schema(files: Iterable[str]) -> pa.Schema:
    """Infer the partition columns of all files: int64 if every value is a whole number, else text.

    >>> partition_schema(["a/year=2026/x.parquet", "a/year=2027/writer=ann/x.parquet"]).types
    [DataType(int64), DataType(string)]
    """
    types: dict[str, pa.DataType] = {}
    for file in files:
        for name, value in partition_values(file).items():
            types.setdefault(name, pa.int64())
            if value is not None and not _INT64.fullmatch(value):
                types[name] = pa.string()
    return pa.schema(types.items())


def add_partitions(table: pa.Table, file: str, partitions: pa.Schema) -> pa.Table:
    """Append to rows of a file those columns of `partition_schema` that only its folders have."""
    values = partition_values(file)
    for field in partitions:
        if field.name in values and field.name not in table.column_names:
            text = values[field.name]
            value = int(text) if text is not None and field.type == pa.int64() else text
            column = pa.repeat(pa.scalar(value, field.type), table.num_rows)
            table = table.append_column(field, column)
    return table
