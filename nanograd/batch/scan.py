"""What Parquet files hold, told from their footers alone, and how they are cut into parts.

Files of one job may differ in their image column, in columns that nobody asked for, and in kept
columns as far as one type holds the values of all.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa

from nanograd.batch.inputs import InputFile
from nanograd.errors import DataError
from nanograd.tables import columns
from nanograd.tables.columns import find_image_column, find_label_column
from nanograd.tables.files import RowRange, open_parquet

# A part is about this many rows: enough to be worth committing, little enough to be done again
# after a kill, and enough parts for many cores where there are enough rows.
_MOST_ROWS, _LEAST_ROWS, _PARTS = 50_000, 2_500, 64
# Who reads the end of a row group decompresses its beginning, so it is cut into few pieces.
_MOST_PIECES = 8
# Footers in an object store come from far; here they are read at once.
_READERS = 16


class Found(NamedTuple):
    """A Parquet file.

    Args:
        file: where it is.
        schema: its columns; none if it cannot be read.
        group_rows: rows of each row group.
        broken: reason code if it cannot be read, else empty.
        detail: the reason in a sentence.
    """

    file: InputFile
    schema: pa.Schema
    group_rows: tuple[int, ...]
    broken: str = ""
    detail: str = ""


def look_at(
    files: Sequence[InputFile], image_column: str | None, label_column: str | None
) -> tuple[list[Found], pa.Schema]:
    """Read every footer.

    Args:
        files: what to read.
        image_column: as the user said.
        label_column: as the user said.

    Returns:
        What each file holds, and the columns that folders say (see `nanograd.tables.columns`).
    """
    folders = columns.schema(file.place for file in files)

    def look(file: InputFile) -> Found:
        reason = "broken_file"
        try:
            with open_parquet(file.place) as parquet:
                reason = "wrong_schema"
                schema, footer = parquet.schema_arrow, parquet.metadata
                find_image_column(schema, image_column)
                all_columns = columns.add_columns(schema.empty_table(), file.place, folders)
                find_label_column(all_columns.schema, label_column)
                groups = range(footer.num_row_groups)
                rows = tuple(footer.row_group(group).num_rows for group in groups)
                return Found(file, schema, rows)
        except DataError as error:
            return Found(file, pa.schema([]), (), reason, str(error))

    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(look, files)), folders


def kept_columns(found: Sequence[Found], folders: pa.Schema, keep: Sequence[str]) -> pa.Schema:
    """The columns to keep, each with a type that holds the values of all files.

    Raises:
        DataError: no file has such a column, or its types do not go together.
    """
    return pa.schema([_kept(found, folders, name) for name in keep])


def _kept(found: Sequence[Found], folders: pa.Schema, name: str) -> pa.Field:
    types = [each.schema.field(name).type for each in found if name in each.schema.names]
    if name in folders.names and any(
        name in columns.values(each.file.place) for each in found if name not in each.schema.names
    ):
        types.append(folders.field(name).type)
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


def cut(group_rows: Sequence[int], all_rows: int) -> Iterator[RowRange]:
    """A file in pieces: runs of row groups, and parts of a row group that is large.

    Args:
        group_rows: rows of each of its row groups.
        all_rows: of the job: a large one has larger pieces.
    """
    wanted = min(_MOST_ROWS, max(_LEAST_ROWS, all_rows // _PARTS))
    start, first_row, num_rows = 0, 0, 0
    for group, rows in enumerate(group_rows):
        num_rows += rows
        if num_rows >= wanted or group == len(group_rows) - 1:
            yield from _pieces((start, group + 1), first_row, num_rows, wanted)
            start, first_row, num_rows = group + 1, first_row + num_rows, 0
    if not group_rows:
        yield RowRange((0, 0), 0, 0, 0)


def _pieces(
    row_groups: tuple[int, int], first_row: int, num_rows: int, wanted: int
) -> Iterator[RowRange]:
    number = max(1, min(_MOST_PIECES, num_rows // wanted))
    ends = [num_rows * (piece + 1) // number for piece in range(number)]
    for skip, end in zip([0, *ends], ends, strict=False):
        yield RowRange(row_groups, skip, first_row + skip, end - skip)
