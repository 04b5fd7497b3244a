"""Rows of Parquet files, in batches of bounded size, and rejections of damaged rows."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from nanograd.errors import DataError, Reason, Rejection, StorageError
from nanograd.runtime import storage

# Bytes of a row group read at a time: a whole one could be larger than the memory.
_READ_BYTES = 4 << 20
# Rows read, decoded and predicted at once: many, because fixed costs are per batch; fewer where a
# row is large, because all of them are in memory.
_MAX_ROWS, _BATCH_BYTES = 8192, 32_000_000
# In a damaged row group: the fewer, the fewer intact rows are lost with it.
_CAREFUL_ROWS = 128


class RowRange(NamedTuple):
    """Some rows of a file."""

    row_groups: tuple[int, ...]  # first and end
    skip: int  # rows before them in their first row group
    first_row: int  # number of the first row in the file
    num_rows: int  # number of rows


def open_parquet(file: str) -> pq.ParquetFile:
    """Open a Parquet file and read its footer.

    Raises:
        DataError: it is no Parquet file, cut short, or its footer contradicts itself.
        StorageError: it cannot be read; that is no damage.
    """
    try:
        parquet = pq.ParquetFile(
            storage.open_file(file), buffer_size=_READ_BYTES, page_checksum_verification=True
        )
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a name not in UTF-8
        storage.read(file, 1)  # raises StorageError if the storage has failed
        raise DataError(f"{file} is not a complete Parquet file: {error}") from error
    footer = parquet.metadata
    num_rows = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    if sum(num_rows) != footer.num_rows or min(num_rows, default=0) < 0:
        raise DataError(f"{file} is not a complete Parquet file: its row groups do not add up")
    return parquet


def read_rows(
    file: str, rows: RowRange, columns: Callable[[pa.Schema], Sequence[str]]
) -> Iterator[pa.RecordBatch | list[Rejection]]:
    """Read rows of a file in their order.

    A damaged page takes the rest of its row group with it, of these rows, and nothing else.

    Args:
        file: path or URI of a Parquet file.
        rows: which of its rows.
        columns: selects columns from the file's schema.

    Yields:
        Consecutive rows as a batch, or as rejections, each with its position among them.

    Raises:
        DataError: the file is no longer the one that was planned.
        StorageError: the file cannot be read; that is no damage.
    """
    with open_parquet(file) as parquet:
        names = list(columns(parquet.schema_arrow))
        groups = range(*rows.row_groups)
        done = 0
        try:
            for batch in _limit(_read_groups(parquet, groups, names), rows.skip, rows.num_rows):
                yield batch
                done += len(batch)
        except (pa.ArrowException, OSError):
            _require_readable(file)
            yield from _read_carefully(parquet, rows, names, done)


def _read_carefully(
    parquet: pq.ParquetFile, rows: RowRange, names: list[str], done: int
) -> Iterator[pa.RecordBatch | list[Rejection]]:
    """Read the rows after the first `done`, row group by row group."""
    skip, left = rows.skip + done, rows.num_rows - done
    for group in range(*rows.row_groups):
        group_rows = parquet.metadata.row_group(group).num_rows
        wanted = min(max(group_rows - skip, 0), left)
        num_read = 0
        try:
            batches = _read_groups(parquet, [group], names, _CAREFUL_ROWS)
            for batch in _limit(batches, skip, wanted):
                yield batch
                num_read += len(batch)
        except (pa.ArrowException, OSError) as error:
            detail = f"row group {group} is damaged: {error}"
            yield [Rejection(row, Reason.BROKEN_FILE, detail) for row in range(wanted - num_read)]
        skip, left = max(skip - group_rows, 0), left - wanted


def _read_groups(
    parquet: pq.ParquetFile, groups: Sequence[int], names: list[str], max_rows: int = _MAX_ROWS
) -> Iterator[pa.RecordBatch]:
    sizes = [parquet.metadata.row_group(group) for group in groups]
    row_bytes = max((each.total_byte_size / max(each.num_rows, 1) for each in sizes), default=1)
    rows = int(max(1, min(max_rows, _BATCH_BYTES / max(row_bytes, 1))))
    batches: Iterator[pa.RecordBatch] = parquet.iter_batches(
        rows, row_groups=list(groups), columns=names, use_threads=False
    )
    return batches


def _limit(batches: Iterator[pa.RecordBatch], skip: int, num_rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the given number of rows after the skipped ones; raise ArrowInvalid for fewer."""
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
    """Raise StorageError if reading fails: Arrow's errors do not separate it from damage."""
    try:
        with storage.open_file(file) as stream:
            while stream.read(_READ_BYTES):
                pass
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error}") from error
