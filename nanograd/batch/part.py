"""A part of a batch job: its input, its execution and its receipt.

The receipt, `OUT/_receipts/ID.json`, is written last of a part's files: a part with one is done.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

from nanograd.errors import Reason, Rejection
from nanograd.runtime import json_files, storage
from nanograd.tables.files import RowRange

Receipt: TypeAlias = dict[str, Any]

RECEIPTS = "_receipts"
_OF_PART = ("part", "inputs", "versions", "files", "retries")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of a job that is committed as a whole."""

    id: str  # names its receipt
    files: tuple[str, ...]  # the input files it reads
    # Size and time of change of each, and whatever else determines its rows.
    versions: tuple[tuple[int | str | None, ...], ...] = ()
    ranges: tuple[RowRange, ...] = ()  # of each, if they are Parquet files
    num_rows: int = 0  # rows it must account for
    # Of its files, as planned; empty where labels are in the files.
    labels: tuple[int | None, ...] = ()
    rejection: Rejection | None = None  # of its file, if that cannot be read
    # Names its output files, whatever the version of its input; the id if empty.
    name: str = ""
    # Folder in the output for what it makes, while what it replaces stands there.
    below: str = ""

    @property
    def num_broken(self) -> int:
        """Return 1 for a file whose rows are unknown, which counts as one line of quarantine."""
        return int(self.rejection is not None and self.rejection.reason is Reason.BROKEN_FILE)

    @property
    def stem(self) -> str:
        """Return the name of its output files, without an ending."""
        return f"part-{self.name or self.id}"

    def to_json(self) -> str:
        """Encode the part, to be sent to another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Part":
        """Decode a part from `to_json`."""
        values = json.loads(text)
        if found := values["rejection"]:
            values["rejection"] = Rejection(found["row"], Reason(found["reason"]), found["detail"])
        values["ranges"] = [RowRange(tuple(groups), *rows) for groups, *rows in values["ranges"]]
        values["versions"] = map(tuple, values["versions"])
        for name in ("files", "versions", "ranges", "labels"):
            values[name] = tuple(values[name])
        return cls(**values)


class DonePart(NamedTuple):
    """A part that was just done."""

    receipt: Receipt  # its account
    seconds: float  # the time it took, where it ran


Work: TypeAlias = Callable[[Part], Receipt]
RunParts: TypeAlias = Callable[[Sequence[Part]], Iterable[DonePart]]


def part_id(*what: object) -> str:
    """Return a short name that follows from the contents of a part."""
    return sha256(json.dumps([str(each) for each in what]).encode()).hexdigest()[:16]


def run_local(work: Work) -> RunParts:
    """Return a function that runs parts one after the other in this process, without Ray."""
    return lambda parts: (run_part(work, part) for part in parts)


def run_part(work: Work, part: Part) -> DonePart:
    """Run a part and measure its time."""
    began = perf_counter()
    receipt = work(part)
    return DonePart(receipt, perf_counter() - began)


def commit_part(place: str, part: Part, files: dict[str, bytes], counts: dict[str, Any]) -> Receipt:
    """Commit the files of a part, its receipt last.

    Args:
        place: output folder or URI.
        part: the part.
        files: name below `place` -> content.
        counts: rows, quarantined, reasons and other counts to add up over all parts.
    """
    place = storage.join(place, part.below) if part.below else place
    for name, data in files.items():
        storage.commit(storage.join(place, name), data)
    checksums = {name: storage.checksum(data) for name, data in files.items()}
    receipt = {
        "part": part.id,
        "inputs": list(part.files),
        "versions": [list(each) for each in part.versions],
        "files": checksums,
        **counts,
    }
    json_files.commit_manifest(storage.join(place, RECEIPTS, f"{part.id}.json"), receipt)
    return receipt


def total(receipts: Sequence[Receipt]) -> Receipt:
    """Add up receipts: numbers, counts by name; lists are joined."""
    added: Receipt = {"reasons": {}}
    for receipt in receipts:
        for name, value in receipt.items():
            if isinstance(value, int):
                added[name] = added.get(name, 0) + value
            elif name not in _OF_PART and isinstance(value, dict):
                counts = added.setdefault(name, {})
                for each, count in value.items():
                    counts[each] = counts.get(each, 0) + count
            elif name not in _OF_PART:
                added.setdefault(name, []).extend(value)
    return added
