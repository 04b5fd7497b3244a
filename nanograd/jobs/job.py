"""A batch job: parts planned first, each done once and committed, accounted for at the end.

    OUT/_receipts/ID.json   receipt of a part; a part with a receipt is done
    OUT/_summary.json       sum of all receipts
    OUT/_review.pq          gathered from the files of all parts, by `predict`
    OUT/_metrics.jsonl      progress of the last command, with times
    OUT/_manifest.json      identity of the job; receipts and runs of the complete parts
    OUT/_SUCCESS            written last of all
    OUT/_next/...           new parts while those that they replace are still in place

A part's id follows from its input and the job, so the same command again finds the parts that are
done and finishes the rest. The first command works in OUT itself. Whatever changes an output after
that is made in OUT/_next and takes its place once it is complete, as `replacement` describes: the
parts of files that were added, which the manifest lists as another run; parts that --sync or
--retry-quarantine replace, or whose files are lost; the output of another job, with --overwrite.

Names and sizes of files are held against the receipts before an output is called complete. So
`_SUCCESS` never stands beside rows that the manifest does not list.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, NamedTuple

from nanograd.errors import DataError, InternalError, OutputExistsError, UsageError
from nanograd.jobs import account
from nanograd.jobs.earlier import MANIFEST, NEXT, SUCCESS, Earlier
from nanograd.jobs.part import (
    RECEIPTS,
    Part,
    Receipt,
    RunParts,
    check_files,
    describe_files,
    files_of,
    find_files,
    find_lost,
    refuse_foreign,
    total,
)
from nanograd.jobs.replacement import (
    METRICS,
    SUMMARY,
    finish_replacement,
    part_files,
    receipt_of,
)
from nanograd.runtime import json_files, storage
from nanograd.runtime.events import JobProgress, Listener, ignore, info
from nanograd.runtime.lease import Lease, exclusive

_RECORD_S = 1.0
# Receipts in an object store take a round trip each; so many are read at once.
_NUM_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job and its output."""

    place: str  # output folder or URI
    identity: dict[str, Any]  # model and settings, which determine the output of an input
    parts: Sequence[Part] = field(repr=False)  # all but those that `earlier` keeps
    earlier: Earlier = field(default=Earlier(), repr=False)  # complete parts
    overwrite: bool  # whether to replace another job's output
    verify: bool = False  # whether to compare checksums of what stands, too
    # Limits for the parts of this command, whatever earlier ones did.
    max_error_rate: float = 1.0  # share of the rows that may go to quarantine
    allow_none: bool = True  # whether all rows may go there
    max_broken_files: int = 0  # files whose rows are unknown
    # Turns the sum of all receipts into the summary.
    summarise: Callable[[Receipt], dict[str, Any]] = dict
    gathered_by: dict[str, Any] = field(default_factory=dict)  # settings of `gather`
    # Makes further files, contents by name, of all receipts and the place of each part's files.
    gather: Callable[[Sequence[Receipt], Callable[[Receipt], str]], dict[str, bytes]] = (
        lambda receipts, place_of: {}
    )
    describe: Callable[[], dict[str, Any]] = dict  # returns facts about the input for a dry run

    def path(self, *names: str) -> str:
        """Return a place in the output."""
        return storage.join(self.place, *names)


class JobResult(NamedTuple):
    """The result of a command for a job."""

    summary: dict[str, Any]  # of the whole job, including parts that earlier commands did
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
        OutputExistsError: the place holds another job's output or foreign files, or is a file.
        UsageError: the output to overwrite holds the input.
        DataError: more rows than allowed go to quarantine, or all; more files than allowed cannot
            be read.
        InternalError: a row is not accounted for exactly once.
        StorageError: a file cannot be written.
    """
    meter = ProgressMeter(job, listener)
    storage.refuse_file(job.place)
    with exclusive(job.place, listener) as lease:
        if MANIFEST in storage.names(job.place):
            storage.remove_leftovers(job.place)
        finish_replacement(job.place, lease.check)
        below = _folder_below(job)
        if below is None:
            listener(info(f"{job.place} holds this job's result, complete; nothing to do"))
            receipts = _read_manifest(job)["receipts"]
        else:
            parts = [replace(part, below="".join(below)) for part in job.parts]
            stage = replace(job, place=job.path(*below), parts=parts)
            receipts = _run_parts(job, stage, run_parts, meter, listener=listener, lease=lease)
            finish_replacement(job.place, lease.check)
    return JobResult(job.summarise(total(receipts)), *meter.running(), below is not None)


def describe_job(job: Job) -> dict[str, Any]:
    """Return what a job would do, without a change to its output; raise as `run_job` would.

    `estimated_s` follows from the speed of an earlier command in this output, if one is known.
    """
    storage.refuse_file(job.place)
    waits = SUCCESS in storage.names(job.path(NEXT))  # the job was planned for what it makes
    below = () if waits else _folder_below(job, clean=False)
    stage = job.path(*below) if below is not None else job.place
    names = set(storage.names(storage.join(stage, RECEIPTS)))
    left = [part for part in job.parts if f"{part.id}.json" not in names]
    rows = sum(part.num_rows for part in left)
    speeds = [line["rows_per_s"] for line in json_files.read_lines(job.path(METRICS))][-1:]
    return {
        **job.describe(),
        "parts": len(job.parts) + len(job.earlier.kept),
        "parts_to_do": 0 if below is None else len(left),
        "rows_to_do": 0 if below is None else rows,
        "estimated_s": round(rows / speeds[0], 1) if speeds and speeds[0] else None,
    }


def _run_parts(
    job: Job,
    stage: Job,
    run_parts: RunParts,
    meter: "ProgressMeter",
    *,
    listener: Listener,
    lease: Lease,
) -> list[Receipt]:
    """Run the parts of a job that have no receipt, in a stage of it or in its own place."""
    runs = _begin_run(job, stage)
    found = _find_receipts(stage)
    lost = find_lost(found.values(), find_files(stage.place), verify=job.verify)
    done = {
        part.id: found[part.id]
        for part in job.parts
        if part.id in found and lost.isdisjoint(found[part.id]["files"])
    }
    if num_done := len(done) + len(job.earlier.kept):
        num_parts = len(job.parts) + len(job.earlier.kept)
        listener(info(f"{num_done} of {num_parts} parts are done already"))
    _remove_others(stage, found, done)
    meter.start([*job.earlier.kept, *done.values()])
    own = list(done.values())
    bad = sum(receipt["quarantined"] for receipt in own)
    _check_error_rate(stage, own, bad)  # an earlier command may have ended here
    for receipt, seconds in run_parts([part for part in stage.parts if part.id not in done]):
        own.append(receipt)
        meter.add(receipt, seconds)
        bad += receipt["quarantined"]
        _check_error_rate(stage, own, bad)
    _check_accounts(job, own)
    _check_broken_files(stage, own)
    storage.remove_leftovers(stage.place)  # of workers that were killed in a commit
    lease.check()
    check_files(stage.place, own)
    if not _is_ours(stage, stage.place):
        raise OutputExistsError(
            f"{stage.path(MANIFEST)} is that of another job, which wrote there meanwhile; run each "
            "job with an --output of its own"
        )
    receipts = sorted([*job.earlier.kept, *own], key=lambda receipt: receipt["part"])
    kept = {receipt["part"] for receipt in job.earlier.kept}
    gathered = job.gather(
        receipts, lambda receipt: job.place if receipt["part"] in kept else stage.place
    )
    for name, data in gathered.items():
        storage.commit(stage.path(name), data)
    made = {"by": job.gathered_by, "files": describe_files(gathered)}
    storage.commit(stage.path(SUMMARY), json_files.encode(job.summarise(total(receipts))))
    storage.commit(stage.path(METRICS), meter.recorded())
    runs = [*runs, sorted({part.id for part in job.parts}.difference(*runs))]
    _commit_manifest(stage, receipts, [run for run in runs if run], made)
    storage.commit(stage.path(SUCCESS), b"")
    return receipts


def _begin_run(job: Job, stage: Job) -> list[list[str]]:
    """Check, or commit, the manifest; return the parts of earlier runs that stay."""
    is_other = job.overwrite and stage.place != job.place
    manifest = _read_manifest(job) if not is_other and MANIFEST in storage.names(job.place) else {}
    recorded = {receipt["part"] for receipt in manifest.get("receipts", ())}
    stale = {receipt["part"] for receipt in job.earlier.stale}
    kept = {receipt["part"] for receipt in job.earlier.kept}
    if recorded - stale - kept - {part.id for part in job.parts} or kept - recorded:
        raise _changed_meanwhile(job)
    if MANIFEST not in storage.names(stage.place):
        _commit_manifest(stage, [], [], {"by": {}, "files": {}})
    runs = [sorted(set(run) - stale) for run in manifest.get("runs", ())]
    return [run for run in runs if run]


def _changed_meanwhile(job: Job) -> OutputExistsError:
    return OutputExistsError(
        f"{job.place} was changed by another command while this one was planned; start it again"
    )


def _commit_manifest(
    job: Job, receipts: Sequence[Receipt], runs: list[list[str]], gathered: dict[str, Any]
) -> None:
    manifest = {"job": job.identity, "receipts": receipts, "runs": runs, "gathered": gathered}
    json_files.commit_manifest(job.path(MANIFEST), manifest)


def _read_manifest(job: Job) -> dict[str, Any]:
    return json_files.read_manifest(job.path(MANIFEST))


def _folder_below(job: Job, *, clean: bool = True) -> tuple[str, ...] | None:
    """Return where in the output this job works: at the top, in _next, or None if it is done.

    Args:
        job: the job.
        clean: whether to remove an unfinished replacement that is not continued, and the mark of
            completeness of an output that lacks a file.
    """
    contents = [name for name in storage.names(job.place) if name != NEXT]
    if not contents:
        return ()
    if MANIFEST not in contents:
        raise OutputExistsError(
            f"{job.place} holds {contents[0]!r}, which no job of this program wrote; "
            "choose another --output"
        )
    if not _is_ours(job, job.place) or (job.overwrite and SUCCESS in contents):
        _check_replaceable(job)
        below: tuple[str, ...] | None = (NEXT,)
    elif receipts := _read_manifest(job)["receipts"]:
        is_whole = _check_standing(job, receipts, clean=clean)
        below = None if is_whole and SUCCESS in contents and _is_complete(job) else (NEXT,)
    else:
        below = ()  # the first command did not end
    if clean and not (below == (NEXT,) and _is_ours(job, job.path(NEXT))):
        storage.remove(job.path(NEXT))
    return below


def _check_standing(job: Job, receipts: Sequence[Receipt], *, clean: bool) -> bool:
    """Return whether the files of a complete output are there; refuse others among them."""
    found = find_files(job.place)
    refuse_foreign(job.place, receipts, found)
    lost = find_lost(receipts, found)
    if lost and clean:
        storage.remove(job.path(SUCCESS))
    if lost.intersection(files_of(job.earlier.kept)):
        raise _changed_meanwhile(job)
    return not lost


def _is_complete(job: Job) -> bool:
    """Return whether the manifest lists the very parts of the job, gathered by its settings."""
    manifest = _read_manifest(job)
    listed = {receipt["part"] for receipt in manifest["receipts"]}
    if job.earlier.stale or not listed >= {part.id for part in job.parts}:
        return False
    made = manifest["gathered"]
    lost = find_lost([made], find_files(job.place), verify=job.verify)
    return bool(made["by"] == job.gathered_by and not lost)


def _check_replaceable(job: Job) -> None:
    if not job.overwrite:
        before = _read_manifest(job)["job"]
        both = before | job.identity
        names = [name for name in both if before.get(name) != job.identity.get(name)]
        raise OutputExistsError(
            f"{job.place} holds the output of another job (other {', '.join(names)}); "
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


def _find_receipts(job: Job) -> dict[str, Receipt]:
    """Read the receipts that no manifest lists: those of killed commands."""
    names = [name for name in storage.names(job.path(RECEIPTS)) if name.endswith(".json")]
    places = [job.path(RECEIPTS, name) for name in names]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        receipts = list(pool.map(json_files.read_manifest, places))
    return {receipt["part"]: receipt for receipt in receipts}


def _remove_others(job: Job, found: Mapping[str, Receipt], done: Mapping[str, Receipt]) -> None:
    """Remove parts that are not done: planned otherwise, without a file, or half done."""
    others = [receipt for part, receipt in found.items() if part not in done]
    for receipt in others:
        storage.remove(job.path(receipt_of(receipt)))
    for name in {*part_files(job.place), *files_of(others)} - files_of(done.values()).keys():
        storage.remove(job.path(name))


def _check_accounts(job: Job, done: Sequence[Receipt]) -> None:
    seen = sorted(receipt["part"] for receipt in done)
    if seen != sorted(part.id for part in job.parts):
        raise InternalError(f"{job.place}: {len(seen)} parts done of {len(job.parts)} planned")
    planned = {part.id: part.num_rows for part in job.parts}
    for receipt in done:
        if receipt["rows"] != planned[receipt["part"]]:
            raise InternalError(
                f"{receipt['inputs'][0]}: {receipt['rows']} rows accounted for of "
                f"{planned[receipt['part']]}; please report this"
            )


def _check_error_rate(job: Job, receipts: Sequence[Receipt], bad: int) -> None:
    """Raise DataError if more rows of this command are quarantined than may be, or all."""
    rows = sum(part.num_rows for part in job.parts)
    none_left = bad == rows > 0 and not job.allow_none
    if bad <= job.max_error_rate * rows and not none_left:
        return
    limit = "" if none_left else f", more than --max-error-rate {job.max_error_rate}"
    remedy = "change the settings" if none_left else "allow more"
    raise DataError(
        f"{bad:,} of {rows:,} rows are unusable ({_describe_worst(job, receipts)}){limit}; see "
        f"{job.place}/quarantine, then repair the input or {remedy}"
    )


def _check_broken_files(job: Job, receipts: Sequence[Receipt]) -> None:
    """Raise DataError if more files of this command are lost than may be; the rest is done."""
    broken = [receipt for receipt in receipts if receipt.get("broken_files")]
    number = sum(receipt["broken_files"] for receipt in broken)
    if number <= job.max_broken_files:
        return
    num_files = len({file for part in job.parts for file in part.files})
    details = job.summarise(total(broken)).get("details") or [{"detail": broken[0]["inputs"][0]}]
    raise DataError(
        f"{number:,} of {num_files:,} files cannot be read, and their rows are lost (the first: "
        f"{details[0]['detail']}); everything else is done: repair or remove these files and start "
        f"the same command again, or accept the loss with --max-broken-files {number}"
    )


def _describe_worst(job: Job, receipts: Sequence[Receipt]) -> str:
    """Describe what is most often wrong with rows, with an example where a job keeps one."""
    summary = job.summarise(total(receipts))
    if details := summary.get("details"):
        return f"most often {account.describe(details[0])}"
    reasons = summary["reasons"]
    return f"most often {max(reasons, key=reasons.get)}"


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
        self._command, self._num_parts = job.identity["command"], len(job.parts) + len(kept)
        self._num_rows = sum(part.num_rows for part in job.parts)
        self._num_rows += sum(receipt["rows"] for receipt in kept)
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
