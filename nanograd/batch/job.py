"""A batch job: parts planned first, each done once and committed, accounted for at the end.

    OUT/_manifest.json     which job this is; when complete, every part's receipt
    OUT/_receipts/ID.json  written last of a part's files: the part is done if this is there
    OUT/_SUCCESS           written last of all

A part's id follows from its input and the job, so the same command again finds what is done and
finishes the rest; the output of another job is refused.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from json import dumps
from typing import Any, TypeAlias

from nanograd import storage
from nanograd.batch.progress import Progress
from nanograd.errors import InternalError, OutputExistsError, UsageError

Receipt: TypeAlias = dict[str, Any]

_MANIFEST, _RECEIPTS, _SUCCESS = "_manifest.json", "_receipts", "_SUCCESS"


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


Work: TypeAlias = Callable[[Part], Receipt]
RunParts: TypeAlias = Callable[[Sequence[Part]], Iterable[Receipt]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be done, and where the result goes.

    Args:
        place: output folder or URI.
        identity: inputs, model and settings that determine the output.
        parts: all of it, cut up.
        overwrite: whether another job's output is replaced.
    """

    place: str
    identity: dict[str, Any]
    parts: Sequence[Part] = field(repr=False)
    overwrite: bool


def part_id(*what: object) -> str:
    """A short name that follows from what a part is made of."""
    return sha256(dumps([str(each) for each in what]).encode()).hexdigest()[:16]


def run_job(job: Job, run_parts: RunParts, say: Callable[[str], None]) -> Receipt:
    """Do the parts that are not done yet, check the accounts and commit the whole.

    Args:
        job: what and where.
        run_parts: does parts, on Ray or here, and returns their receipts in any order.
        say: told in sentences what happens.

    Returns:
        The sum of all receipts: counts added up, reasons merged.

    Raises:
        OutputExistsError: the place holds another job's output or something else.
        UsageError: what is to be overwritten holds the input.
        InternalError: a row is not accounted for exactly once.
        StorageError: something cannot be written.
    """
    with storage.exclusive(job.place):
        if _is_complete(job):
            say(f"{job.place} holds this job's result already, complete; nothing to do")
            return _total(storage.read_manifest(_at(job, _MANIFEST))["receipts"])
        storage.commit_manifest(_at(job, _MANIFEST), {"job": job.identity, "receipts": []})
        receipts = [*_done(job, say)]
        found = {receipt["part"] for receipt in receipts}
        progress = Progress(len(job.parts), sum(part.num_rows for part in job.parts), say)
        for receipt in receipts:
            progress.start_from(receipt)
        for receipt in run_parts([part for part in job.parts if part.id not in found]):
            receipts.append(receipt)
            progress.add(receipt)
        _check_accounts(job, receipts)
        receipts.sort(key=lambda receipt: receipt["part"])
        storage.commit_manifest(_at(job, _MANIFEST), {"job": job.identity, "receipts": receipts})
        storage.commit(_at(job, _SUCCESS), b"")
    return _total(receipts)


def run_here(work: Work) -> RunParts:
    """Parts one after the other in this process, without Ray."""
    return lambda parts: map(work, parts)


def commit_part(place: str, part: Part, files: dict[str, bytes], counts: dict[str, Any]) -> Receipt:
    """Commit what a part made, its receipt last.

    Args:
        place: output folder or URI.
        part: which one.
        files: name below `place` -> content.
        counts: rows, quarantined, reasons and whatever else is to be added up.
    """
    for name, data in files.items():
        storage.commit(storage.join(place, name), data)
    checksums = {name: storage.checksum(data) for name, data in files.items()}
    receipt = {"part": part.id, "inputs": list(part.files), "files": checksums, **counts}
    storage.commit_manifest(storage.join(place, _RECEIPTS, f"{part.id}.json"), receipt)
    return receipt


def _at(job: Job, *names: str) -> str:
    return storage.join(job.place, *names)


def _is_complete(job: Job) -> bool:
    """Whether this very job is done; makes room for it if another one may be replaced."""
    contents = storage.names(job.place)
    if not contents:
        return False
    if _MANIFEST not in contents:
        raise OutputExistsError(
            f"{job.place} holds {contents[0]!r}, which no job of this program wrote; "
            "choose another --output"
        )
    if job.overwrite:
        _clear(job, contents)
        return False
    if storage.read_manifest(_at(job, _MANIFEST))["job"] != job.identity:
        raise OutputExistsError(
            f"{job.place} holds the output of another job (other input, model or settings); "
            "choose another --output or replace it with --overwrite"
        )
    return _SUCCESS in contents


def _clear(job: Job, contents: Sequence[str]) -> None:
    inputs = (file for part in job.parts for file in part.files)
    if inside := next((file for file in inputs if file.startswith(_at(job, ""))), None):
        raise UsageError(f"--output {job.place} holds the input {inside}; choose another --output")
    # The mark of completeness goes first, so that no reader takes a half for the whole; the
    # manifest last, so that the rest is known to be ours if this is interrupted.
    for name in sorted(contents, key=lambda each: (each != _SUCCESS, each == _MANIFEST)):
        storage.remove(_at(job, name))


def _done(job: Job, say: Callable[[str], None]) -> Iterator[Receipt]:
    """Receipts of the parts that an earlier command finished."""
    planned = {f"{part.id}.json" for part in job.parts}
    names = [name for name in storage.names(_at(job, _RECEIPTS)) if name in planned]
    if names:
        say(f"{len(names)} of {len(job.parts)} parts are done already")
    for name in names:
        yield storage.read_manifest(_at(job, _RECEIPTS, name))


def _check_accounts(job: Job, receipts: list[Receipt]) -> None:
    seen = sorted(receipt["part"] for receipt in receipts)
    if seen != sorted(part.id for part in job.parts):
        raise InternalError(f"{job.place}: {len(seen)} parts done of {len(job.parts)} planned")
    planned = {part.id: part.num_rows for part in job.parts}
    for receipt in receipts:
        if receipt["rows"] != planned[receipt["part"]]:
            raise InternalError(
                f"{receipt['inputs'][0]}: {receipt['rows']} rows accounted for of "
                f"{planned[receipt['part']]}; please report this"
            )


def _total(receipts: list[Receipt]) -> Receipt:
    """Counts added up, over whole numbers and over the reasons' counts."""
    total: Receipt = {"reasons": {}}
    for receipt in receipts:
        for name, value in receipt.items():
            if isinstance(value, int):
                total[name] = total.get(name, 0) + value
        for reason, count in receipt["reasons"].items():
            total["reasons"][reason] = total["reasons"].get(reason, 0) + count
    return total
