"""The files of a table that arrives in pieces: encoded as it arrives, cut by rows or by values."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nanograd.errors import DataError, UsageError
from nanograd.images import writers
from nanograd.images.columns import HIVE_NULL, to_python

# Bytes of a table held before they are encoded, as one row group.
_HELD_BYTES = 64_000_000
_MAX_FOLDERS = 1000
# A file system takes names of up to 255 bytes.
_MAX_NAME_BYTES = 255


class OutputFiles:
    """The files of a part's table.

    Args:
        name: of the first file, without its ending; the others are NAME-1, NAME-2, ...
        schema: of the table.
        format_: parquet, csv or jsonl.
        max_rows: of each file; None for one file.
        lineage: what made the rows, by name; metadata of Parquet files, which others cannot hold.
        partition_by: columns that become folders, as in Hive: `label=7/NAME.parquet`.
    """

    def __init__(
        self,
        name: str,
        schema: pa.Schema,
        format_: str,
        max_rows: int | None = None,
        partition_by: Sequence[str] = (),
        *,
        lineage: Mapping[str, str] | None = None,
    ) -> None:
        self._name, self._format = name, format_
        self._max_rows, self._partition_by = max_rows, list(partition_by)
        self._schema = pa.schema([each for each in schema if each.name not in self._partition_by])
        self._lineage = lineage or {}
        self._done: dict[str, Any] = {}
        self._open: dict[str, _File] = {}
        self._numbers: dict[str, int] = {}

    def write(self, table: pa.Table) -> None:
        """Add rows.

        Raises:
            DataError: a column to partition by has too many or too long values.
        """
        if not len(table):
            return
        if not self._partition_by:
            self._write("", table)
            return
        folders = _folders(table, self._partition_by)
        rest = table.drop(self._partition_by)
        for folder in pc.unique(folders).to_pylist():
            self._write(f"{folder}/", rest.filter(pc.equal(folders, folder)))

    def finish(self, *, even_empty: bool = False) -> dict[str, Any]:
        """Return the content of each file by its name, as bytes or a buffer.

        Args:
            even_empty: whether a table without rows makes a file.
        """
        if even_empty and not self._open and not self._done:
            empty = "".join(f"{_folder(name, HIVE_NULL)}/" for name in self._partition_by)
            self._write(empty, pa.Table.from_batches([], self._schema))
        for folder in list(self._open):
            self._close(folder)
        return dict(sorted(self._done.items()))

    def _write(self, folder: str, table: pa.Table) -> None:
        while True:
            if folder not in self._open:
                self._numbers.setdefault(folder, 0)
                if len(self._numbers) > _MAX_FOLDERS:
                    raise DataError(
                        f"--partition-by {', '.join(self._partition_by)} makes more than "
                        f"{_MAX_FOLDERS:,} folders; choose columns of fewer values"
                    )
                self._open[folder] = _File(self._schema, self._format, self._lineage)
            file = self._open[folder]
            left = self._max_rows - file.num_rows if self._max_rows else table.num_rows
            file.write(table.slice(0, left))
            table = table.slice(left)
            if not len(table):
                return
            self._close(folder)

    def _close(self, folder: str) -> None:
        number = self._numbers[folder]
        self._numbers[folder] += 1
        end = f"-{number}" if number else ""
        name = f"{folder}{self._name}{end}.{self._format}"
        self._done[name] = self._open.pop(folder).finish()


class _File:
    """A file in memory."""

    def __init__(self, schema: pa.Schema, format_: str, lineage: Mapping[str, str]) -> None:
        self.num_rows = 0
        self._schema, self._format, self._lineage = schema, format_, lineage
        self._sink = pa.BufferOutputStream()
        self._parquet: Any = None
        self._held: list[pa.Table] = []
        self._is_empty = True

    def write(self, table: pa.Table) -> None:
        self.num_rows += len(table)
        self._held.append(table)
        if sum(each.nbytes for each in self._held) >= _HELD_BYTES:
            self._encode()

    def finish(self) -> Any:
        if self._held or self._is_empty:
            self._encode()
        if self._parquet is not None:
            self._parquet.close()
        return self._sink.getvalue()

    def _encode(self) -> None:
        nothing = pa.Table.from_batches([], self._schema)  # empty_table fails for some tensors
        # Encoding 250 chunks of ten rows took 2.8 s, one of 2,500 takes 7 ms (2026-11-26).
        table = pa.concat_tables([nothing, *self._held]).combine_chunks()
        if self._format == "parquet":
            if self._parquet is None:
                options = writers.parquet_options(self._schema)
                self._parquet = pq.ParquetWriter(self._sink, self._schema, **options)
                self._parquet.add_key_value_metadata(self._lineage)
            self._parquet.write_table(table)
        else:
            self._sink.write(writers.encode(table, self._format, header=self._is_empty))
        self._held, self._is_empty = [], False


def rename_taken(names: Sequence[str], taken: Iterable[str]) -> list[str]:
    """Rename columns that have a name of the output's own, in any case: SQL does not tell it apart.

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


def check_partition_columns(schema: pa.Schema, names: Sequence[str]) -> None:
    """Raise UsageError for a column that is not in a table or cannot name folders."""
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--partition-by {name} is given twice")
        if name not in schema.names:
            raise UsageError(
                f"--partition-by {name}: the output has no such column; there are "
                f"{', '.join(schema.names)}"
            )
        type_ = schema.field(name).type
        is_ = pa.types
        tests = (is_.is_integer, is_.is_string, is_.is_large_string, is_.is_boolean, is_.is_date)
        if not any(test(type_) for test in tests):
            raise UsageError(
                f"--partition-by {name} holds {type_}; folders are named by whole numbers, text, "
                "booleans or dates"
            )
    if names and len(names) == len(schema.names):
        raise UsageError("--partition-by takes all columns, and none is left for the files")


def _folders(table: pa.Table, names: Sequence[str]) -> pa.Array:
    """Return the folder of each row."""
    parts = []
    for name in names:
        column = table.column(name).combine_chunks().cast(pa.string()).dictionary_encode()
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        found = [_folder(name, quote(text, safe="")) for text in to_python(column.dictionary)]
        texts = pa.array(found, pa.string()).take(column.indices)
        parts.append(texts.fill_null(_folder(name, HIVE_NULL)))
    return pc.binary_join_element_wise(*parts, "/") if len(parts) > 1 else parts[0]


def _folder(name: str, text: str) -> str:
    folder = f"{quote(name, safe='')}={text}"
    if len(folder) > _MAX_NAME_BYTES:
        raise DataError(f"--partition-by {name}: a value is too long for the name of a folder")
    return folder
