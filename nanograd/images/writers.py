"""Schemas of predictions and quarantine, and tables as the bytes of Parquet, CSV or JSON lines."""

import json
from collections.abc import Sequence
from io import BytesIO
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from nanograd.errors import Rejection, UsageError
from nanograd.images.columns import is_binary, to_python

PREDICTIONS = pa.schema(
    [
        ("source_file", pa.string()),
        ("source_row", pa.int64()),
        ("prediction", pa.int8()),
        ("confidence", pa.float32()),
        ("unfamiliarity", pa.float32()),
        ("probabilities", pa.list_(pa.float32(), 10)),
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


def quarantine_table(rejected: Sequence[tuple[str, Rejection]], first_row: int = 0) -> pa.Table:
    """Make the quarantine table of files and their rejections, counted from the first row."""
    rows = [
        {
            "source_file": as_text(file),
            "source_row": None if each.row is None else first_row + each.row,
            "reason": str(each.reason),
            "detail": as_text(each.detail),
        }
        for file, each in rejected
    ]
    return pa.Table.from_pylist(rows, QUARANTINE)


def as_text(place: str) -> str:
    """Return a path as Arrow can hold it: bytes that are not UTF-8 become escapes."""
    return place.encode(errors="backslashreplace").decode()


def encode(table: pa.Table, format_: str, *, header: bool = True) -> bytes:
    """Encode a table that `check_columns` accepts as csv or jsonl.

    In CSV the ten probabilities are ten columns, `probability_0` to `probability_9`, and null is an
    empty field. In JSON lines a row is an object, and a number that is not finite is null.

    Args:
        table: the rows.
        format_: csv or jsonl.
        header: whether CSV begins with the names of the columns.
    """
    return _to_csv(table, header) if format_ == "csv" else _to_json_lines(table)


def check_columns(columns: pa.Schema, format_: str) -> None:
    """Raise UsageError for a column that a format cannot hold."""
    for field in columns:
        if not _fits(field.type, format_):
            raise UsageError(
                f"--format {format_} cannot hold column {field.name!r} of type {field.type}; "
                "leave it out of --keep or choose parquet"
            )


def _fits(type_: pa.DataType, format_: str) -> bool:
    if format_ == "parquet":
        return True
    if pa.types.is_nested(type_):
        children = (type_.field(index).type for index in range(type_.num_fields))
        return format_ == "jsonl" and all(_fits(each, format_) for each in children)
    return not (isinstance(type_, pa.BaseExtensionType) or is_binary(type_))


def to_parquet(table: pa.Table) -> bytes:
    """Encode a table as Parquet."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **parquet_options(table.schema))
    return bytes(sink.getvalue())


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Return how tables are written: compressed with zstd, with a checksum a page."""
    # A dictionary of values that rarely repeat takes more time and space: half as much again of
    # probabilities.
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_int8, pa.types.is_dictionary)
    repeating = [each.name for each in schema if any(kind(each.type) for kind in kinds)]
    return {"compression": "zstd", "write_page_checksum": True, "use_dictionary": repeating}


def _to_csv(table: pa.Table, header: bool) -> bytes:
    if "probabilities" in table.column_names:
        index = table.column_names.index("probabilities")
        probabilities = table.column("probabilities")
        table = table.remove_column(index)
        for digit in reversed(range(10)):
            table = table.add_column(
                index, f"probability_{digit}", pc.list_element(probabilities, digit)
            )
    sink = BytesIO()
    pa_csv.write_csv(table, sink, pa_csv.WriteOptions(include_header=header))
    return sink.getvalue()


def _to_json_lines(table: pa.Table) -> bytes:
    encode_row = json.JSONEncoder(default=str).encode
    rows = zip(*(_to_json_values(column) for column in table.columns), strict=True)
    names = table.column_names
    lines = [encode_row(dict(zip(names, row, strict=True))) + "\n" for row in rows]
    return "".join(lines).encode()


def _to_json_values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_float32(column.type):
        return _shortest(column)
    if pa.types.is_fixed_size_list(column.type) and pa.types.is_float32(column.type.value_type):
        # list_flatten leaves out the values of null rows.
        numbers, size = iter(_shortest(pc.list_flatten(column))), column.type.list_size
        valid = column.is_valid().to_pylist()
        return [list(islice(numbers, size)) if each else None for each in valid]
    return [_finite(value) for value in to_python(column)]


def _shortest(numbers: pa.ChunkedArray) -> list[float | None]:
    """Convert float32 to floats with its shortest digits; widened they would have seventeen."""
    finite = pc.if_else(pc.is_finite(numbers), numbers, None)
    floats: list[float | None] = finite.cast(pa.string()).cast(pa.float64()).to_pylist()
    return floats


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by None."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, list):
        return [_finite(each) for each in value]
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return value
