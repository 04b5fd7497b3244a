"""A part of a batch job: what it reads, how it is done, and its account of that.

The account, `OUT/_receipts/ID.json`, is written last of a part's files: a part with one is done.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

from nanograd.runtime import json_files, storage

Receipt: TypeAlias = dict[str, Any]

RECEIPTS = "_receipts"
_OF_PART = ("part", "inputs", "files")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of a job that is done and committed as a whole.

    Args:
        id: names its output files.
        files: the input files it reads.
        row_groups: of the one Parquet file it reads, first and end; empty for whole files.
        skip: rows of the first of them that belong to another part.
        first_row: number of the first of its rows in that file.
        num_rows: rows it must account for.
        labels: of its files, as planned; empty where labels are in the files.
        broken: reason code if its file cannot be read, else empty.
        detail: the reason in a sentence.
        below: folder in the output for what it makes, while another job's output stands there.
    """

    id: str
    files: tuple[str, ...]
    row_groups: tuple[int, ...] = ()
    skip: int = 0
    first_row: int = 0
    num_rows: int = 0
    labels: tuple[int | None, ...] = ()
    broken: str = ""
    detail: str = ""
    below: str = ""


class Done(NamedTuple):
    """A part that was done just now.

    Args:
        receipt: its account.
        seconds: it took, where it was done.
    """

    receipt: Receipt
    seconds: float


Work: TypeAlias = Callable[[Part], Receipt]
RunParts: TypeAlias = Callable[[Sequence[Part]], Iterable[Done]]


def part_id(*what: object) -> str:
    """A short name that follows from what a part is made of."""
    return sha256(json.dumps([str(each) for each in what]).encode()).hexdigest()[:16]


def run_here(work: Work) -> RunParts:
    """Parts one after the other in this process, without Ray."""
    return lambda parts: (do(work, part) for part in parts)


def do(work: Work, part: Part) -> Done:
    """Do a part, and see how long it takes."""
    began = perf_counter()
    receipt = work(part)
    return Done(receipt, perf_counter() - began)


def commit_part(place: str, part: Part, files: dict[str, bytes], counts: dict[str, Any]) -> Receipt:
    """Commit what a part made, its receipt last.

    Args:
        place: output folder or URI.
        part: which one.
        files: name below `place` -> content.
        counts: rows, quarantined, reasons and whatever else is to be added up.
    """
    place = storage.join(place, part.below) if part.below else place
    for name, data in files.items():
        storage.commit(storage.join(place, name), data)
    checksums = {name: storage.checksum(data) for name, data in files.items()}
    receipt = {"part": part.id, "inputs": list(part.files), "files": checksums, **counts}
    json_files.commit_manifest(storage.join(place, RECEIPTS, f"{part.id}.json"), receipt)
    return receipt


def total(receipts: Sequence[Receipt]) -> Receipt:
    """Accounts added up: numbers, counts by name, and lists joined."""
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
