"""Writers of tables as Parquet, CSV or JSON lines, in files divided by rows or column values."""

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from sys import maxsize
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from nanograd.digits.dataset import Dataset
from nanograd.digits.form import to_png
from nanograd.errors import DataError, OutputExistsError, UnreadableError, UsageError
from nanograd.images.columns import HIVE_NULL, list_names
from nanograd.images.tensors import is_any
from nanograd.runtime import storage
from nanograd.runtime.arrays import Ints

# A picture file in a table, as Hugging Face stores it.
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SOURCE = pa.schema({"path": pa.string(), "source_file": pa.string(), "source_row": pa.int64()})
SIDES = ("left", "top", "right", "bottom")  # of the box of a line or digit
PREDICTIONS = pa.schema(
    [
        *SOURCE,
        ("prediction", pa.int8()),
        ("confidence", pa.float32()),
        ("unfamiliarity", pa.float32()),
        ("probabilities", pa.list_(pa.float32(), 10)),
        ("label", pa.int8()),
    ]
)
PROBABILITIES = [f"probability_{digit}" for digit in range(10)]  # in CSV
WITHOUT_PROBABILITIES = pa.schema([each for each in PREDICTIONS if each.name != "probabilities"])
# The lines of digits in pictures.
NUMBERS = pa.schema(
    [
        *SOURCE,
        ("line", pa.int32()),  # from 0, in reading order
        ("text", pa.string()),
        ("confidence", pa.float32()),  # probability that the whole text is right
        *((side, pa.int32()) for side in SIDES),  # in pixels
        ("digits", pa.int32()),
        ("left_out", pa.int32()),  # marks between the digits that are no digits
    ]
)
# Columns of predictions that say where a digit is. Positions and lines count from 0.
PLACE = pa.schema([(name, pa.int32()) for name in ("line", "position", *SIDES)])
QUARANTINE = pa.schema([*SOURCE, ("reason", pa.string()), ("detail", pa.string())])

# Rows that are encoded as JSON at a time: as Python objects they take ten times the memory.
_JSON_ROWS = 100_000
_MAX_FOLDERS = 1000
# Pictures that a thread writes in turn, because a task for each takes as long as its rename.
_SOME_PICTURES = 20
# File systems limit a name to 255 bytes.
_MAX_NAME_BYTES = 255


def encode_files(
    name: str,
    schema: pa.Schema,
    tables: Sequence[pa.Table],
    format_: str,
    *,
    max_rows: int | None = None,
    partition_by: Sequence[str] = (),
    lineage: Mapping[str, str] | None = None,
    even_empty: bool = False,
) -> dict[str, bytes]:
    """Encode the tables of a part as files NAME, NAME-1, ... of at most `max_rows` rows each.

    A column of the schema that a table lacks is null there. The format is parquet, csv or jsonl.
    Columns in `partition_by` become folders, as in Hive: `label=7/NAME.parquet`. The `lineage`,
    metadata of Parquet files, says what made the rows. Without a row there is no file or, with
    `even_empty`, a file of no rows. Tables of several chunks take long to encode: 250 chunks of ten
    rows took 2.8 s, and one chunk of 2,500 rows 7 ms (2026-11-26).

    Raises:
        UsageError: a column to partition by is missing, or its type cannot name folders.
        DataError: a column to partition by has too many or too long values.
    """
    check_partition_columns(schema, partition_by)
    nothing = pa.Table.from_batches([], schema)  # empty_table fails for some tensors
    table = pa.concat_tables([nothing, *tables], promote_options="default")
    parts, files = {"": table}, dict[str, bytes]()
    if partition_by:
        columns = [table[each].cast(pa.string()).to_pylist() for each in partition_by]
        rows = list(zip(*columns, strict=True))
        values = {*rows} or {(None,) * len(columns)}
        if len(values) > _MAX_FOLDERS:
            raise DataError(
                f"--partition-by {', '.join(partition_by)} makes more than {_MAX_FOLDERS:,} "
                "folders; choose columns of fewer values"
            )
        folders = {row: "/".join(map(_folder, partition_by, row)) for row in values}
        found, rest = pa.array(map(folders.get, rows), pa.string()), table.drop([*partition_by])
        parts = {
            f"{each}/": rest.filter(pc.equal(found, each)).combine_chunks()
            for each in folders.values()
        }
    for folder, part in parts.items():
        starts = range(0, max(len(part), even_empty), max_rows or maxsize)
        for number, start in enumerate(starts):
            some = part.slice(start, max_rows)
            is_parquet = format_ == "parquet"
            data = to_parquet(some, lineage) if is_parquet else encode(some, format_)
            files[f"{folder}{name}{f'-{number}' if number else ''}.{format_}"] = data
    return dict(sorted(files.items()))


def check_partition_columns(schema: pa.Schema, names: Sequence[str]) -> None:
    """Raise UsageError if a column is not in the table or its type cannot name folders."""
    kinds = ("integer", "string", "large_string", "boolean", "date")
    usable = [each.name for each in schema if is_any(each.type, *kinds)]
    if not set(names) <= set(usable) or len({*names}) < len(names) or len(names) == len(schema):
        raise UsageError(
            f"--partition-by {', '.join(names)}: choose columns, each once and not all, of those "
            f"that can name folders (whole numbers, text, booleans, dates): {list_names(usable)}; "
            "--keep adds columns of the input"
        )


def _folder(name: str, text: str | None) -> str:
    if text == HIVE_NULL:  # readers decode an escape before they compare
        raise DataError(f"--partition-by {name}: the text {HIVE_NULL} would be read as null")
    value = HIVE_NULL if text is None else quote(text, safe="")
    folder = f"{quote(name, safe='')}={value}"
    if len(folder) > _MAX_NAME_BYTES:
        raise DataError(f"--partition-by {name}: a value is too long for the name of a folder")
    return folder


def source_table(
    files: Sequence[str] | pa.Array, rows: Sequence[int | None] | Ints, paths: pa.Array = None
) -> pa.Table:
    """Make the columns of `SOURCE`; a row without a path is named by its file."""
    if not isinstance(files, pa.Array):
        files = pa.array(map(storage.as_text, files), pa.string())
    paths = files if paths is None else pc.coalesce(paths, files)
    return pa.table([paths, files, pa.array(rows, pa.int64())], schema=SOURCE)


def beside(left: pa.Table, right: pa.Table) -> pa.Table:
    """Return the columns of two tables with the same number of rows."""
    return pa.table([*left.columns, *right.columns], [*left.column_names, *right.column_names])


def quarantine_table(rows: pa.Table, errors: Sequence[UnreadableError]) -> pa.Table:
    """Make the quarantine table of rows, which have the columns of `SOURCE`."""
    reasons = pa.array([str(each.reason) for each in errors], pa.string())
    details = pa.array([storage.as_text(each.detail) for each in errors], pa.string())
    return rows.append_column("reason", reasons).append_column("detail", details)


def refuse_rows(
    file: str, rows: Sequence[int | None] | Ints, errors: Sequence[UnreadableError]
) -> pa.Table:
    """Make the quarantine table of rows of a file."""
    return quarantine_table(source_table([file] * len(rows), rows), errors)


def to_parquet(table: pa.Table, metadata: Mapping[str, str] | None = None) -> bytes:
    """Encode a table as Parquet, compressed with zstd, with a checksum for each page."""
    # A dictionary takes more time and space if values rarely repeat: probabilities would take half
    # as much space again.
    kinds = ("string", "large_string", "int8", "dictionary")
    repeating = [each.name for each in table.schema if is_any(each.type, *kinds)]
    options = {"compression": "zstd", "write_page_checksum": True, "use_dictionary": repeating}
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, **options) as writer:
        writer.add_key_value_metadata(metadata or {})
        writer.write_table(table)
    return bytes(sink.getvalue())


def encode(table: pa.Table, format_: str) -> bytes:
    """Encode a table as csv or jsonl; `columns.fits` says which columns these can hold.

    In CSV, the probabilities are ten columns, `PROBABILITIES`, and null is an empty field. In JSON
    lines, a row is an object, an entry of a map is an object with key and value, and NaN and
    infinity are null.

    Raises:
        DataError: a date is not in the years 1 to 9999, its time zone is unknown, or text in a list
            or struct is not UTF-8.
    """
    if format_ == "jsonl" and len(table) > _JSON_ROWS:
        pieces = (table.slice(first, _JSON_ROWS) for first in range(0, len(table), _JSON_ROWS))
        return b"".join(encode(piece, format_) for piece in pieces)
    values = list[list[Any]]()
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            if format_ == "jsonl":
                values.append(_to_json_values(column))
            elif is_any(column.type, "timestamp", "date"):
                pc.min_max(column).as_py()
        except (OverflowError, ValueError) as error:
            why = "the time zone is unknown, or a value is not in the years 1 to 9999"
            if isinstance(error, UnicodeDecodeError):
                why = "text is not UTF-8"
            raise DataError(
                f"--format {format_} cannot hold column {name!r} of type {column.type}: {why}; "
                "leave it out of --keep or choose parquet"
            ) from error
    if format_ == "jsonl":
        encode_row = json.JSONEncoder(default=str).encode
        rows = zip(*values, strict=True)
        names = table.column_names
        lines = [encode_row(dict(zip(names, row, strict=True))) + "\n" for row in rows]
        return "".join(lines).encode()
    if "probabilities" in table.column_names:
        index = table.column_names.index("probabilities")
        probabilities = table.column("probabilities")
        table = table.remove_column(index)
        for digit, name in enumerate(PROBABILITIES):
            table = table.add_column(index + digit, name, pc.list_element(probabilities, digit))
    sink = BytesIO()
    pa_csv.write_csv(table, sink)
    return sink.getvalue()


def read(place: str, schema: pa.Schema) -> pa.Table:
    """Read columns of a file of an output, whose suffix is its format.

    Raises:
        DataError: the file is missing or damaged.
    """
    if not (data := storage.read(place)):  # JSON lines without a row
        return schema.empty_table()
    import pyarrow.dataset as pa_dataset  # noqa: PLC0415 - it imports pandas, if that is installed

    size = min(len(data), 2**31 - 1)  # a row that is longer than a block cannot be read
    formats = {
        "parquet": pa_dataset.ParquetFileFormat(),
        "pq": pa_dataset.ParquetFileFormat(),
        "csv": pa_dataset.CsvFileFormat(
            pa_csv.ParseOptions(newlines_in_values=True),
            read_options=pa_csv.ReadOptions(block_size=size),
        ),
        "jsonl": pa_dataset.JsonFileFormat(read_options=pa_json.ReadOptions(block_size=size)),
    }
    format_ = formats[place.rpartition(".")[2]]
    try:
        return format_.make_fragment(pa.BufferReader(data)).to_table(schema)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{place} is damaged ({error}); the predict command with --verify writes it again"
        ) from error


def _to_json_values(column: pa.ChunkedArray) -> list[Any]:
    type_ = column.type
    if type_ == pa.time64("ns"):  # Python's times have no nanoseconds
        column = column.cast(pa.string())
    elif is_any(type_, "float32"):
        # Through text, because a plain cast would give up to seventeen digits.
        column = column.cast(pa.string()).cast(pa.float64())
    elif is_any(type_, "fixed_size_list") and is_any(type_.value_type, "float32"):
        texts, floats = (pa.list_(each, type_.list_size) for each in (pa.string(), pa.float64()))
        column = column.cast(texts).cast(floats)
    return [_finite(value) for value in column.to_pylist()]


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by None; and an entry of a map by an object."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, tuple):
        return _finite(dict(zip(("key", "value"), value, strict=True)))
    if isinstance(value, list):
        return [_finite(each) for each in value]
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return value


def write_pictures(dataset: Dataset, folder: str) -> None:
    """Write or replace a file `LABEL/NUMBER.png` in a folder for each image.

    Raises:
        OutputExistsError: the folder holds other files.
        StorageError: a file cannot be written.
    """
    places = [
        storage.join(folder, str(label), f"{number:05d}.png")
        for number, label in enumerate(dataset.labels)
    ]
    for each in {place.rpartition("/")[0] for place in places}:
        storage.remove_leftovers(each, below=False)
    own = set(places)
    for place, _, _ in storage.files_below(folder) if storage.exists(folder) else ():
        if place not in own:
            text = f"{folder} holds {place.removeprefix(folder)[1:]!r}, which is not replaced"
            raise OutputExistsError(f"{text}; choose another --output")

    def write(start: int) -> None:
        some = slice(start, start + _SOME_PICTURES)
        for place, image in zip(places[some], dataset.images[some], strict=True):
            # Without fsync, which would take minutes for all files.
            storage.commit(place, to_png(image), fsync=False)

    storage.map_all(write, range(0, len(places), _SOME_PICTURES))
