"""The parts of a batch job: how rows are cut into parts, and how a part is run and committed.

A part of a prediction is a file, rows of a large one, or many small files.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from sys import maxsize
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

from nanograd.errors import Rejected
from nanograd.images.parquet import RowRange
from nanograd.images.scan import ScannedFile
from nanograd.jobs.output import commit_files, commit_receipt
from nanograd.jobs.receipts import Counts, Reading, Receipt

# A part has about this many rows: enough to be worth committing, few enough to be repeated after a
# failure, and enough parts for many cores where there are enough rows.
_MAX_ROWS, _MIN_ROWS, _NUM_PARTS = 50_000, 2_500, 64
# Large rows: less than this, uncompressed, because kept columns of a part are held in memory.
_MAX_BYTES = 256_000_000
# Reading the end of a row group decompresses its beginning, so it is cut into few parts.
_MAX_CUTS = 8
# More rows are not written to one file: it is made in memory.
_MAX_ROWS_PER_FILE = 1_000_000

FileRows: TypeAlias = tuple[ScannedFile, RowRange]


@dataclass(frozen=True, kw_only=True)
class Part:
    """The unit of a job: it is committed as a whole."""

    id: str  # names its receipt
    files: tuple[str, ...]  # the input files it reads
    # Of each what an `InputFile` says, and whatever else determines its rows, such as its label.
    versions: tuple[tuple[int | str | None, ...], ...] = ()
    ranges: tuple[RowRange, ...] = ()  # of each, if they are tables
    num_rows: int = 0  # rows it must account for
    rejection: Rejected | None = None  # of its file, if that cannot be read
    # Names its output files, whatever the version of its input; the id if empty.
    name: str = ""
    reading: Reading | None = None  # of a retry: how it reads rows
    quarantine: tuple[str, ...] = ()  # files whose rows it reads; none for all rows in `ranges`
    output: str = ""  # folder or URI for its files: the output, or its staging

    @property
    def stem(self) -> str:
        """Return the name of its output files, without an ending."""
        return f"part-{self.name or self.id}"


class DonePart(NamedTuple):
    """A part that was just done."""

    receipt: Receipt
    seconds: float  # the time it took, where it ran


Work: TypeAlias = Callable[[Part], Receipt]
RunParts: TypeAlias = Callable[[Sequence[Part]], Iterable[DonePart]]


def part_id(*what: Any) -> str:
    """Return a short name that follows from values of JSON, whatever the order of their keys.

    >>> part_id({"a": 1, "b": 2}) == part_id({"b": 2, "a": 1})
    True
    """
    return sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def run_local(work: Work) -> RunParts:
    """Return a function that runs parts one after the other in this process, without Ray."""
    return lambda parts: (run_part(work, part) for part in parts)


def run_part(work: Work, part: Part) -> DonePart:
    """Run a part and measure its time."""
    began = perf_counter()
    receipt = work(part)
    return DonePart(receipt, perf_counter() - began)


def commit_part(
    part: Part, files: Mapping[str, Any], counts: Counts, contents: Mapping[str, str | None]
) -> Receipt:
    """Commit the files of a part by their names in the output, its receipt last.

    `contents` has what identifies the content of input files, where that is known.
    """
    receipt = Receipt(
        part=part.id,
        name=part.name,
        inputs=part.files,
        versions=part.versions,
        contents=tuple(contents.get(file) for file in part.files),
        files=commit_files(part.output, files),
        counts=counts,
        ranges=part.ranges,
        reading=part.reading,
    )
    commit_receipt(part.output, receipt)
    return receipt


def plan_parts(
    settings: Sequence[Any], groups: Iterable[Sequence[FileRows]], limit: int = maxsize
) -> Iterator[Part]:
    """Yield a part for each group of rows.

    Args:
        settings: JSON values that determine what becomes of the rows.
        groups: of `group`; a file that cannot be read is one alone.
        limit: number of rows after which the rest is left out.
    """
    numbers = Counter[str]()
    for contents in groups:
        scanned, ranges = list[ScannedFile](), list[RowRange]()
        for each, rows in contents:
            if limit > 0:
                scanned.append(each)
                ranges.append(rows._replace(num_rows=min(rows.num_rows, limit)))
                limit -= rows.num_rows
        if not scanned:
            return
        first, rejection = scanned[0].file.place, scanned[0].rejected
        what = [
            (each.file, None if rejection else rows)
            for each, rows in zip(scanned, ranges, strict=True)
        ]
        yield Part(
            id=part_id(*settings, what),
            name=part_id(first, str(numbers[first])),
            files=tuple(each.file.place for each in scanned),
            versions=tuple(each.version for each in scanned),
            ranges=tuple(ranges),
            num_rows=sum(rows.num_rows for rows in ranges),
            rejection=rejection,
        )
        numbers[first] += 1


def group(
    scanned: Sequence[ScannedFile],
    rows_per_file: int | None = None,
    together: Iterable[Sequence[str]] = (),
) -> Iterator[list[FileRows]]:
    """Yield the content of each part.

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
        small, small_rows, small_bytes = list[FileRows](), 0, 0
        for each in files:
            if each.rejected:
                yield [(each, RowRange((0, 0), 0, 0, each.num_rows))]
                continue
            ranges = list(cut(each.group_rows, wanted, each.num_bytes))
            if len(ranges) > 1 or not (merge or owner):
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


def wanted_rows(num_job_rows: int) -> int:
    """Return the rows of a part of a job."""
    return min(_MAX_ROWS, max(_MIN_ROWS, num_job_rows // _NUM_PARTS))


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
