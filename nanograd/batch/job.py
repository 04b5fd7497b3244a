"""A batch job: parts planned first, each done once and committed, accounted for at the end.

    OUT/_receipts/ID.json   a part's account; the part is done if this is there
    OUT/_summary.json       what all parts come to together
    OUT/_metrics.jsonl      how far the last command for it was, and when
    OUT/_manifest.json      which job this is; when complete, every part's receipt
    OUT/_SUCCESS            written last of all

A part's id follows from its input and the job, so the same command again finds what is done and
finishes the rest; the output of another job is refused, or replaced when the new one is complete.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from nanograd.batch.part import RECEIPTS, Part, Receipt, RunParts, total
from nanograd.batch.progress import Progress
from nanograd.errors import DataError, InternalError, OutputExistsError, UsageError
from nanograd.runtime import json_files, storage
from nanograd.runtime.events import Show, ignore

SUMMARY, METRICS = "_summary.json", "_metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be done, and where the result goes.

    Args:
        place: output folder or URI.
        identity: inputs, model and settings that determine the output.
        parts: all of it, cut up.
        overwrite: whether another job's output is replaced.
        max_error_rate: share of the rows that may end in quarantine.
        summarise: makes the summary of the sum of all receipts.
    """

    place: str
    identity: dict[str, Any]
    parts: Sequence[Part] = field(repr=False)
    overwrite: bool
    max_error_rate: float = 1.0
    summarise: Callable[[Receipt], dict[str, Any]] = dict


class Result(NamedTuple):
    """What a command did for a job.

    Args:
        summary: of the whole job, by whichever commands it was done.
        rows: done by this command.
        began: moment of `perf_counter` at which its first part was begun.
        ended: moment after `_SUCCESS`; as `began` if nothing was left to do.
    """

    summary: dict[str, Any]
    rows: int
    began: float
    ended: float


def run_job(
    job: Job, run_parts: RunParts, say: Callable[[str], None], show: Show = ignore
) -> Result:
    """Do the parts that are not done yet, check the accounts and commit the whole.

    Args:
        job: what and where.
        run_parts: does parts, on Ray or here, and returns them as done in any order.
        say: told in sentences what happens.
        show: shown how far it is.

    Returns:
        The summary (counts added up, reasons merged, as `job.summarise` puts them) and how long
        this command's parts took.

    Raises:
        OutputExistsError: the place holds another job's output or something else.
        UsageError: what is to be overwritten holds the input.
        DataError: more rows than allowed cannot be read.
        InternalError: a row is not accounted for exactly once.
        StorageError: something cannot be written.
    """
    num_rows = sum(part.num_rows for part in job.parts)
    progress = Progress(job.identity["command"], len(job.parts), num_rows, show)
    with storage.exclusive(job.place):
        if MANIFEST in storage.names(job.place):
            storage.remove_leftovers(job.place)
        finish(job.place)
        below = _room(job)
        if below is None:
            say(f"{job.place} holds this job's result already, complete; nothing to do")
            receipts = json_files.read_manifest(_at(job, MANIFEST))["receipts"]
            _check_error_rate(job, receipts)
        else:
            stage = replace(
                job,
                place=storage.join(job.place, *below),
                parts=[replace(part, below="".join(below)) for part in job.parts],
            )
            receipts = _run_parts(stage, run_parts, say, progress)
            finish(job.place)
    return Result(job.summarise(total(receipts)), *progress.running())


def _run_parts(
    job: Job, run_parts: RunParts, say: Callable[[str], None], progress: Progress
) -> list[Receipt]:
    json_files.commit_manifest(_at(job, MANIFEST), {"job": job.identity, "receipts": []})
    receipts = [*_done(job, say)]
    found = {receipt["part"] for receipt in receipts}
    for receipt in receipts:
        progress.start_from(receipt)
    progress.begin()
    for done in run_parts([part for part in job.parts if part.id not in found]):
        receipts.append(done.receipt)
        progress.add(*done)
        _check_error_rate(job, receipts)
    _check_accounts(job, receipts)
    _check_nobody_else(job, receipts)
    receipts.sort(key=lambda receipt: receipt["part"])
    storage.commit(_at(job, SUMMARY), json_files.pretty(job.summarise(total(receipts))))
    storage.commit(_at(job, METRICS), progress.recorded())
    json_files.commit_manifest(_at(job, MANIFEST), {"job": job.identity, "receipts": receipts})
    storage.commit(_at(job, SUCCESS), b"")
    return receipts


def _at(job: Job, *names: str) -> str:
    return storage.join(job.place, *names)


def _room(job: Job) -> tuple[str, ...] | None:
    """Where in the output this job works: there, beside what it replaces, or nowhere if done."""
    contents = [name for name in storage.names(job.place) if name != NEXT]
    if not contents:
        return ()
    if MANIFEST not in contents:
        raise OutputExistsError(
            f"{job.place} holds {contents[0]!r}, which no job of this program wrote; "
            "choose another --output"
        )
    ours = _is_ours(job, job.place)
    if ours and (SUCCESS not in contents or not job.overwrite):
        storage.remove(_at(job, NEXT))
        return None if SUCCESS in contents else ()
    _check_replaceable(job)
    if not _is_ours(job, _at(job, NEXT)):
        storage.remove(_at(job, NEXT))
    return (NEXT,)


def _check_replaceable(job: Job) -> None:
    if not job.overwrite:
        raise OutputExistsError(
            f"{job.place} holds the output of another job (other input, model or settings); "
            "choose another --output or replace it with --overwrite"
        )
    inputs = (file for part in job.parts for file in part.files)
    if inside := next((file for file in inputs if file.startswith(_at(job, ""))), None):
        raise UsageError(f"--output {job.place} holds the input {inside}; choose another --output")


def _is_ours(job: Job, place: str) -> bool:
    """Whether a place holds this very job; what is damaged may be overwritten."""
    if MANIFEST not in storage.names(place):
        return False
    try:
        return bool(json_files.read_manifest(storage.join(place, MANIFEST))["job"] == job.identity)
    except DataError:
        if job.overwrite:
            return False
        raise


def _done(job: Job, say: Callable[[str], None]) -> Iterator[Receipt]:
    """Receipts of the parts that an earlier command finished."""
    planned = {f"{part.id}.json" for part in job.parts}
    names = [name for name in storage.names(_at(job, RECEIPTS)) if name in planned]
    if names:
        say(f"{len(names)} of {len(job.parts)} parts are done already")
    for name in names:
        yield json_files.read_manifest(_at(job, RECEIPTS, name))


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


def _check_nobody_else(job: Job, receipts: Sequence[Receipt]) -> None:
    """In an object store nothing keeps two jobs apart, but they are found out."""
    files = {name for receipt in receipts for name in receipt["files"]}
    folders = {name.rpartition("/")[0] for name in files if "/" in name}
    there = {f"{folder}/{name}" for folder in folders for name in storage.names(_at(job, folder))}
    if not _is_ours(job, job.place) or there - files:
        found = min(there - files, default=MANIFEST)
        raise OutputExistsError(
            f"{job.place} holds {found!r}, which another job wrote meanwhile; "
            "run each job with an --output of its own"
        )


def _check_error_rate(job: Job, receipts: Sequence[Receipt]) -> None:
    if job.max_error_rate == 1:
        return
    bad = sum(receipt["quarantined"] for receipt in receipts)
    rows = sum(part.num_rows + bool(part.broken) for part in job.parts)
    if bad > job.max_error_rate * rows:
        reasons = total(receipts)["reasons"]
        most = max(reasons, key=reasons.get)
        raise DataError(
            f"{bad:,} of {rows:,} rows cannot be read (most often {most}), "
            f"more than --max-error-rate {job.max_error_rate}; see {job.place}/quarantine, then "
            "mend the input or allow more"
        )


NEXT, MANIFEST, SUCCESS = "_next", "_manifest.json", "_SUCCESS"
_CLEARED = "_cleared"


def finish(place: str) -> None:
    """Put a complete new output in the place of the old one; do nothing if there is none.

    Args:
        place: output folder or URI, held by this process alone.

    Raises:
        DataError: the new output's manifest is damaged.
        StorageError: something cannot be moved.
    """
    stage = storage.join(place, NEXT)
    waiting = storage.names(stage)
    if SUCCESS not in waiting:
        return
    # No reader takes a half for the whole: the mark of completeness goes first and comes last.
    storage.remove(storage.join(place, SUCCESS))
    if MANIFEST in waiting:
        if _CLEARED not in waiting:
            # Raises if it is damaged: nothing whole is given up for that.
            json_files.read_manifest(storage.join(stage, MANIFEST))
            for name in storage.names(place):
                if name not in (NEXT, MANIFEST):
                    storage.remove(storage.join(place, name))
            storage.commit(storage.join(stage, _CLEARED), b"")
        for name in waiting:
            if name not in (MANIFEST, SUCCESS, _CLEARED):
                storage.move(storage.join(stage, name), storage.join(place, name))
        storage.move(storage.join(stage, MANIFEST), storage.join(place, MANIFEST))
    storage.move(storage.join(stage, SUCCESS), storage.join(place, SUCCESS))
    storage.remove(stage)
