"""The content of Parquet files by their footers and of CSV files, and the plan of their parts.

Files of one job may differ in their image column, in columns that are not read, and in kept columns
as far as one type holds the values of all.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nanograd.data.csv import CSV
from nanograd.errors import DataError, Reason, Rejection, UsageError
from nanograd.images import columns
from nanograd.images.columns import Partitions, find_partitions
from nanograd.images.conversion import required_columns
from nanograd.images.csv_files import scan_csv
from nanograd.images.files import RowRange, open_parquet
from nanograd.images.widths import fits, holds
from nanograd.jobs.inputs import InputFile, entity_tag
from nanograd.runtime import storage
from nanograd.runtime.events import Listener, warning
from nanograd.settings.specs import ReadOptions

# A part has about this many rows: enough to be worth committing, few enough to be repeated after a
# failure, and enough parts for many cores where there are enough rows.
_MAX_ROWS, _MIN_ROWS, _NUM_PARTS = 50_000, 2_500, 64
# Large rows: less than this, uncompressed, because kept columns of a part are held in memory.
_MAX_BYTES = 256_000_000
# Reading the end of a row group decompresses its beginning, so it is cut into few parts.
_MAX_CUTS = 8
# More rows are not written to one file: it is made in memory.
_MAX_ROWS_PER_FILE = 1_000_000
ALL = "*"  # among the columns to keep
# Footers in an object store take a round trip each; so many are read at once.
_NUM_THREADS = 16


class ScannedFile(NamedTuple):
    """A Parquet or CSV file."""

    file: InputFile  # its place, size and time
    schema: pa.Schema = pa.schema([])  # its columns; empty if it cannot be opened
    group_rows: tuple[int, ...] = ()  # rows of each row group
    rejection: Rejection | None = None  # why it cannot be used
    num_bytes: int = 0  # of its columns, uncompressed
    tag: str | None = None  # of its content, in an object store

    @property
    def version(self) -> tuple[int | str, ...]:
        """What `check_version` compares."""
        return (*self.file[1:], self.tag) if self.tag else self.file[1:]

    @property
    def num_rows(self) -> int:
        """Rows of the file by its footer."""
        return sum(self.group_rows)


def scan_files(
    files: Sequence[InputFile],
    all_files: Sequence[InputFile],
    roots: Sequence[str],
    readings: Sequence[ReadOptions],
) -> tuple[list[ScannedFile], Partitions]:
    """Read footers, and whole CSV files.

    Args:
        files: whose footers to read.
        all_files: of the job.
        roots: of `inputs.roots_of`.
        readings: how images and labels are read: by the first of them that can.

    Returns:
        The content of each file, and the partition columns of all files of the job.

    Raises:
        UsageError: no file has a column that is named.
        DataError: no file of the job can be used.
    """
    partitions = find_partitions((file.place for file in all_files), roots)
    check = remember(
        lambda schema, file: columns_to_read(schema, file, partitions, readings), partitions
    )

    def scan(file: InputFile) -> ScannedFile:
        try:
            tag = None
            if storage.is_remote(file.place):
                with storage.open_file(file.place) as stream:
                    tag = entity_tag(stream)
            if file.place.lower().endswith(CSV):
                schema, num_rows, num_bytes = scan_csv(file.place)
                rows: tuple[int, ...] = (num_rows,)
            else:
                with open_parquet(file.place) as parquet:
                    schema, footer = parquet.schema_arrow, parquet.metadata
                    groups = [footer.row_group(group) for group in range(footer.num_row_groups)]
                    rows = tuple(group.num_rows for group in groups)
                    num_bytes = sum(group.total_byte_size for group in groups)
        except DataError as error:
            rejection = Rejection(None, Reason.BROKEN_FILE, str(error))
            return ScannedFile(file, rejection=rejection)
        try:
            check(schema, file.place)
        except DataError as error:
            detail = f"{error} (all {sum(rows):,} rows of the file)"
            return ScannedFile(file, schema, rows, Rejection(None, Reason.WRONG_SCHEMA, detail))
        return ScannedFile(file, schema, rows, num_bytes=num_bytes, tag=tag)

    if any(storage.is_remote(file.place) for file in files):
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            scanned = list(pool.map(scan, files))
    else:  # threads take longer than a local file system
        scanned = list(map(scan, files))
    if len(files) < len(all_files):  # the others have been used already
        return scanned, partitions
    for options in readings:
        _check_named_columns(scanned, partitions, options)
    rejected = [(each.file.place, each.rejection.detail) for each in scanned if each.rejection]
    if len(rejected) == len(scanned):
        [(place, detail), *others] = rejected
        more = f"; none of {len(others):,} more files can be used" if others else ""
        named = detail if detail.startswith(place) else f"{place}: {detail}"
        raise DataError(f"{named}{more}")
    return scanned, partitions


def remember(
    choose: Callable[[pa.Schema, str], list[str]], partitions: Partitions
) -> Callable[[pa.Schema, str], list[str]]:
    """Return a function that chooses columns once for files of one schema that follow each other.

    Where folders are columns, the choice depends on the file, too.
    """
    last: list[tuple[pa.Schema, list[str]]] = []

    def chosen(schema: pa.Schema, file: str) -> list[str]:
        for known, names in last:
            if known.equals(schema, check_metadata=True):
                return names
        names = choose(schema, file)
        if not partitions.schema.names:
            last[:] = [(schema, names)]
        return names

    return chosen


def columns_to_read(
    schema: pa.Schema, file: str, partitions: Partitions, readings: Sequence[ReadOptions]
) -> list[str]:
    """Name the columns that `read_with` needs; raise DataError if no options fit the file."""
    found, problem = list[str](), DataError("")
    for options in readings:
        try:
            found += required_columns(schema, file, partitions, options)
        except DataError as error:
            problem = problem if problem.args[0] else error
    if not found:
        raise problem
    return list(dict.fromkeys(found))


def _check_named_columns(
    scanned: Sequence[ScannedFile], partitions: Partitions, options: ReadOptions
) -> None:
    """Raise UsageError for a named column that no file has, if any file can be opened."""
    named = {"--image-column": options.image_column}
    if options.label_column not in (columns.NO_LABELS, *partitions.schema.names):
        named["--label-column"] = options.label_column
    for flag, name in named.items():
        lacks = name and not any(each.schema.get_all_field_indices(name) for each in scanned)
        if lacks and (present := _list_columns(scanned, partitions)):
            raise UsageError(f"{flag} {name}: no file has this column; there are {present}")


def _list_columns(scanned: Sequence[ScannedFile], partitions: Partitions) -> str:
    """List the columns of all files that can be opened; "" if there are none."""
    present = dict.fromkeys(name for each in scanned for name in each.schema.names)
    return columns.list_names([*present, *partitions.schema.names]) if present else ""


def warn_of_unusable_labels(
    scanned: Sequence[ScannedFile],
    partitions: Partitions,
    options: ReadOptions,
    listener: Listener,
) -> None:
    """Emit a warning of each column that is named like labels but cannot hold digits."""
    if options.label_column is not None:
        return
    found = Counter[tuple[str, str]]()
    for each in scanned:
        schema = partitions.extend(each.schema, each.file.place)
        unusable = columns.unusable_labels(schema) if each.rejection is None else []
        if unusable and columns.find_label_column(schema) is None:
            found.update((field.name, str(field.type)) for field in unusable)
    for (name, type_), num_files in found.items():
        text = f"column {name!r} holds {type_}, which cannot be digits: {num_files:,} of"
        rest = f"{len(scanned):,} files are predicted without labels; choose a --label-column"
        listener(warning(f"{text} {rest}"))


def expand_kept(
    scanned: Sequence[ScannedFile],
    partitions: Partitions,
    keep: Sequence[str],
    readings: Sequence[ReadOptions],
) -> list[str]:
    """Expand "*" in columns to keep: all columns but those of the images."""
    if ALL not in keep:
        return list(dict.fromkeys(keep))
    usable = [each.schema for each in scanned if each.rejection is None]
    images = set[str]()
    for schema in usable:
        for options in readings:
            with suppress(DataError):  # another of them fits
                images.update(columns.find_image_column(schema, options.image_column).names)
    names = [name for schema in usable for name in schema.names if name not in images]
    named = [name for name in keep if name != ALL]
    return list(dict.fromkeys([*names, *partitions.schema.names, *named]))


def describe_columns(
    scanned: Sequence[ScannedFile], partitions: Partitions, readings: Sequence[ReadOptions]
) -> dict[str, int]:
    """Count the files by the columns that are read of them, and why, or by what is wrong."""
    found = Counter[str]()
    for each in scanned:
        if each.rejection:
            found[each.rejection.detail] += 1
            continue
        whole = partitions.extend(each.schema, each.file.place)
        for options in readings:
            with suppress(DataError):  # another of them fits
                found[_describe_columns(each.schema, whole, options)] += 1
                break
    return dict(found.most_common(20))


def _describe_columns(schema: pa.Schema, whole: pa.Schema, options: ReadOptions) -> str:
    images = columns.find_image_column(schema, options.image_column)
    label = columns.find_label_column(whole, options.label_column)
    first, last = images.names[0], images.names[-1]
    if first == last:
        kind = str(schema.field(first).type).replace("\n", " ")
        about = f"images in {first} ({kind}; {images.choice})"
    else:
        about = f"images in {first} to {last} ({images.choice})"
    if label is None:
        return f"{about}, no labels"
    reason = "named" if options.label_column else "by its name"
    return f"{about}, labels in {label} ({whole.field(label).type}; {reason})"


def unify_kept(
    scanned: Sequence[ScannedFile], partitions: Partitions, keep: Sequence[str]
) -> pa.Schema:
    """Return the columns to keep, each with a type that holds the values of all files.

    Raises:
        UsageError: no file has such a column.
        DataError: no type holds all values of the files.
    """
    return pa.schema([_unify(scanned, partitions, name) for name in keep])


def _unify(scanned: Sequence[ScannedFile], partitions: Partitions, name: str) -> pa.Field:
    usable = [each for each in scanned if each.rejection is None]
    types = [each.schema.field(name).type for each in usable if name in each.schema.names]
    if name in partitions.schema.names and any(
        name in partitions.values(each.file.place)
        for each in usable
        if name not in each.schema.names
    ):
        types.append(partitions.schema.field(name).type)
    if not types:
        present = _list_columns(usable, partitions)
        raise UsageError(f"--keep {name}: no file has this column; there are {present}")
    plain = {type_.value_type if pa.types.is_dictionary(type_) else type_ for type_ in types}
    schemas = [pa.schema([pa.field(name, type_)]) for type_ in sorted(plain, key=str)]
    try:
        field = pa.unify_schemas(schemas, promote_options="permissive").field(name)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        field = None
    if (
        field is None
        or not all(holds(field.type, each) for each in plain)
        or not all(fits(each.file.place, each.schema, name, field.type) for each in usable)
    ):
        listed = " and ".join(sorted(map(str, plain)))
        raise DataError(
            f"--keep {name}: the files hold {listed}, and no type holds the values of all; leave "
            "it out or write one type"
        )
    return field


def group(
    scanned: Sequence[ScannedFile],
    rows_per_file: int | None = None,
    together: Iterable[Sequence[str]] = (),
) -> Iterator[list[tuple[ScannedFile, RowRange]]]:
    """Yield the content of each part: a file, rows of a large one, or many small ones.

    Args:
        scanned: the files.
        rows_per_file: rows of a part; None for as many as suit the job.
        together: files that earlier parts had, which are not mixed with others.
    """
    num_rows = sum(each.num_rows for each in scanned if not each.rejection)
    wanted = min(rows_per_file or wanted_rows(num_rows), _MAX_ROWS_PER_FILE)
    merge = len(scanned) > _NUM_PARTS or rows_per_file is not None
    earlier = {place: places[0] for places in together for place in places}
    sets: dict[str | None, list[ScannedFile]] = {}
    for each in scanned:
        sets.setdefault(earlier.get(each.file.place), []).append(each)
    for owner, files in sets.items():
        yield from _group(files, wanted, merge=merge or owner is not None)


def _group(
    scanned: Sequence[ScannedFile], wanted: int, *, merge: bool
) -> Iterator[list[tuple[ScannedFile, RowRange]]]:
    small: list[tuple[ScannedFile, RowRange]] = []
    small_rows = small_bytes = 0
    for each in scanned:
        if each.rejection:
            yield [(each, RowRange((0, 0), 0, 0, each.num_rows))]
            continue
        ranges = list(cut(each.group_rows, wanted, each.num_bytes))
        if not merge or len(ranges) > 1:
            yield from ([(each, rows)] for rows in ranges)
            continue
        small.append((each, ranges[0]))
        small_rows += ranges[0].num_rows
        small_bytes += each.num_bytes
        if small_rows >= wanted or small_bytes >= _MAX_BYTES:
            yield small
            small, small_rows, small_bytes = [], 0, 0
    if small:
        yield small


def limit(
    contents: Iterable[list[tuple[ScannedFile, RowRange]]], num_rows: int
) -> Iterator[list[tuple[ScannedFile, RowRange]]]:
    """Yield the content of parts up to a number of rows."""
    for part in contents:
        first = []
        for scanned, rows in part:
            if num_rows <= 0:
                break
            first.append((scanned, rows._replace(num_rows=min(rows.num_rows, num_rows))))
            num_rows -= rows.num_rows
        if first:
            yield first


def take_kept(table: pa.Table, name: str, type_: pa.DataType, rows: NDArray[np.int64]) -> Any:
    """Return some rows of a column to keep; null in a file that does not have it."""
    if name not in table.column_names:
        return pa.nulls(len(rows), type_)
    column = table.column(name).take(pa.array(rows))
    try:
        return column if column.type == type_ else column.cast(type_)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"--keep {name}: a value does not fit {type_}, the type of other files ({error}); "
            "leave it out"
        ) from error


def cut(group_rows: Sequence[int], wanted: int, num_bytes: int = 0) -> Iterator[RowRange]:
    """Cut a file into runs of row groups, and large row groups into pieces.

    Args:
        group_rows: rows of each row group.
        wanted: rows of a piece.
        num_bytes: of the file, uncompressed; large rows make pieces of fewer rows.
    """
    row_bytes = max(1, num_bytes // max(1, sum(group_rows)))
    wanted = min(wanted, max(1, _MAX_BYTES // row_bytes))
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


def wanted_rows(num_job_rows: int) -> int:
    """Return the rows of a part of a job."""
    return min(_MAX_ROWS, max(_MIN_ROWS, num_job_rows // _NUM_PARTS))
