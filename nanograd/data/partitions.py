"""Hive's partitions: columns whose value is the name of a folder, `year=2026/writer=ann/`.

A folder of that form counts wherever it stands in a path, as in DuckDB. A column in the file itself
is stronger than a folder of its name.

References:
    Apache Hive, "Managed and external tables" (layout; `__HIVE_DEFAULT_PARTITION__` for null).
"""

from collections.abc import Iterable
from urllib.parse import unquote

import pyarrow as pa

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
            found[name] = found.get(name, True) and (value is None or _is_whole(value))
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


def _is_whole(value: str) -> bool:
    return value.isascii() and value.removeprefix("-").isdigit() and len(value) < 19
