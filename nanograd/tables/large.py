"""Rows whose values are large, in batches cut by their bytes."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanograd.runtime import storage
from nanograd.tables import pages
from nanograd.tables.columns import is_binary
from nanograd.tables.pages import Leaf

# Rows and bytes of a batch: many, because fixed costs are per batch; fewer where a row is large,
# because all of them are in memory. 8,192 rows of 784 doubles are 51 MB.
MAX_ROWS, BATCH_BYTES = 8192, 64_000_000

_Values = list[tuple[int, bytes | None]]


class LargeColumns:
    """The columns of a Parquet file that hold large values, which `pages` reads, by row group.

    Args:
        file: its path or URI.
        parquet: the file, open.
        names: of the columns to read.
    """

    def __init__(self, file: str, parquet: pq.ParquetFile, names: Sequence[str]) -> None:
        self._file, self._parquet, self._names = file, parquet, names
        self._source: pa.NativeFile | None = None

    def __enter__(self) -> "LargeColumns":
        return self

    def __exit__(self, *_: object) -> None:
        if self._source is not None:
            self._source.close()

    def find(self, group: int) -> dict[str, Leaf]:
        """Return the large columns of a row group by their paths; fields of structs are columns."""
        row_group = self._parquet.metadata.row_group(group)
        if row_group.total_byte_size * min(row_group.num_rows, MAX_ROWS) <= BATCH_BYTES:
            return {}  # no value is large enough to matter
        found: dict[str, Leaf] = {}
        for path in self._paths(self._names):
            leaf = pages.find_leaf(self._parquet, group, path)
            if leaf and pages.holds_large_values(self._open(), leaf):
                found[path] = leaf
        return found

    def others(self, large: dict[str, Leaf]) -> list[str]:
        """Return the other columns, and the other fields of structs."""
        found: list[str] = []
        for name in self._names:
            if not any(path in large for path in self._paths([name])):
                found.append(name)
            elif name not in large:
                fields = self._parquet.schema_arrow.field(name).type
                found += [path for each in fields if (path := f"{name}.{each.name}") not in large]
        return found

    def join(
        self, large: dict[str, Leaf], others: Iterator[pa.RecordBatch], skip: int, num_rows: int
    ) -> Iterator[pa.RecordBatch]:
        """Join large values with the rows of the other columns, in smaller batches.

        Args:
            large: from `find`.
            others: those rows.
            skip: rows of the row group before them.
            num_rows: their number.
        """
        whole = self._parquet.schema_arrow
        schema = pa.schema([whole.field(name) for name in self._names], whole.metadata)
        values = {
            path: pages.read_values(self._open(), leaf, skip, num_rows)
            for path, leaf in large.items()
        }
        for batch in others:
            done = 0
            while done < batch.num_rows:
                taken = _take(values, batch.num_rows - done)
                number = len(next(iter(taken.values())))
                rest = batch.slice(done, number)
                arrays = [_to_array(field, rest, taken) for field in schema]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)
                done += number

    def _open(self) -> Any:
        if self._source is None:
            self._source = storage.open_file(self._file)
        return self._source

    def _paths(self, names: Sequence[str]) -> Iterator[str]:
        """Yield the paths of the columns, and of the fields of structs, that hold bytes."""
        for name in names:
            type_ = self._parquet.schema_arrow.field(name).type
            if pa.types.is_struct(type_):
                yield from (f"{name}.{field.name}" for field in type_ if _holds_bytes(field.type))
            elif _holds_bytes(type_):
                yield name


def _holds_bytes(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    return bool(is_binary(type_) or pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _take(values: dict[str, Iterator[tuple[int, bytes | None]]], most: int) -> dict[str, _Values]:
    """Take rows of all columns, as many as fit into a batch."""
    taken: dict[str, _Values] = {path: [] for path in values}
    num_rows = num_bytes = 0
    while num_rows < most and num_bytes < BATCH_BYTES:
        for path, rows in values.items():
            taken[path].append(next(rows))
            num_bytes += len(taken[path][-1][1] or b"")
        num_rows += 1
    return taken


def _to_array(field: pa.Field, rest: pa.RecordBatch, taken: dict[str, _Values]) -> pa.Array:
    if field.name in taken:
        return pa.array([value for _, value in taken[field.name]], field.type)
    own = {
        each.name: rows
        for each in (field.type if pa.types.is_struct(field.type) else ())
        if (rows := taken.get(f"{field.name}.{each.name}"))
    }
    if not own:
        return rest.column(field.name)
    children = [
        pa.array([value for _, value in own[each.name]], each.type)
        if each.name in own
        else rest.column(field.name).field(each.name)
        for each in field.type
    ]
    levels = [level for level, _ in next(iter(own.values()))]
    mask = pa.array([field.nullable and level == 0 for level in levels])
    return pa.StructArray.from_arrays(children, fields=list(field.type), mask=mask)
