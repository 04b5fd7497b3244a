"""A part's rows from its Parquet file, in batches of bounded size, and what of them is damaged."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from nanograd import storage
from nanograd.batch.inputs import open_parquet
from nanograd.batch.part import Part
from nanograd.errors import StorageError

# Rows read, decoded and predicted at once: many, for what is done for all at once costs the same
# for few; fewer where a row is large, for all of them are in memory.
_MOST_ROWS, _BATCH_BYTES = 8192, 32_000_000
# Where something is damaged: as little as possible is lost with it.
_FEW_ROWS = 128
_BLOCK_BYTES = 4 << 20


class Lost(NamedTuple):
    """Rows that cannot be read.

    Args:
        num_rows: how many.
        detail: the reason in a sentence.
    """

    num_rows: int
    detail: str


def read_rows(
    part: Part, columns: Callable[[pa.Schema], Sequence[str]]
) -> Iterator[pa.RecordBatch | Lost]:
    """All rows of a part in their order, each in a batch or lost.

    A damaged page takes the rest of its row group with it, for this part, and nothing else.

    Args:
        part: row groups of one file.
        columns: those to read, of the file's.

    Raises:
        DataError: the file is no longer the one that was planned.
        StorageError: the file cannot be read; that is no damage.
    """
    [file] = part.files
    with open_parquet(file) as parquet:
        names = list(columns(parquet.schema_arrow))
        groups = range(*part.row_groups)
        done = 0
        try:
            for batch in _cut_out(_batches(parquet, groups, names), part.skip, part.num_rows):
                yield batch
                done += len(batch)
        except (pa.ArrowException, OSError):
            _require_readable(file)
            yield from _carefully(parquet, part, names, done)


def _carefully(
    parquet: pq.ParquetFile, part: Part, names: list[str], done: int
) -> Iterator[pa.RecordBatch | Lost]:
    """The rows after the first `done`, row group by row group."""
    skip, left = part.skip + done, part.num_rows - done
    for group in range(*part.row_groups):
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
