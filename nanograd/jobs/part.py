"""The parts of a batch job: how rows are divided into parts, and how a part is run and committed.

A part of a prediction is one table, some rows of a large table, several small tables, or some
pictures. A part of an ingestion is some pictures.

With `--retry-quarantine`, the quarantined rows of a part become a new part, which has its own
predictions and quarantine. The old part keeps its predictions. But a file that could not be used at
all is divided into parts again. A retry may have other options, so receipts store the options of
the first command and of each retry. If an output file is damaged, its rows are read again with the
first options. The rows that are then quarantined are read with the options of the first retry, and
so on.
"""

import json
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from sys import maxsize
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

from nanograd.errors import UnreadableError
from nanograd.images.inputs import Version
from nanograd.images.parquet import RowRange
from nanograd.images.scan import ScannedFile
from nanograd.jobs.output import Earlier, commit_files, commit_receipt
from nanograd.jobs.receipts import Counts, Receipt
from nanograd.runtime import storage
from nanograd.settings.specs import ReadOptions

# A job should have 64 parts, so that many cores can share it. A part should have at least 2,500
# rows, because each commit takes time, and at most 50,000, because a failure repeats a whole part.
# Reading the numbers of a picture takes up to a second, so a part has _FEWER times as few pictures.
_MAX_ROWS, _MIN_ROWS, _NUM_PARTS, _FEWER = 50_000, 2_500, 64, 125
# Maximum uncompressed bytes of a part, because its kept columns are held in memory. For pictures,
# these are the bytes of their files: progress and repetition are per part, too.
_MAX_BYTES = 256_000_000
# Maximum parts of a row group: reading the end of a row group decompresses its beginning.
_MAX_CUTS = 8
# Maximum rows of an output file, because it is made in memory.
_MAX_ROWS_PER_FILE = 1_000_000

FileRows: TypeAlias = tuple[ScannedFile, RowRange]


@dataclass(frozen=True, kw_only=True)
class Part:
    """The unit of a job, which is committed as a whole."""

    id: str  # the name of its receipt
    files: tuple[str, ...]  # the input files that it reads
    # For each file: the attributes of its `InputFile`, and what else determines its rows (a label).
    versions: tuple[Version, ...] = ()
    ranges: tuple[RowRange, ...] = ()  # the rows to read of each file, if the files are tables
    num_rows: int = 0  # number of rows that its receipt must count
    rejection: UnreadableError | None = None  # why its only file cannot be read
    # Part of the names of its output files. It does not depend on the version of the input. If
    # empty, the id is used.
    name: str = ""
    # Options with which rows are read: first all rows, then those that were refused, and so on. If
    # empty, the options of the job are used.
    readings: tuple[ReadOptions, ...] = ()
    # In a retry: quarantine files that list the rows to read, by the last of the options.
    quarantine: tuple[str, ...] = ()
    output: str = ""  # folder or URI for its files: the output, or its staging

    @property
    def has_tables(self) -> bool:
        """Whether the files are tables, and not pictures."""
        return bool(self.ranges)

    @property
    def stem(self) -> str:
        """Return the name of its output files without suffix."""
        return f"part-{self.name or self.id}"


class DonePart(NamedTuple):
    """A part that was just done."""

    receipt: Receipt
    seconds: float  # its duration, measured where it ran


Work: TypeAlias = Callable[[Part], Receipt]
# A job that stops early closes it, which ends the threads of Ray Data.
DoneParts: TypeAlias = Generator[DonePart, None, None]
RunParts: TypeAlias = Callable[[Sequence[Part]], DoneParts]


def part_id(*what: Any) -> str:
    """Return a short hash of JSON values, which does not depend on the order of their keys.

    >>> part_id({"a": 1, "b": 2}) == part_id({"b": 2, "a": 1})
    True
    """
    return sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def run_local(work: Work) -> RunParts:
    """Return a function that runs parts one after another in this process, without Ray."""
    return lambda parts: (run_part(work, part) for part in parts)


def run_part(work: Work, part: Part) -> DonePart:
    """Run a part and measure its time."""
    began = perf_counter()
    receipt = work(part)
    return DonePart(receipt, perf_counter() - began)


def commit_part(
    part: Part, files: Mapping[str, Any], counts: Counts, contents: Mapping[str, str | None]
) -> Receipt:
    """Commit the files of a part under their names in the output, and then its receipt.

    `contents` maps input files to what identifies their content, if it is known.
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
        readings=part.readings,
    )
    commit_receipt(part.output, receipt)
    return receipt


def plan_parts(
    settings: Sequence[Any],
    groups: Iterable[Sequence[FileRows]],
    limit: int = maxsize,
    readings: tuple[ReadOptions, ...] = (),
) -> Iterator[Part]:
    """Yield a part for each group of rows (see `group`), up to `limit` rows in all parts together.

    The JSON values `settings` and the `readings` (see `Part`) determine the output of a row.
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
        has_tables = rejection is not None or scanned[0].columns is not None
        versions = [each.version for each in scanned]
        what = [[e.file.place for e in scanned], versions, None if rejection else ranges]
        yield Part(
            id=part_id(*settings, *(each.identity() for each in readings), *what),
            name=part_id(first, str(numbers[first])),
            files=tuple(each.file.place for each in scanned),
            versions=tuple(versions),
            ranges=tuple(ranges) if has_tables else (),
            num_rows=sum(rows.num_rows for rows in ranges),
            rejection=rejection,
            readings=readings,
        )
        numbers[first] += 1


def group(
    scanned: Sequence[ScannedFile],
    rows_per_file: int | None = None,
    together: Iterable[Sequence[str]] = (),
    has_numbers: bool = False,
) -> Iterator[list[FileRows]]:
    """Divide tables, or pictures, into groups of rows, one group for each part.

    Files in one item of `together`, which were a part before, are not mixed with other files. A
    table that cannot be read is a group of its own. By default, a part has `wanted_rows`.
    """
    num_rows = sum(each.num_rows for each in scanned if not each.rejected)
    wanted = min(rows_per_file or wanted_rows(num_rows, has_numbers), _MAX_ROWS_PER_FILE)
    merge = len(scanned) > _NUM_PARTS or rows_per_file is not None
    earlier = {place: some[0] for some in together for place in some}
    by_owner: dict[str | None, list[ScannedFile]] = {}
    for each in scanned:
        by_owner.setdefault(earlier.get(each.file.place), []).append(each)
    for owner, files in by_owner.items():
        small, small_rows, small_bytes = list[FileRows](), 0, 0
        for each in files:
            if each.rejected:
                yield [(each, RowRange((0, 0), 0, 0, each.num_rows))]
                continue
            ranges = list(cut(each.group_rows, wanted, each.num_bytes))
            if len(ranges) > 1 or not (merge or owner or each.columns is None):
                yield from ([(each, rows)] for rows in ranges)
                continue
            if small and small_bytes + each.num_bytes > _MAX_BYTES:
                yield small
                small, small_rows, small_bytes = [], 0, 0
            small.append((each, ranges[0]))
            small_rows += ranges[0].num_rows
            small_bytes += each.num_bytes
            if small_rows >= wanted:
                yield small
                small, small_rows, small_bytes = [], 0, 0
        if small:
            yield small


def wanted_rows(num_job_rows: int, has_numbers: bool = False) -> int:
    """Return the number of rows, or of pictures with numbers, that a part of a job should have."""
    fewer = _FEWER if has_numbers else 1
    return min(_MAX_ROWS // fewer, max(_MIN_ROWS // fewer, num_job_rows // _NUM_PARTS))


def cut(group_rows: Sequence[int], wanted: int, num_bytes: int = 0) -> Iterator[RowRange]:
    """Divide a file into pieces: several small row groups, or a part of a large row group.

    A piece should have `wanted` rows, but fewer if the `num_bytes` uncompressed bytes are many.
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


def plan_retry(
    earlier: Earlier, files: Set[str], options: ReadOptions, output: str
) -> tuple[Earlier, list[Part]]:
    """Plan to read the quarantined rows of the parts to keep again, with `options`.

    Returns:
        The receipts to keep, without these rows, and those that are stale, because no row is left
            or their only file, which was unusable, is in `files`.
        A new part for the quarantined rows of each part whose input files are all in `files`.
    """
    kept, stale, parts = list[Receipt](), list(earlier.stale), list[Part]()
    for receipt in earlier.kept:
        rest = receipt
        if receipt.counts.quarantined and not receipt.unusable and files >= {*receipt.inputs}:
            rest = receipt.without_quarantine()
            readings = tuple(each for each, _ in groupby((*receipt.readings, options)))
            quarantine = sorted(receipt.files.items() - rest.files.items())
            parts.append(
                Part(
                    id=part_id(receipt.part, [each.identity() for each in readings], quarantine),
                    name=part_id("retry", receipt.name),
                    files=receipt.inputs,
                    versions=receipt.versions,
                    ranges=receipt.ranges,
                    num_rows=receipt.counts.quarantined,
                    readings=readings,
                    quarantine=tuple(storage.join(output, name) for name, _ in quarantine),
                )
            )
        if rest.files and receipt.unusable not in files:
            kept.append(rest)
        else:
            stale.append(receipt)
    return Earlier(tuple(kept), tuple(stale)), parts
