"""The columns of a table that hold images and labels, found without reading values.

A column can hold an image in these forms:

- the bytes of a picture file (PNG, JPEG, ...), as binary or as `struct<bytes, path>` (Hugging Face)
- 784 raw bytes, one for each pixel, as binary
- numbers, as a list, nested lists or a tensor
- Spark's image struct
- 784 number columns, one for each pixel
- the path of a picture file, as text; an option must name such a column

A column of pickled Python objects is refused. A folder `name=value` adds a column, as in Hive.

References:
    Apache Spark, "Image data source" (origin, height, width, nChannels, mode, data; data is BGR);
    Apache Arrow, "Canonical extension types" (fixed and variable shape tensor);
    Hugging Face Datasets, "Dataset features" (in the schema's metadata, as JSON).
"""

import json
import re
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa

from nanograd.digits.dataset import NUM_PIXELS, WORDS
from nanograd.errors import DataError
from nanograd.images.tensors import is_any, is_list, leaf, picture_axes, tensor_of
from nanograd.runtime.events import count
from nanograd.settings.specs import NO_LABELS, ReadOptions

# In order of precedence.
IMAGE_NAMES = ("image", "img", "picture", "pixels", "bytes", "data")
LABEL_NAMES = ("label", "digit", "target")

SPARK_FIELDS = ("height", "width", "nChannels", "data")
_PICKLED = "arrow_pickled_object"
_IMAGE_FEATURES = ("Image", "Array2D", "Array3D")
# Accepted names of 784 columns of pixels: pixel0 ... pixel783 (or from 1), 1x1 ... 28x28, px0, 0.
_FLAT = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (r"pixel_?(\d{1,4})", r"(\d\d?)x(\d\d?)", r"px_?(\d{1,4})", r"(\d{1,4})")
]
# Values in folder names: whole numbers of up to 18 characters, and what Hive writes for null.
_INT64 = re.compile(r"(?=.{1,18}$)-?[0-9]+")
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_NAMES_IN_MESSAGE = 20


class ImageKind(Enum):
    """How a column holds images."""

    ENCODED = auto()  # picture files or their paths, or 784 raw bytes
    NUMBERS = auto()  # lists of numbers, or tensors of one shape
    TENSOR = auto()  # a struct of the numbers and the shape of a tensor
    SPARK = auto()
    FLAT = auto()  # a column for each pixel


class ImageColumn(NamedTuple):
    """The column of the images."""

    kind: ImageKind
    names: tuple[str, ...]  # one column, or 784 columns in the order of the pixels
    choice: str = ""  # why it was chosen, for messages


def flat_columns(names: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names of 784 columns of pixels in the order of the pixels; None if there are none.

    >>> flat_columns(["label", *(f"pixel{number}" for number in range(783, -1, -1))])[:2]
    ('pixel0', 'pixel1')
    """
    for pattern in _FLAT if len(names) >= NUM_PIXELS else ():
        matches = {name: match for name in names if (match := pattern.fullmatch(name))}
        if len(matches) == NUM_PIXELS:
            return tuple(sorted(matches, key=lambda name: [*map(int, matches[name].groups())]))
    return None


class Columns(NamedTuple):
    """The columns of a table that are read."""

    image: ImageColumn
    label: str | None

    @property
    def names(self) -> list[str]:
        """Names of all these columns."""
        return [*self.image.names, *([self.label] if self.label else [])]


def choose(schema: pa.Schema, options: ReadOptions) -> Columns:
    """Find the columns of images and labels. The result is cached for each schema.

    Raises:
        DataError: there is no image column, or a column that the options name does not fit.
    """
    return _choose(schema.serialize().to_pybytes(), options.image_column, options.label_column)


@lru_cache(maxsize=32)
def _choose(serialized: bytes, image: str | None, label: str | None) -> Columns:
    schema = pa.ipc.read_schema(pa.BufferReader(serialized))
    return Columns(find_image_column(schema, image), find_label_column(schema, label))


def find_image_column(schema: pa.Schema, name: str | None = None) -> ImageColumn:
    """Find the image column of a table; raise DataError if none or several fit, or it is pickled.

    If a name is given, it is the image column, or the first of 784 columns with a pixel each.
    Otherwise these are tried in order: the columns that Hugging Face's metadata declares as images,
    784 columns with a pixel each, the usual names, and the only column whose type can hold images.
    """
    listed = list_names(schema.names) or "no columns"
    if len(set(schema.names)) < len(schema.names):
        raise DataError(f"two columns have the same name among {listed}")
    if name is not None and name not in schema.names:
        raise DataError(f"there is no column {name!r} among {listed}")
    fields = schema if name is None else [schema.field(name)]
    found = {field.name: kind for field in fields if (kind := _kind(field, name is not None))}
    flat = flat_columns([field.name for field in schema if _is_number(field.type)])
    features = _features(schema)
    featured = [each for each in found if features.get(each, {}).get("_type") in _IMAGE_FEATURES]
    if flat and name in (None, flat[0]) and not featured:
        if usual := _first_usual(list(found), IMAGE_NAMES):
            raise DataError(
                f"the images may be in {usual[0]} or in 784 columns from {flat[0]} on; choose with "
                f"--image-column {usual[0]} or {flat[0]}"
            )
        return ImageColumn(ImageKind.FLAT, flat, "784 columns of pixels")
    candidates = featured or list(found)
    if len(candidates) > 1:
        candidates = _first_usual(candidates, IMAGE_NAMES) or candidates
    if len(candidates) > 1:
        may = " or ".join(candidates)
        raise DataError(f"the images may be in {may}; choose with --image-column")
    if not candidates:
        about = f"no image column is recognised among {listed}; choose a column with --image-column"
        if name:
            about = f"column {name!r} holds {schema.field(name).type}, which cannot be images"
            about += "; choose another with --image-column"
        elif any(is_text(field.type) for field in schema):
            about += " (a column of paths of pictures also needs --image-root)"
        raise DataError(about)
    [chosen] = candidates
    reason = "by its name" if chosen.lower() in IMAGE_NAMES else "the only column of images"
    reason = "declared by Hugging Face's metadata" if featured else reason
    return ImageColumn(found[chosen], (chosen,), "named" if name else reason)


def find_label_column(schema: pa.Schema, name: str | None = None) -> str | None:
    """Find the label column of a table: the named one, or the first of the usual names.

    Return None for the name NO_LABELS, and if the table does not have the named column. Raise
    DataError if the named column cannot hold digits, or several columns fit.
    """
    if name == NO_LABELS or (name is not None and name not in schema.names):
        return None
    kinds = ("integer", "floating", "decimal", "string", "large_string", "string_view", "null")
    usable = [
        each.name
        for each in schema
        if is_any(each.type.value_type if is_any(each.type, "dictionary") else each.type, *kinds)
    ]
    if name is not None and name not in usable:
        raise DataError(
            f"column {name!r} holds {schema.field(name).type}, which cannot be digits; choose "
            "another --label-column"
        )
    chosen = [name] if name is not None else _first_usual(usable, LABEL_NAMES)
    if len(chosen) > 1:
        raise DataError(f"the labels may be in {' or '.join(chosen)}; choose with --label-column")
    return chosen[0] if chosen else None


def odd_labels(schema: pa.Schema) -> list[pa.Field]:
    """List the columns that are named like labels, if none of them can hold digits."""
    usual = [field for field in schema if field.name.lower() in LABEL_NAMES]
    return [] if find_label_column(schema) else usual


def list_names(names: Sequence[str]) -> str:
    """List names of columns for a message.

    >>> list_names([f"pixel{number}" for number in range(784)])[-31:]
    'pixel18, pixel19 and 764 others'
    """
    left = len(names) - _NAMES_IN_MESSAGE
    more = f" and {count(left, 'other')}" if left > 0 else ""
    return ", ".join(names[:_NAMES_IN_MESSAGE]) + more


def _first_usual(names: Sequence[str], usual: Iterable[str]) -> list[str]:
    """Return the names that equal the first usual name found, in upper or lower case."""
    matches = ([each for each in names if each.lower() == word] for word in usual)
    return next((each for each in matches if each), [])


def rename_taken(names: Sequence[str], taken: Iterable[str]) -> list[str]:
    """Rename input columns whose names equal a column of the output.

    Upper and lower case count as equal, as in SQL.

    >>> rename_taken(["id", "Label", "input_label"], ["prediction", "label"])
    ['id', 'input_input_Label', 'input_label']
    """
    own, renamed = {name.lower() for name in taken}, []
    used = {*own, *(name.lower() for name in names)}
    for each in names:
        name = each
        while each.lower() in own and name.lower() in used:
            name = f"input_{name}"
        used.add(name.lower())
        renamed.append(name)
    return renamed


def class_digits(schema: pa.Schema, name: str) -> list[int | None] | None:
    """Return the digits that the class numbers of a Hugging Face `ClassLabel` mean, by number.

    The digit is None for a class whose name is no digit. The result is None for other columns.
    """
    feature = _features(schema).get(name, {})
    names = feature.get("names")
    if feature.get("_type") != "ClassLabel" or not isinstance(names, list):
        return None
    digits = {**{str(n): n for n in range(10)}, **{w: n for n, w in enumerate(WORDS)}}
    return [digits.get(str(each).strip().lower()) for each in names]


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Return Hugging Face's features by column; {} for other tables."""
    try:
        stored = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: each for name, each in stored.items() if isinstance(each, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _kind(field: pa.Field, is_named: bool) -> ImageKind | None:
    type_, metadata = field.type, field.metadata or {}
    extension = getattr(type_, "extension_name", "") or metadata.get(
        b"ARROW:extension:name", b""
    ).decode(errors="replace")
    if _PICKLED in extension:
        raise DataError(f"column {field.name!r} holds pickled objects, which are never loaded")
    if isinstance(type_, pa.BaseExtensionType):
        type_ = type_.storage_type
    type_ = type_.value_type if is_any(type_, "dictionary") else type_
    if is_any(type_, "struct"):
        fields = {each.name: each.type for each in type_.fields}
        if set(SPARK_FIELDS) <= set(fields):
            return ImageKind.SPARK if is_binary(fields["data"]) else None
        if "bytes" in fields or (set(fields) == {"path"} and is_text(fields["path"])):
            data = fields.get("bytes", pa.null())
            return ImageKind.ENCODED if is_binary(data) or is_any(data, "null") else None
        is_tensor = set(fields) == {"data", "shape"} and all(map(is_list, fields.values()))
        return ImageKind.TENSOR if is_tensor else None
    if is_binary(type_) or (is_named and is_text(type_)):
        fixed = is_any(type_, "fixed_size_binary")
        return None if fixed and type_.byte_width != NUM_PIXELS else ImageKind.ENCODED
    if is_list(type_) and _is_number(leaf(type_)):
        tensor = tensor_of(field)
        known = tensor.shape is None or picture_axes(tensor.shape, tensor.permutation)
        return ImageKind.NUMBERS if known else None
    return None


def valid_text(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    r"""Replace bytes that are not UTF-8 in a column of text by escapes such as `\xff`.

    Arrow reads text without a check, and would raise an error only when it is converted to Python.
    """
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        found = column.cast(pa.large_binary()).to_pylist()
        texts = [None if each is None else each.decode(errors="backslashreplace") for each in found]
        return pa.array(texts, column.type)
    return column


def is_text(type_: pa.DataType) -> bool:
    """Test whether a type is one of Arrow's text types."""
    return is_any(type_, "string", "large_string", "string_view")


def is_binary(type_: pa.DataType) -> bool:
    """Test whether a type is one of Arrow's binary types."""
    return is_any(type_, "binary", "large_binary", "fixed_size_binary", "binary_view")


def fits(type_: pa.DataType, format_: str) -> bool:
    """Return whether a format can hold a type: only Parquet holds bytes and tensors."""
    if format_ == "parquet":
        return True
    if is_any(type_, "nested"):
        children = (type_.field(index).type for index in range(type_.num_fields))
        return format_ == "jsonl" and all(fits(each, format_) for each in children)
    return not (isinstance(type_, pa.BaseExtensionType) or is_binary(type_))


def _is_number(type_: pa.DataType) -> bool:
    return is_any(type_, "integer", "floating", "decimal", "boolean")


# pyarrow.dataset.HivePartitioning is not used: it parses only the names in a given schema, and it
# infers int32, which would change the ids and output of jobs.
class Partitions(NamedTuple):
    """The columns that the names of folders below the inputs define, such as `label=7`."""

    schema: pa.Schema = pa.schema([])  # the columns of all files
    roots: tuple[str, ...] = ("",)  # the inputs; folders above them define no columns

    def values(self, file: str) -> dict[str, str | None]:
        r"""Parse the values in a file's path; a byte that is not UTF-8 becomes `\xff`.

        >>> Partitions(roots=("s3://a/day=1",)).values("s3://a/day=1/writer=O%27Hara/part.parquet")
        {'writer': "O'Hara"}
        """
        above = [root for root in self.roots if not root or f"{file}/".startswith(f"{root}/")]
        below = file.removeprefix(min(above, key=len)) if above else ""
        text = below.encode(errors="backslashreplace").decode()
        pairs = (folder.partition("=") for folder in text.split("/")[:-1])
        return {
            unquote(name): None if value == HIVE_NULL else unquote(value)
            for name, equals, value in pairs
            if equals and name
        }

    def extend(self, schema: pa.Schema, file: str) -> pa.Schema:
        """Append to a file's schema the columns that only its folder names define."""
        if not self.schema.names:
            return schema
        values = self.values(file)
        own = [e for e in self.schema if e.name in values and e.name not in schema.names]
        return pa.schema([*schema, *own], schema.metadata)

    def add(self, table: pa.Table, file: str) -> pa.Table:
        """Append to rows of a file the columns that only its folder names define."""
        if not self.schema.names:
            return table
        values = self.values(file)
        for field in list(self.extend(table.schema, file))[table.num_columns :]:
            value = pa.scalar(values[field.name], pa.string()).cast(field.type)
            table = table.append_column(field, pa.repeat(value, table.num_rows))
        return table


def find_partitions(files: Iterable[str], roots: Sequence[str]) -> Partitions:
    """Infer the partition columns of all files: int64 if every value is a whole number, else text.

    >>> files = ["a/year=2026/x.parquet", "a/year=2027/writer=ann/x.parquet"]
    >>> find_partitions(files, ["a"]).schema.types
    [DataType(int64), DataType(string)]
    """
    types: dict[str, pa.DataType] = {}
    found = Partitions(roots=tuple(roots))
    for file in (each for each in files if "=" in each):
        for name, value in found.values(file).items():
            types.setdefault(name, pa.int64())
            if value is not None and not _INT64.fullmatch(value):
                types[name] = pa.string()
    return found._replace(schema=pa.schema(types.items()))
