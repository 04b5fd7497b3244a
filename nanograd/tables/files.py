"""A part's rows from its Parquet file, in batches of bounded size, and what of them is damaged."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from nanograd.errors import DataError, StorageError
from nanograd.runtime import storage

# A row group is read so many bytes at a time: whole, it could be larger than the memory.
_READ_BYTES = 4 << 20
# Rows read, decoded and predicted at once: many, for what is done for all at once costs the same
# for few; fewer where a row is large, for all of them are in memory.
_MOST_ROWS, _BATCH_BYTES = 8192, 32_000_000
# Where something is damaged: as little as possible is lost with it.
_FEW_ROWS = 128
_BLOCK_BYTES = 4 << 20


def open_parquet(file: str) -> pq.ParquetFile:
    """A Parquet file, its footer read.

    Raises:
        DataError: it is none, it is cut short, or its footer contradicts itself.
        StorageError: it cannot be read at all; that is no damage.
    """
    try:
        parquet = pq.ParquetFile(
            storage.open_file(file), buffer_size=_READ_BYTES, page_checksum_verification=True
        )
    except (pa.ArrowException, OSError, ValueError) as error:  # a name that is not UTF-8
        storage.read(file, 1)  # an object store that is gone says so here
        raise DataError(f"{file} is no whole Parquet file: {error}") from error
    footer = parquet.metadata
    num_rows = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    if sum(num_rows) != footer.num_rows or min(num_rows, default=0) < 0:
        raise DataError(f"{file} is no whole Parquet file: its row groups do not add up")
    return parquet


def to_parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file, compressed with zstd, with a checksum a page."""
    # A dictionary of what does not repeat takes longer and more room: of scores half as much again.
    repeating = [field.name for field in table.schema if _may_repeat(field.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(
        table, sink, compression="zstd", write_page_checksum=True, use_dictionary=repeating
    )
    return bytes(sink.getvalue())


def _may_repeat(type_: pa.DataType) -> bool:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_int8, pa.types.is_dictionary)
    return any(is_kind(type_) for is_kind in kinds)


class RowRange(NamedTuple):
    """Some rows of a file.

    Args:
        row_groups: first and end.
        skip: rows before it in its first row group.
        first_row: number of its first row in the file.
        num_rows: how many rows.
    """

    row_groups: tuple[int, ...]
    skip: int
    first_row: int
    num_rows: int


class Lost(NamedTuple):
    """Rows that cannot be read.

    Args:
        num_rows: how many.
        detail: the reason in a sentence.
    """

    num_rows: int
    detail: str


def read_rows(
    file: str, rows: RowRange, columns: Callable[[pa.Schema], Sequence[str]]
) -> Iterator[pa.RecordBatch | Lost]:
    """Rows of a file in their order, each in a batch or lost.

    A damaged page takes the rest of its row group with it, of these rows, and nothing else.

    Args:
        file: path or URI of a Parquet file.
        rows: which of its rows.
        columns: those to read, of the file's.

    Raises:
        DataError: the file is no longer the one that was planned.
        StorageError: the file cannot be read; that is no damage.
    """
    with open_parquet(file) as parquet:
        names = list(columns(parquet.schema_arrow))
        groups = range(*rows.row_groups)
        done = 0
        try:
            for batch in _cut_out(_batches(parquet, groups, names), rows.skip, rows.num_rows):
                yield batch
                done += len(batch)
        except (pa.ArrowException, OSError):
            _require_readable(file)
            yield from _carefully(parquet, rows, names, done)


def _carefully(
    parquet: pq.ParquetFile, rows: RowRange, names: list[str], done: int
) -> Iterator[pa.RecordBatch | Lost]:
    """The rows after the first `done`, row group by row group."""
    skip, left = rows.skip + done, rows.num_rows - done
    for group in range(*rows.row_groups):
        group_rows = parquet.metadata.row_group(group).num_rows
        wanted = min(max(group_rows - skip, 0), left)
        read = 0
        try:
            batches = _batches(parquet, [group], names, _FEW_ROWS)
            for batch in _cut_out(batches, skip, wanted):
                yield batch
                read += len(batch)
        except (pa.ArrowException, OSError) as error:
            yield Lost(wanted - read, f"row group {group} is damaged: {error}")
        skip, left = max(skip - group_rows, 0), left - wanted


def _batches(
    parquet: pq.ParquetFile, groups: Sequence[int], names: list[str], most: int = _MOST_ROWS
) -> Iterator[pa.RecordBatch]:
    sizes = [parquet.metadata.row_group(group) for group in groups]
    row_bytes = max((each.total_byte_size / max(each.num_rows, 1) for each in sizes), default=1)
    rows = int(max(1, min(most, _BATCH_BYTES / max(row_bytes, 1))))
    batches: Iterator[pa.RecordBatch] = parquet.iter_batches(
        rows, row_groups=list(groups), columns=names, use_threads=False
    )
    return batches


def _cut_out(
    batches: Iterator[pa.RecordBatch], skip: int, num_rows: int
) -> Iterator[pa.RecordBatch]:
    """So many rows after the skipped ones.

    Raises:
        pa.ArrowException: there are fewer.
    """
    left = num_rows
    while left:
        batch = next(batches, None)
        if batch is None:
            raise pa.ArrowInvalid(f"{left} rows are missing")
        rows = batch.slice(skip, left)
        skip, left = max(skip - len(batch), 0), left - len(rows)
        if len(rows):
            yield rows


def _require_readable(file: str) -> None:
    """Arrow's errors do not tell a damaged file from a disk or an object store that fails."""
    try:
        with storage.open_file(file) as stream:
            while stream.read(_BLOCK_BYTES):
                pass
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error}") from error
