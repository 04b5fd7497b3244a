"""Rows of Parquet and CSV files, in batches of bounded size, and rejections of damaged rows."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from nanograd.data.csv import CSV
from nanograd.errors import DataError, Reason, Rejection
from nanograd.images.batches import (
    BATCH_BYTES,
    MAX_ROWS,
    READ_BYTES,
    check_storage,
    find_scales,
    leaf_places,
    with_scales,
)
from nanograd.images.csv_files import CsvFile
from nanograd.runtime import storage

# Numbers of rows of a batch are multiples of this: scores may differ in their last bits by the rows
# that share a matrix product, which has so many.
_CHUNK_ROWS = 512
# Bytes of numbers in memory; in a file, those of lists may take a bit each.
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "FLOAT": 4, "DOUBLE": 8}
# In a damaged row group: the fewer, the fewer intact rows are lost with it.
_CAREFUL_ROWS = 128
# Attempts at the same rows before they count as damaged.
_MAX_FAILURES = 2
# What Arrow raises for damage, failures of the storage and lack of memory; for names not in UTF-8
# and types of Ray that Ray refuses to decode.
_FAILURES = (pa.ArrowException, OSError, MemoryError, ValueError)


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
        parquet = _open(file)
    except _FAILURES as error:
        check_storage(file, error, num_bytes=1)
        try:
            parquet = _open(file)  # the storage may have failed only for a moment
        except _FAILURES as again:
            check_storage(file, again, num_bytes=1)
            raise DataError(f"{file} is not a complete Parquet file: {again}") from again
    footer = parquet.metadata
    num_rows = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    if sum(num_rows) != footer.num_rows or min(num_rows, default=0) < 0:
        raise DataError(f"{file} is not a complete Parquet file: its row groups do not add up")
    return parquet


def _open(file: str) -> pq.ParquetFile:
    stream = storage.open_file(file)
    parquet = pq.ParquetFile(
        stream,
        buffer_size=READ_BYTES,
        pre_buffer=False,  # it would hold whole row groups
        page_checksum_verification=True,
    )
    parquet.schema_arrow  # noqa: B018 - it is decoded here
    return parquet


def read_rows(
    file: str, rows: RowRange, columns: Callable[[pa.Schema], Sequence[str]]
) -> Iterator[pa.RecordBatch | list[Rejection]]:
    """Read rows of a file in their order.

    A damaged page takes the rest of its row group with it, of these rows, and nothing else; a
    damaged line of a CSV file itself. Columns of a CSV file other than pixels are text.

    Args:
        file: path or URI of a Parquet or CSV file.
        rows: which of its rows.
        columns: selects columns from the file's schema.

    Yields:
        Consecutive rows as a batch, or as rejections, each with its position among them.

    Raises:
        DataError: the file is no longer the one that was planned.
        StorageError: the file cannot be read; that is no damage.
    """
    if file.lower().endswith(CSV):
        yield from CsvFile(file).read(rows.skip, rows.num_rows, columns)
        return
    with open_parquet(file) as parquet:
        if parquet.metadata.num_row_groups < rows.row_groups[1]:
            raise DataError(f"{file} was changed after the job began; start the job again")
        names = list(columns(parquet.schema_arrow))
        scales, done = find_scales(parquet, names), 0
        try:
            for batch in _read_some(parquet, names, rows):
                yield with_scales(batch, scales)
                done += len(batch)
        except _FAILURES as error:
            if not isinstance(error, MemoryError):  # fewer rows at a time may fit
                check_storage(file, error)
            for some in _read_carefully(file, parquet, rows, names, done):
                yield some if isinstance(some, list) else with_scales(some, scales)


def _read_carefully(
    file: str, parquet: pq.ParquetFile, rows: RowRange, names: list[str], done: int
) -> Iterator[pa.RecordBatch | list[Rejection]]:
    """Read the rows after the first `done`, row group by row group."""
    skip, left = rows.skip + done, rows.num_rows - done
    for group in range(*rows.row_groups):
        group_rows = parquet.metadata.row_group(group).num_rows
        wanted = min(max(group_rows - skip, 0), left)
        num_read, failures = 0, 0
        # The same rows fail again if they are damaged, not if the storage failed for a moment.
        while num_read < wanted:
            some = RowRange((group, group + 1), skip + num_read, 0, wanted - num_read)
            try:
                for batch in _read_some(parquet, names, some, _CAREFUL_ROWS):
                    yield batch
                    num_read, failures = num_read + len(batch), 0
            except _FAILURES as error:
                check_storage(file, error)
                failures += 1
                if failures == _MAX_FAILURES:
                    detail = f"row group {group} is damaged: {error}"
                    lost = range(wanted - num_read)
                    yield [Rejection(row, Reason.BROKEN_FILE, detail) for row in lost]
                    break
        skip, left = max(skip - group_rows, 0), left - wanted


def _read_some(
    parquet: pq.ParquetFile, names: list[str], rows: RowRange, max_rows: int = MAX_ROWS
) -> Iterator[pa.RecordBatch]:
    """Read rows in batches of bounded size."""
    groups, found = range(*rows.row_groups), leaf_places(parquet.schema_arrow)
    places = [place for name in names for place in found[name]]
    row_bytes = max((_row_bytes(parquet, group, places) for group in groups), default=0)
    num_rows = int(max(1, min(max_rows, BATCH_BYTES / max(row_bytes, 1))))
    if num_rows > _CHUNK_ROWS:
        num_rows -= num_rows % _CHUNK_ROWS
    # Not by the file's own method: it takes paths, which several columns may share.
    batches = parquet.reader.iter_batches(
        num_rows, row_groups=list(groups), column_indices=places, use_threads=False
    )
    yield from _limit(batches, rows.skip, rows.num_rows)


def _row_bytes(parquet: pq.ParquetFile, group: int, places: Sequence[int]) -> float:
    """Estimate the bytes of a row in memory."""
    row_group = parquet.metadata.row_group(group)
    num_rows, stored = max(row_group.num_rows, 1), row_group.total_byte_size
    is_plain = not any(parquet.schema.column(place).max_repetition_level for place in places)
    if is_plain and stored * MAX_ROWS <= num_rows * BATCH_BYTES:
        return float(stored / num_rows)
    sizes = (
        max(chunk.total_uncompressed_size, chunk.num_values * _WIDTHS.get(chunk.physical_type, 0))
        for chunk in map(row_group.column, places)
    )
    return float(sum(sizes) / num_rows)


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
