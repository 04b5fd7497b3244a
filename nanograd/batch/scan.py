"""The content of Parquet files by their footers alone, and the plan of their parts.

Files of one job may differ in their image column, in columns that are not read, and in kept columns
as far as one type holds the values of all.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa

from nanograd.batch.inputs import InputFile
from nanograd.errors import DataError, Reason, Rejection
from nanograd.tables.columns import partition_schema, partition_values
from nanograd.tables.files import RowRange, open_parquet
from nanograd.tables.images import required_columns
from nanograd.tables.rows import ReadOptions

# A part has about this many rows: enough to be worth committing, few enough to be repeated after a
# failure, and enough parts for many cores where there are enough rows.
_MAX_ROWS, _MIN_ROWS, _NUM_PARTS = 50_000, 2_500, 64
# Reading the end of a row group decompresses its beginning, so it is cut into few parts.
_MAX_CUTS = 8
# Footers in an object store take a round trip each; so many are read at once.
_NUM_THREADS = 16


class ScannedFile(NamedTuple):
    """A Parquet file."""

    file: InputFile  # its place, size and time
    schema: pa.Schema = pa.schema([])  # its columns; empty if it cannot be read
    group_rows: tuple[int, ...] = ()  # rows of each row group
    rejection: Rejection | None = None  # why it cannot be read


def scan_files(
    files: Sequence[InputFile], options: ReadOptions
) -> tuple[list[ScannedFile], pa.Schema]:
    """Read every footer; return the content of each file, and the partition columns of all."""
    partitions = partition_schema(file.place for file in files)

    def scan(file: InputFile) -> ScannedFile:
        reason = Reason.BROKEN_FILE
        try:
            with open_parquet(file.place) as parquet:
                reason = Reason.WRONG_SCHEMA
                schema, footer = parquet.schema_arrow, parquet.metadata
                required_columns(schema, file.place, partitions, options)
                groups = range(footer.num_row_groups)
                rows = tuple(footer.row_group(group).num_rows for group in groups)
                return ScannedFile(file, schema, rows)
        except DataError as error:
            return ScannedFile(file, rejection=Rejection(None, reason, str(error)))

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return list(pool.map(scan, files)), partitions


def unify_kept(
    scanned: Sequence[ScannedFile], partitions: pa.Schema, keep: Sequence[str]
) -> pa.Schema:
    """Return the columns to keep, each with a type that holds the values of all files.

    Raises:
        DataError: no file has such a column, or its types do not go together.
    """
    return pa.schema([_unify(scanned, partitions, name) for name in keep])


def _unify(scanned: Sequence[ScannedFile], partitions: pa.Schema, name: str) -> pa.Field:
    types = [each.schema.field(name).type for each in scanned if name in each.schema.names]
    if name in partitions.names and any(
        name in partition_values(each.file.place)
        for each in scanned
        if name not in each.schema.names
    ):
        types.append(partitions.field(name).type)
    if not types:
        raise DataError(f"no file has a column {name!r} to --keep; leave it out")
    plain = {type_.value_type if pa.types.is_dictionary(type_) else type_ for type_ in types}
    schemas = [pa.schema([pa.field(name, type_)]) for type_ in sorted(plain, key=str)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(name)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        listed = " and ".join(sorted(map(str, plain)))
        raise DataError(
            f"--keep {name}: the files hold {listed}, which do not go together; leave it out"
        ) from error


def cut(group_rows: Sequence[int], num_job_rows: int) -> Iterator[RowRange]:
    """Cut a file into runs of row groups, and large row groups into pieces.

    Args:
        group_rows: rows of each row group.
        num_job_rows: rows of the job; a large job has larger pieces.
    """
    wanted = min(_MAX_ROWS, max(_MIN_ROWS, num_job_rows // _NUM_PARTS))
    start, first_row, num_rows = 0, 0, 0
    for group, rows in enumerate(group_rows):
        num_rows += rows
        if num_rows >= wanted or group == len(group_rows) - 1:
            number = max(1, min(_MAX_CUTS, num_rows // wanted))
            ends = [num_rows * (piece + 1) // number for piece in range(number)]
            for skip, end in zip([0, *ends], ends, strict=False):
                yield RowRange((start, group + 1), skip, first_row + skip, end - skip)
            start, first_row, num_rows = group + 1, first_row + num_rows, 0
    if not group_rows:
        yield RowRange((0, 0), 0, 0, 0)
