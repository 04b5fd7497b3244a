"""A part of a batch job: its input and its execution."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

from nanograd.errors import Reason, Rejected
from nanograd.images.parquet import RowRange
from nanograd.jobs.output import commit_files, commit_receipt
from nanograd.jobs.receipts import Counts, Reading, Receipt


@dataclass(frozen=True, kw_only=True)
class Part:
    """The unit of a job: it is committed as a whole."""

    id: str  # names its receipt
    files: tuple[str, ...]  # the input files it reads
    # Of each what an `InputFile` says, and whatever else determines its rows.
    versions: tuple[tuple[int | str | None, ...], ...] = ()
    ranges: tuple[RowRange, ...] = ()  # of each, if they are tables
    num_rows: int = 0  # rows it must account for
    # Of its files, as planned; empty where labels are in the files.
    labels: tuple[int | None, ...] = ()
    rejection: Rejected | None = None  # of its file, if that cannot be read
    # Names its output files, whatever the version of its input; the id if empty.
    name: str = ""
    reading: Reading | None = None  # of a retry: how it reads rows
    quarantine: tuple[str, ...] = ()  # files whose rows it reads; none for all rows in `ranges`
    is_retried: bool = False  # whether its quarantine is read again by the same command
    output: str = ""  # folder or URI for its files: the output, or its staging

    @property
    def num_broken(self) -> int:
        """Return 1 for a file whose rows are unknown; it counts as no row."""
        return int(self.rejection is not None and self.rejection.reason is Reason.BROKEN_FILE)

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
    part: Part,
    files: Mapping[str, Any],
    counts: Counts,
    contents: Mapping[str, str | None],
) -> Receipt:
    """Commit the files of a part, its receipt last.

    Args:
        part: the part.
        files: contents by their names in the output.
        counts: what became of its rows.
        contents: what identifies the content of input files, where that is known.
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
