"""Tables as the bytes of a file: Parquet, CSV or JSON lines."""

import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from nanograd.errors import UsageError
from nanograd.tables.files import to_parquet

FORMATS = ("parquet", "csv", "jsonl")


def encode(table: pa.Table, format_: str) -> bytes:
    """A table as a file.

    In CSV the ten scores are ten columns, `score_0` to `score_9`; null is an empty field. In JSON
    lines a row is an object, and a number that is not finite is null.

    Args:
        table: columns that `check` lets pass.
        format_: one of FORMATS.
    """
    return _ENCODERS[format_](table)


def check(columns: pa.Schema, format_: str) -> None:
    """Refuse columns that a format cannot hold.

    Raises:
        UsageError: it names the column.
    """
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
        below = (type_.field(place).type for place in range(type_.num_fields))
        return format_ == "jsonl" and all(_fits(each, format_) for each in below)
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    extension = isinstance(type_, pa.BaseExtensionType)
    return not (extension or any(check(type_) for check in (*binary, pa.types.is_binary_view)))


def _csv(table: pa.Table) -> bytes:
    if "scores" in table.column_names:
        place = table.schema.get_field_index("scores")
        scores = table.column("scores")
        table = table.remove_column(place)
        for digit in range(10):
            column = pc.list_element(scores, digit)
            table = table.add_column(place + digit, f"score_{digit}", column)
    sink = BytesIO()
    pa_csv.write_csv(table, sink)
    return sink.getvalue()


def _json_lines(table: pa.Table) -> bytes:
    names = [json.dumps(name) for name in table.column_names]
    columns = [_as_json(column) for column in table.columns]
    rows = zip(*columns, strict=True)
    lines = (
        ", ".join(f"{name}: {value}" for name, value in zip(names, row, strict=True))
        for row in rows
    )
    return "".join(f"{{{line}}}\n" for line in lines).encode()


def _as_json(column: pa.ChunkedArray) -> list[str]:
    if pa.types.is_float32(column.type):
        return _shortest(column)
    if pa.types.is_fixed_size_list(column.type) and pa.types.is_float32(column.type.value_type):
        size, flat = column.type.list_size, _shortest(pc.list_flatten(column))
        return [f"[{', '.join(flat[at : at + size])}]" for at in range(0, len(flat), size)]
    return [json.dumps(_finite(value), default=str) for value in column.to_pylist()]


def _shortest(numbers: pa.ChunkedArray) -> list[str]:
    """As few digits as tell one float32 from the next; as float64 it would have seventeen."""
    finite = pc.if_else(pc.is_finite(numbers), numbers, None)
    return ["null" if text is None else text for text in finite.cast(pa.string()).to_pylist()]


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, list):
        return [_finite(each) for each in value]
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return value


_ENCODERS: dict[str, Callable[[pa.Table], bytes]] = {
    "parquet": to_parquet,
    "csv": _csv,
    "jsonl": _json_lines,
}
