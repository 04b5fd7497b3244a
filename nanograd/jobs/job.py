"""A batch job: parts planned first, each done once and committed, accounted for at the end.

A part's id follows from its input and the job, so the same command again finds the parts that are
done and finishes the rest. The first command works in the output itself. Whatever changes an output
after that is staged, and takes its place once it is complete, as `output` describes: the parts of
files that were added, which the manifest lists as another run; parts that --sync or
--retry-quarantine replace, or whose files are lost; the output of another job, with --overwrite.

Names and sizes of files are held against the receipts before an output is called complete. So
`_SUCCESS` never stands beside rows that the manifest does not list.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, NamedTuple

from nanograd.errors import DataError, InternalError, OutputExistsError, UsageError
from nanograd.jobs.earlier import Earlier
from nanograd.jobs.output import (
    MANIFEST,
    METRICS,
    RECEIPTS,
    STAGING,
    SUCCESS,
    SUMMARY,
    Manifest,
    check_files,
    commit_files,
    commit_receipt,
    find_files,
    find_lost,
    move_staged,
    read_receipts,
    refuse_foreign,
    remove_other_parts,
)
from nanograd.jobs.part import Part, RunParts, part_id
from nanograd.jobs.receipts import Counts, Receipt, Retry, files_of
from nanograd.jobs.review import Selection, write_review
from nanograd.runtime import json_files, storage
from nanograd.runtime.events import JobProgress, Listener, ignore, info
from nanograd.runtime.lease import Lease, exclusive

_RECORD_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job and its output."""

    output: str  # folder or URI
    identity: Mapping[str, Any]  # model and settings, which determine the output of an input
    parts: Sequence[Part] = field(repr=False)  # all but those that `earlier` keeps
    earlier: Earlier = field(default=Earlier(), repr=False)  # complete parts
    files: frozenset[str] = frozenset()  # the input of today
    roots: Sequence[str] = ()  # of `inputs.roots_of`
    retries: Sequence[Retry] = ()  # to do once this job is complete
    is_retry: bool = False
    overwrite: bool  # whether to replace another job's output
    verify: bool = False  # whether to compare checksums of unfinished parts, too
    # Limits for the parts of this command, whatever earlier ones did.
    max_error_rate: float = 1.0  # share of the rows that may go to quarantine
    allow_none: bool = True  # whether all rows may go there
    max_broken_files: int = 0  # files whose rows are unknown
    # By folder: the files of an empty table, for a folder to which no part writes.
    empty_tables: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict, repr=False)
    counts: type[Counts] = Counts  # of its parts
    review: Selection | None = None  # the rows to list for a person to check
    about: Mapping[str, Any] = field(default_factory=dict)  # further facts of the summary
    facts: Mapping[str, Any] = field(default_factory=dict)  # of the input, for a dry run

    @property
    def staging(self) -> str:
        """Folder for new files while the old ones are visible."""
        return storage.join(self.output, STAGING)


class JobResult(NamedTuple):
    """The result of a command for a job."""

    receipts: Sequence[Receipt]  # of the whole job, including parts that earlier commands did
    rows: int  # done by this command
    began: float  # `perf_counter` at the start of its first part
    ended: float  # `perf_counter` after `_SUCCESS`; equal to `began` if no part was left
    changed: bool  # whether this command wrote the output


def run_job(job: Job, run_parts: RunParts, listener: Listener = ignore) -> JobResult:
    """Run the missing parts, check the accounts and commit the whole.

    Args:
        job: the parts and the output.
        run_parts: runs parts, on Ray or here, and returns them in any order.
        listener: receives messages and progress.

    Raises:
        OutputExistsError: the output holds another job's files or foreign ones, or is a file.
        UsageError: the output to overwrite holds the input.
        DataError: more rows than allowed go to quarantine, or all; more files than allowed cannot
            be read.
        InternalError: a row is not accounted for exactly once.
        StorageError: a file cannot be written.
    """
    storage.refuse_file(job.output)
    with exclusive(job.output, listener) as lease:
        meter = ProgressMeter(job, listener)
        if MANIFEST in storage.names(job.output):
            storage.remove_leftovers(job.output)
        move_staged(job.output, lease.check)
        folder = _choose_folder(job)
        if folder is None:
            if not job.retries:
                listener(info(f"{job.output} holds this job's result, complete; nothing to do"))
            receipts = Manifest.read(job.output).receipts
        else:
            receipts = _run_parts(job, folder, run_parts, meter, listener=listener, lease=lease)
            move_staged(job.output, lease.check)
        if job.review and not job.retries:
            write_review(job.output, receipts, job.review, listener, verify=job.verify)
    return JobResult(receipts, *meter.running(), folder is not None)


def describe_job(job: Job, then: Sequence[Part] = ()) -> dict[str, Any]:
    """Return what a job would do, without a change to its output; raise as `run_job` would.

    `estimated_s` follows from the speed of an earlier command in this output, if one is known.

    Args:
        job: the job.
        then: parts of jobs that would follow.
    """
    storage.refuse_file(job.output)
    waits = SUCCESS in storage.names(job.staging)  # the job was planned for what is staged
    folder = job.output if waits else _choose_folder(job, clean=False)
    left: list[Part] = []
    if folder is not None:
        names = set(storage.names(storage.join(folder, RECEIPTS)))
        left = [part for part in job.parts if f"{part.id}.json" not in names]
    left += then
    rows = sum(part.num_rows for part in left)
    metrics = json_files.read_lines(storage.join(job.output, METRICS))
    speed = metrics[-1]["rows_per_s"] if metrics else None
    return {
        **job.facts,
        "parts": len(job.parts) + len(job.earlier.kept) + len(then),
        "parts_to_do": len(left),
        "rows_to_do": rows,
        "estimated_s": round(rows / speed, 1) if speed else None,
    }


def _choose_folder(job: Job, *, clean: bool = True) -> str | None:
    """Return where this job works: in the output, in its staging, or None if it is done.

    Args:
        job: the job.
        clean: whether to remove unfinished staged files of another job, and the mark of
            completeness of an output that lacks a file.
    """
    contents = [name for name in storage.names(job.output) if name != STAGING]
    if not contents:
        return job.output
    if MANIFEST not in contents:
        raise OutputExistsError(
            f"{job.output} holds {contents[0]!r}, which no job of this program wrote; "
            "choose another --output"
        )
    before = _read_own(job, job.output)
    folder: str | None = job.output  # the first command did not end
    if before is None or (job.overwrite and SUCCESS in contents):
        _check_replaceable(job)
        folder = job.staging
    elif before.receipts:
        found = find_files(job.output)
        refuse_foreign(job.output, before.receipts, found)
        lost = find_lost(before.receipts, found)
        if lost and clean:
            storage.remove(storage.join(job.output, SUCCESS))
        if lost.intersection(files_of(job.earlier.kept)):
            raise _changed_meanwhile(job)
        listed = {receipt.part for receipt in before.receipts}
        is_planned = not job.earlier.stale and listed >= {part.id for part in job.parts}
        is_done = not job.is_retry or set(map(repr, before.retries)) <= set(map(repr, job.retries))
        is_whole = not lost and SUCCESS in contents
        folder = None if is_planned and is_done and is_whole else job.staging
    if folder is None and job.retries:
        return None  # an unfinished retry may be staged
    if clean and not (folder == job.staging and _read_own(job, job.staging)):
        storage.remove(job.staging)
    return folder


def _read_own(job: Job, folder: str) -> Manifest | None:
    """Read the manifest of this very job; None without one. A damaged one may be overwritten."""
    if MANIFEST not in storage.names(folder):
        return None
    try:
        manifest = Manifest.read(folder)
    except DataError:
        if job.overwrite:
            return None
        raise
    return manifest if manifest.job == job.identity else None


def _check_replaceable(job: Job) -> None:
    if not job.overwrite:
        before = Manifest.read(job.output).job
        names = [
            name
            for name in {**before, **job.identity}
            if before.get(name) != job.identity.get(name)
        ]
        raise OutputExistsError(
            f"{job.output} holds the output of another job (other {', '.join(names)}); "
            "choose another --output or replace it with --overwrite"
        )
    inputs = (file for part in job.parts for file in part.files)
    if inside := next((file for file in inputs if file.startswith(f"{job.output}/")), None):
        raise UsageError(f"--output {job.output} holds the input {inside}; choose another --output")


def _run_parts(
    job: Job,
    folder: str,
    run_parts: RunParts,
    meter: "ProgressMeter",
    *,
    listener: Listener,
    lease: Lease,
) -> list[Receipt]:
    """Run the parts of a job that have no receipt in a folder, and complete it."""
    is_new = job.overwrite and folder != job.output
    before = Manifest() if is_new else _read_own(job, job.output) or Manifest()
    runs = _check_plan(job, before)
    if MANIFEST not in storage.names(folder):
        Manifest(job=job.identity).commit(folder)
    found = read_receipts(folder)
    lost = find_lost(found.values(), find_files(folder), verify=job.verify)
    done = {
        part.id: found[part.id]
        for part in job.parts
        if part.id in found and lost.isdisjoint(found[part.id].files)
    }
    if num_done := len(done) + len(job.earlier.kept):
        num_parts = len(job.parts) + len(job.earlier.kept)
        listener(info(f"{num_done} of {num_parts} parts are done already"))
    remove_other_parts(folder, found, done)
    meter.start([*job.earlier.kept, *done.values()])
    own = list(done.values())
    limited = {part.id for part in job.parts if not part.is_retried}
    bad = sum(receipt.counts.quarantined for receipt in own if receipt.part in limited)
    _check_error_rate(job, own, bad)  # an earlier command may have ended here
    left = [replace(part, output=folder) for part in job.parts if part.id not in done]
    for receipt, seconds in run_parts(left):
        own.append(receipt)
        meter.add(receipt, seconds)
        bad += receipt.counts.quarantined * (receipt.part in limited)
        _check_error_rate(job, own, bad)
    _check_accounts(job, own)
    _check_broken_files(job, own)
    storage.remove_leftovers(folder)  # of workers that were killed in a commit
    lease.check()
    check_files(folder, own)
    if not _read_own(job, folder):
        raise OutputExistsError(
            f"{storage.join(folder, MANIFEST)} is that of another job, which wrote there "
            "meanwhile; run each job with an --output of its own"
        )
    receipts = sorted(
        [*job.earlier.kept, *own, *_write_empty_tables(job, folder, [*job.earlier.kept, *own])],
        key=lambda receipt: receipt.part,
    )
    recorded = {receipt.part: receipt.files for receipt in before.receipts}
    for receipt in job.earlier.kept:
        if receipt.files != recorded[receipt.part]:  # its quarantine was read again
            commit_receipt(folder, receipt)
    summary = {**job.counts.total(receipts).summary(), **job.about}
    storage.commit(storage.join(folder, SUMMARY), json_files.encode(summary))
    storage.commit(storage.join(folder, METRICS), meter.recorded())
    runs.append(sorted({part.id for part in job.parts}.difference(*runs)))
    runs = [run for run in runs if run]
    manifest = Manifest(job=job.identity, receipts=receipts, runs=runs, retries=job.retries)
    manifest.commit(folder)
    storage.commit(storage.join(folder, SUCCESS), b"")
    return receipts


def _check_plan(job: Job, before: Manifest) -> list[list[str]]:
    """Check that the output is still the one for which the job was planned; return its runs."""
    recorded = {receipt.part for receipt in before.receipts if receipt.inputs}
    stale = {receipt.part for receipt in job.earlier.stale}
    kept = {receipt.part for receipt in job.earlier.kept}
    if recorded - stale - kept - {part.id for part in job.parts} or kept - recorded:
        raise _changed_meanwhile(job)
    return [sorted(set(run) - stale) for run in before.runs]


def _changed_meanwhile(job: Job) -> OutputExistsError:
    return OutputExistsError(
        f"{job.output} was changed by another command while this one was planned; start it again"
    )


def _write_empty_tables(job: Job, folder: str, receipts: Sequence[Receipt]) -> list[Receipt]:
    """Write an empty table to each folder to which no part writes; return a receipt for them."""
    files = {
        name: data
        for table, contents in job.empty_tables.items()
        if not any(name.startswith(f"{table}/") for name in files_of(receipts))
        for name, data in contents.items()
    }
    if not files:
        return []
    written = commit_files(folder, files)
    return [
        Receipt(
            part=part_id("empty"), name="0", inputs=(), versions=(), contents=(), files=written,
            counts=job.counts(),
        )
    ]  # fmt: skip


def _check_accounts(job: Job, done: Sequence[Receipt]) -> None:
    """Raise InternalError unless each part was done once, with all its rows."""
    planned = {part.id: part.num_rows for part in job.parts}
    if sorted(receipt.part for receipt in done) != sorted(planned):
        raise InternalError(f"{job.output}: {len(done)} parts done of {len(planned)} planned")
    for receipt in done:
        if receipt.counts.rows != planned[receipt.part]:
            raise InternalError(
                f"{receipt.inputs[0]}: {receipt.counts.rows} rows accounted for of "
                f"{planned[receipt.part]}; please report this"
            )


def _check_error_rate(job: Job, done: Sequence[Receipt], bad: int) -> None:
    """Raise DataError if more rows of this command are quarantined than may be, or all."""
    rows = sum(part.num_rows for part in job.parts if not part.is_retried)
    none_left = bad == rows > 0 and not job.allow_none
    if bad <= job.max_error_rate * rows and not none_left:
        return
    limit = "" if none_left else f", more than --max-error-rate {job.max_error_rate}"
    remedy = "change the settings" if none_left else "allow more"
    raise DataError(
        f"{bad:,} of {rows:,} rows are unusable (most often {job.counts.total(done).most_often()})"
        f"{limit}; see {job.output}/quarantine, then repair the input or {remedy}"
    )


def _check_broken_files(job: Job, done: Sequence[Receipt]) -> None:
    """Raise DataError if more files of this command are lost than may be; the rest is done."""
    broken = [receipt for receipt in done if receipt.counts.broken_files]
    number = sum(receipt.counts.broken_files for receipt in broken)
    if number <= job.max_broken_files:
        return
    num_files = len({file for part in job.parts for file in part.files})
    first = job.counts.total(broken).most_often() or broken[0].inputs[0]
    raise DataError(
        f"{number:,} of {num_files:,} files cannot be read, and their rows are lost (the first: "
        f"{first}); everything else is done: repair or remove these files and start the same "
        f"command again, or accept the loss with --max-broken-files {number}"
    )


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
        kept = job.earlier.kept
        self._command, self._num_parts = str(job.identity["command"]), len(job.parts) + len(kept)
        self._num_rows = sum(part.num_rows for part in job.parts)
        self._num_rows += sum(receipt.counts.rows for receipt in kept)
        self._listener, self._clock = listener, clock
        self._parts = self._rows = self._quarantined = self._rows_before = 0
        self._began: float | None = None
        self._recorded: list[JobProgress] = []

    def start(self, receipts: Iterable[Receipt]) -> None:
        """Count parts of an earlier command; they do not count for this one's speed."""
        for receipt in receipts:
            self._count(receipt)
        self._rows_before = self._rows
        self._emit(complete=False)

    def add(self, receipt: Receipt, seconds: float) -> None:
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

    def _count(self, receipt: Receipt) -> None:
        self._parts += 1
        self._rows += receipt.counts.rows
        self._quarantined += receipt.counts.quarantined

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
