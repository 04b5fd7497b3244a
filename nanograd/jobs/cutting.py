"""The rows of each part of a prediction: a file, rows of a large one, or many small files."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from nanograd.images.parquet import RowRange
from nanograd.images.scan import ScannedFile
from nanograd.jobs.part import Part, part_id

# A part has about this many rows: enough to be worth committing, few enough to be repeated after a
# failure, and enough parts for many cores where there are enough rows.
_MAX_ROWS, _MIN_ROWS, _NUM_PARTS = 50_000, 2_500, 64
# Large rows: less than this, uncompressed, because kept columns of a part are held in memory.
_MAX_BYTES = 256_000_000
# Reading the end of a row group decompresses its beginning, so it is cut into few parts.
_MAX_CUTS = 8
# More rows are not written to one file: it is made in memory.
_MAX_ROWS_PER_FILE = 1_000_000


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
    num_rows = sum(each.num_rows for each in scanned if not each.rejected)
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
        if each.rejected:
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


def cut_into_parts(
    settings: Sequence[Any], groups: Iterable[Sequence[tuple[ScannedFile, RowRange]]]
) -> list[Part]:
    """Return a part for each group of rows.

    Args:
        settings: JSON values that determine what becomes of the rows.
        groups: of `group`; a file that cannot be read is one alone.
    """
    parts, numbers = list[Part](), Counter[str]()
    for contents in groups:
        files, rejection = [scanned.file for scanned, _ in contents], contents[0][0].rejected
        ranges = tuple(rows for _, rows in contents)
        what = zip(files, ranges, strict=True)
        first = files[0].place
        part = Part(
            id=part_id(*settings, [(file, None if rejection else rows) for file, rows in what]),
            name=part_id(first, str(numbers[first])),
            files=tuple(file.place for file in files),
            versions=tuple(scanned.version for scanned, _ in contents),
            ranges=ranges,
            num_rows=sum(rows.num_rows for rows in ranges),
            rejection=rejection,
        )
        numbers[first] += 1
        parts.append(part)
    return parts
