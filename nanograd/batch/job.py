"""A batch job: parts planned first, each done once and committed, accounted for at the end.

    OUT/_receipts/ID.json   receipt of a part; a part with a receipt is done
    OUT/_summary.json       sum of all receipts
    OUT/_metrics.jsonl      progress of the last command, with times
    OUT/_manifest.json      identity of the job; when complete, the receipt of every part
    OUT/_SUCCESS            written last of all
    OUT/_next/...           with --overwrite, the new output while the old one is still in place

A part's id follows from its input and the job, so the same command again finds the parts that are
done and finishes the rest. The output of another job is refused, or with --overwrite replaced once
the new output is complete. A replacement that is killed is finished by the next command. It removes
the old output first and records that before it moves anything: an object store moves a folder file
by file, and half of a new output must not be mistaken for an old one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, NamedTuple

from nanograd.batch.part import RECEIPTS, Part, Receipt, RunParts, total
from nanograd.errors import DataError, InternalError, OutputExistsError, UsageError
from nanograd.runtime import json_files, storage
from nanograd.runtime.events import JobProgress, Listener, ignore, info

SUMMARY, METRICS = "_summary.json", "_metrics.jsonl"
MANIFEST, SUCCESS = "_manifest.json", "_SUCCESS"
_NEXT, _CLEARED = "_next", "_cleared"
_RECORD_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job and its output."""

    place: str  # output folder or URI
    identity: dict[str, Any]  # inputs, model and settings that determine the output
    parts: Sequence[Part] = field(repr=False)  # the whole work
    overwrite: bool  # whether to replace another job's output
    max_error_rate: float = 1.0  # share of the rows that may go to quarantine
    # Turns the sum of all receipts into the summary.
    summarise: Callable[[Receipt], dict[str, Any]] = dict

    def path(self, *names: str) -> str:
        """Return a place in the output."""
        return storage.join(self.place, *names)


class JobResult(NamedTuple):
    """The result of a command for a job."""

    summary: dict[str, Any]  # of the whole job, including parts that earlier commands did
    rows: int  # done by this command
    began: float  # `perf_counter` at the start of its first part
    ended: float  # `perf_counter` after `_SUCCESS`; equal to `began` if no part was left


def run_job(job: Job, run_parts: RunParts, listener: Listener = ignore) -> JobResult:
    """Run the missing parts, check the accounts and commit the whole.

    Args:
        job: the parts and the output.
        run_parts: runs parts, on Ray or here, and returns them in any order.
        listener: receives messages and progress.

    Raises:
        OutputExistsError: the place holds another job's output or foreign files.
        UsageError: the output to overwrite holds the input.
        DataError: more rows than allowed go to quarantine.
        InternalError: a row is not accounted for exactly once.
        StorageError: a file cannot be written.
    """
    meter = ProgressMeter(job, listener)
    with storage.exclusive(job.place):
        if MANIFEST in storage.names(job.place):
            storage.remove_leftovers(job.place)
        finish_replacement(job.place)
        below = _folder_below(job)
        if below is None:
            listener(info(f"{job.place} holds this job's result, complete; nothing to do"))
            receipts = json_files.read_manifest(job.path(MANIFEST))["receipts"]
            _check_error_rate(job, receipts)
        else:
            stage = replace(
                job,
                place=job.path(*below),
                parts=[replace(part, below="".join(below)) for part in job.parts],
            )
            receipts = _run_parts(stage, run_parts, meter, listener)
            finish_replacement(job.place)
    return JobResult(job.summarise(total(receipts)), *meter.running())


def _run_parts(
    job: Job, run_parts: RunParts, meter: "ProgressMeter", listener: Listener
) -> list[Receipt]:
    json_files.commit_manifest(job.path(MANIFEST), {"job": job.identity, "receipts": []})
    receipts = [*_earlier_receipts(job, listener)]
    done = {receipt["part"] for receipt in receipts}
    meter.start(receipts)
    for receipt, seconds in run_parts([part for part in job.parts if part.id not in done]):
        receipts.append(receipt)
        meter.add(receipt, seconds)
        _check_error_rate(job, receipts)
    _check_accounts(job, receipts)
    storage.remove_leftovers(job.place)  # of workers that were killed in a commit
    _check_sole_writer(job, receipts)
    receipts.sort(key=lambda receipt: receipt["part"])
    storage.commit(job.path(SUMMARY), json_files.encode(job.summarise(total(receipts))))
    storage.commit(job.path(METRICS), meter.recorded())
    json_files.commit_manifest(job.path(MANIFEST), {"job": job.identity, "receipts": receipts})
    storage.commit(job.path(SUCCESS), b"")
    return receipts


def _folder_below(job: Job) -> tuple[str, ...] | None:
    """Return where in the output this job works: at the top, in _next, or None if it is done."""
    contents = [name for name in storage.names(job.place) if name != _NEXT]
    if not contents:
        return ()
    if MANIFEST not in contents:
        raise OutputExistsError(
            f"{job.place} holds {contents[0]!r}, which no job of this program wrote; "
            "choose another --output"
        )
    ours = _is_ours(job, job.place)
    if ours and (SUCCESS not in contents or not job.overwrite):
        storage.remove(job.path(_NEXT))
        return None if SUCCESS in contents else ()
    _check_replaceable(job)
    if not _is_ours(job, job.path(_NEXT)):
        storage.remove(job.path(_NEXT))
    return (_NEXT,)


def _check_replaceable(job: Job) -> None:
    if not job.overwrite:
        raise OutputExistsError(
            f"{job.place} holds the output of another job (other input, model or settings); "
            "choose another --output or replace it with --overwrite"
        )
    inputs = (file for part in job.parts for file in part.files)
    if inside := next((file for file in inputs if file.startswith(job.path(""))), None):
        raise UsageError(f"--output {job.place} holds the input {inside}; choose another --output")


def _is_ours(job: Job, place: str) -> bool:
    """Return whether a place holds this very job; a damaged one may be overwritten."""
    if MANIFEST not in storage.names(place):
        return False
    try:
        return bool(json_files.read_manifest(storage.join(place, MANIFEST))["job"] == job.identity)
    except DataError:
        if job.overwrite:
            return False
        raise


def _earlier_receipts(job: Job, listener: Listener) -> Iterator[Receipt]:
    """Yield the receipts of the parts that an earlier command finished."""
    planned = {f"{part.id}.json" for part in job.parts}
    names = [name for name in storage.names(job.path(RECEIPTS)) if name in planned]
    if names:
        listener(info(f"{len(names)} of {len(job.parts)} parts are done already"))
    for name in names:
        yield json_files.read_manifest(job.path(RECEIPTS, name))


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


def _check_sole_writer(job: Job, receipts: Sequence[Receipt]) -> None:
    """Detect a second job at the same place: in an object store no lock keeps two apart."""
    files = {name for receipt in receipts for name in receipt["files"]}
    folders = {name.rpartition("/")[0] for name in files if "/" in name}
    found = {f"{folder}/{name}" for folder in folders for name in storage.names(job.path(folder))}
    if not _is_ours(job, job.place) or found - files:
        foreign = min(found - files, default=MANIFEST)
        raise OutputExistsError(
            f"{job.place} holds {foreign!r}, which another job wrote meanwhile; "
            "run each job with an --output of its own"
        )


def _check_error_rate(job: Job, receipts: Sequence[Receipt]) -> None:
    if job.max_error_rate == 1:
        return
    bad = sum(receipt["quarantined"] for receipt in receipts)
    rows = sum(part.num_rows + (part.rejection is not None) for part in job.parts)
    if bad > job.max_error_rate * rows:
        reasons = total(receipts)["reasons"]
        most = max(reasons, key=reasons.get)
        raise DataError(
            f"{bad:,} of {rows:,} rows are unusable (most often {most}), "
            f"more than --max-error-rate {job.max_error_rate}; see {job.place}/quarantine, then "
            "repair the input or allow more"
        )


def finish_replacement(place: str) -> None:
    """Move a complete new output into the place of the old one; do nothing if there is none.

    Args:
        place: output folder or URI, locked by this process.

    Raises:
        DataError: the new output's manifest is damaged.
        StorageError: a file cannot be moved.
    """
    stage = storage.join(place, _NEXT)
    waiting = storage.names(stage)
    if SUCCESS not in waiting:
        return
    # A half must not pass for the whole: the mark of completeness goes first and comes last.
    storage.remove(storage.join(place, SUCCESS))
    if MANIFEST in waiting:
        if _CLEARED not in waiting:
            # Raises if it is damaged: then the old output, which is whole, stays.
            json_files.read_manifest(storage.join(stage, MANIFEST))
            for name in storage.names(place):
                if name not in (_NEXT, MANIFEST):
                    storage.remove(storage.join(place, name))
            storage.commit(storage.join(stage, _CLEARED), b"")
        for name in waiting:
            if name not in (MANIFEST, SUCCESS, _CLEARED):
                storage.move(storage.join(stage, name), storage.join(place, name))
        storage.move(storage.join(stage, MANIFEST), storage.join(place, MANIFEST))
    storage.move(storage.join(stage, SUCCESS), storage.join(place, SUCCESS))
    storage.remove(stage)


class ProgressMeter:
    """Counter of receipts, which emits the progress of a job.

    Args:
        job: whose parts are counted.
        listener: receives progress after each part.
        clock: monotonic seconds.
    """

    def __init__(
        self, job: Job, listener: Listener, clock: Callable[[], float] = perf_counter
    ) -> None:
        self._command, self._num_parts = job.identity["command"], len(job.parts)
        self._num_rows = sum(part.num_rows for part in job.parts)
        self._listener, self._clock = listener, clock
        self._parts = self._rows = self._quarantined = self._rows_before = 0
        self._began: float | None = None
        self._recorded: list[JobProgress] = []

    def start(self, receipts: Sequence[Mapping[str, Any]]) -> None:
        """Count parts of an earlier command; they do not count for this one's speed."""
        for receipt in receipts:
            self._count(receipt)
        self._rows_before = self._rows
        self._emit(complete=False)

    def add(self, receipt: Mapping[str, Any], seconds: float) -> None:
        """Count a part that was just done and took this time."""
        self._count(receipt)
        # The start of Ray and of actors is no part's time.
        began = self._clock() - seconds
        self._began = began if self._began is None else min(self._began, began)
        self._emit(complete=self._parts == self._num_parts)

    def running(self) -> tuple[int, float, float]:
        """Return the rows of this command, the start of its first part, and the present moment."""
        now = self._clock()
        return self._rows - self._rows_before, now if self._began is None else self._began, now

    def recorded(self) -> bytes:
        """Return the emitted progress as lines of JSON, at most one a second."""
        return json_files.encode_lines(event.record() for event in self._recorded)

    def _count(self, receipt: Mapping[str, Any]) -> None:
        self._parts += 1
        self._rows += receipt["rows"]
        self._quarantined += receipt["quarantined"]

    def _emit(self, *, complete: bool) -> None:
        rows, began, now = self.running()
        rate = rows / max(now - began, 1e-3)
        event = JobProgress(
            command=self._command,
            part=self._parts,
            parts=self._num_parts,
            row=self._rows,
            rows=self._num_rows,
            rows_per_s=round(rate, 3),
            quarantined=self._quarantined,
            time_s=round(now - began, 3),
            left_s=round((self._num_rows - self._rows) / rate, 1) if rate else None,
            complete=complete,
        )
        self._listener(event)
        before = self._recorded[-1].time_s if self._recorded else -_RECORD_S
        if complete or event.time_s - before >= _RECORD_S:
            self._recorded.append(event)
