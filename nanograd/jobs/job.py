"""A batch job plans its parts, does and commits each part once, and checks all row counts.

A part's id is computed from its input and the job, so a repeated command finds the parts that are
done and does only the rest. Until the output is complete, commands write to the output itself.
Every later change is written to a staging folder, whose files replace the old ones when all are
complete (see `output`). Such a change adds parts of new files, replaces parts (--sync,
--retry-quarantine, lost files), or replaces the output of another job (--overwrite).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from math import inf
from os import W_OK, access
from time import perf_counter
from typing import NamedTuple

from nanograd.errors import DataError, InternalError, OutputExistsError, UsageError
from nanograd.images.inputs import kind_of
from nanograd.jobs import output
from nanograd.jobs.output import Earlier, files_of
from nanograd.jobs.part import Part, RunParts, part_id
from nanograd.jobs.receipts import Counts, Receipt
from nanograd.runtime import json_files, storage
from nanograd.runtime.events import JobProgress, Listener, ignore, info
from nanograd.runtime.json_files import JsonObject
from nanograd.runtime.lease import Lease, exclusive
from nanograd.settings.specs import PartsSpec, PredictSpec

_RECORD_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job and its output."""

    spec: PartsSpec  # with an absolute output
    identity: JsonObject  # model and settings, which determine the output of an input
    parts: Sequence[Part] = field(repr=False)  # all parts except `earlier.kept`
    earlier: Earlier = field(default=Earlier(), repr=False)  # complete parts
    facts: JsonObject = field(default_factory=dict)  # what a dry run reports about the input
    # The following fields are used by predictions only.
    about: JsonObject = field(default_factory=dict)  # further items of `_summary.json`
    # An empty table for each folder, written if no part writes to that folder.
    empty_tables: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    # Writes the review list of all receipts into a folder.
    write_review: Callable[[str, Sequence[Receipt], Listener], None] = lambda *_: None

    @property
    def output(self) -> str:
        """Folder or URI."""
        return self.spec.output

    @property
    def staging(self) -> str:
        """Folder for new files while the old ones are visible."""
        return storage.join(self.output, output.STAGING)


class JobResult(NamedTuple):
    """The result of a command for a job."""

    receipts: Sequence[Receipt]  # of all parts, including those that earlier commands did
    rows: int  # rows that this command processed
    began: float  # `perf_counter` at the start of the command's first part
    ended: float  # `perf_counter` after `_SUCCESS`; equal to `began` if every part was done before
    changed: bool  # whether this command wrote the output


def run_job(job: Job, run_parts: RunParts, listener: Listener = ignore) -> JobResult:
    """Run the missing parts with `run_parts`, check that no row is lost, and complete the output.

    Raises:
        OutputExistsError: the output holds files of another job or program.
        UsageError: the output to overwrite contains an input file.
        DataError: all rows are quarantined, or more than allowed; or more files than allowed
            cannot be read.
        InternalError: a row is not counted exactly once.
        StorageError: a file cannot be written.
    """
    meter, text = ProgressMeter(job, listener), "holds this job's result, complete; nothing to do"
    # A complete output may be read-only. The lease of another one cannot be written there.
    if not storage.is_remote(job.output) and not access(
        storage.local_path(job.output), W_OK, effective_ids=True
    ):
        folder, before = _choose_folder(job, clean=False)
        if folder is None:
            listener(info(f"{job.output} {text}"))
            return JobResult(before.receipts, *meter.running(), changed=False)
    with exclusive(job.output, listener) as lease:
        if output.MANIFEST in storage.names(job.output):
            storage.remove_leftovers(job.output)
        output.move_staged(job.output, lease.check)
        folder, before = _choose_folder(job)
        if folder is None:
            listener(info(f"{job.output} {text}"))
            receipts = before.receipts
            place, is_intact = storage.join(job.output, output.SUMMARY), False
            with suppress(DataError):
                found = json_files.read(place)
                is_intact = not job.spec.verify or found == _summarize(job, receipts)
            if not is_intact:
                storage.commit(place, json_files.encode(_summarize(job, receipts)))
            job.write_review(job.output, receipts, listener)
            if output.SUCCESS not in storage.names(job.output):
                storage.commit(storage.join(job.output, output.SUCCESS), b"")
        else:
            receipts = _run_parts(
                job, folder, before, run_parts, meter, listener=listener, lease=lease
            )
            output.move_staged(job.output, lease.check)
    return JobResult(receipts, *meter.running(), folder is not None)


def describe_job(job: Job) -> JsonObject:
    """Return what a job would do, without changing its output; raise as `run_job` would.

    `estimated_s` is computed from the speed of the last command in this output, and is None without
    one.
    """
    waits = output.SUCCESS in storage.names(job.staging)  # the plan counts staged files as moved
    folder = job.output if waits else _choose_folder(job, clean=False)[0]
    left = [] if folder is None else job.parts
    if folder is not None and storage.exists(folder):
        found, files = output.read_receipts(folder), output.find_files(folder)
        done, _ = _find_done(job, folder, found, files)
        left = [part for part in left if part.id not in done]
    rows = sum(part.num_rows for part in left)
    metrics = json_files.read_lines(storage.join(job.output, output.METRICS), output.PROGRESS)
    speed = metrics[-1]["rows_per_s"] if metrics else None
    return {
        **job.facts,
        "parts": len(job.parts) + len(job.earlier.kept),
        "parts_to_do": len(left),
        "rows_to_do": rows,
        "estimated_s": round(rows / speed, 1) if speed else None,
    }


def _choose_folder(job: Job, *, clean: bool = True) -> tuple[str | None, output.Manifest]:
    """Return the folder in which this job works: the output or its staging. None if it is done.

    Also return the manifest of the output, which is empty if this job replaces the output. With
    `clean`, remove unfinished staged files of another job, and remove `_SUCCESS` if a file of
    the output is missing.
    """
    contents = [name for name in storage.names(job.output) if name != output.STAGING]
    if not contents:
        return job.output, output.Manifest()
    if output.MANIFEST not in contents:
        is_own = {output.RECEIPTS, output.SUMMARY} <= set(contents)
        if not (is_own and job.spec.overwrite):
            text = f"{job.output} holds {contents[0]!r}, which no job of this program wrote"
            remedy = "choose another --output"
            if is_own:
                text = f"{job.output} has lost {output.MANIFEST}"
                remedy = "restore it or replace the output with --overwrite"
            raise OutputExistsError(f"{text}; {remedy}")
        if clean:
            output.Manifest().commit(job.output)  # the staged files replace all of its files
    before = _read_own(job, job.output)
    folder: str | None = job.output  # the first command did not end
    if before is None or (job.spec.overwrite and before.receipts):
        if not job.spec.overwrite:
            old, new = output.Manifest.read(job.output).job, job.identity
            names = [each for each in {**old, **new} if old.get(each) != new.get(each)]
            others = [_describe_other(each, old.get(each), new.get(each)) for each in names]
            raise OutputExistsError(
                f"{job.output} holds the output of another job (other {', '.join(others)}); "
                "choose another --output or replace it with --overwrite"
            )
        inputs = (file for part in job.parts for file in part.files)
        if inside := next((file for file in inputs if file.startswith(f"{job.output}/")), None):
            text = f"--output {job.output} holds the input {inside}"
            raise UsageError(f"{text}; choose another --output")
        with suppress(DataError):  # a damaged manifest may be overwritten
            replaced = output.Manifest.read(job.output).receipts
            output.refuse_foreign(job.output, replaced, output.find_files(job.output))
        folder, before = job.staging, output.Manifest()
    elif before.receipts:
        found = output.find_files(job.output)
        output.refuse_foreign(job.output, before.receipts, found)
        empty = [each for each in before.receipts if not each.inputs]  # `find_earlier` skips it
        lost = output.find_lost(before.receipts, found)
        lost |= output.find_lost(empty, found, verify=job.spec.verify)
        if lost and clean:
            storage.remove(storage.join(job.output, output.SUCCESS))
        listed = {receipt.part for receipt in before.receipts}
        is_planned = not job.earlier.stale and listed >= {part.id for part in job.parts}
        is_whole = not lost and output.SUCCESS in contents
        folder = None if is_planned and is_whole else job.staging
    if clean and not (folder == job.staging and _read_own(job, job.staging)):
        storage.remove(job.staging)
    return folder, before


def _describe_other(name: str, old: object, new: object) -> str:
    """Name a setting that differs; if it holds types of columns, also a column that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for column in (*old, *new):
            was, now = old.get(column, "missing"), new.get(column, "missing")
            if was != now:
                return f"{name}: {column} was {was} and is {now}"
    return name.removesuffix("_sha256")


def _read_own(job: Job, folder: str) -> output.Manifest | None:
    """Read the manifest in a folder; None if there is none, or it belongs to another job.

    With `--overwrite`, a damaged manifest counts as missing.
    """
    if output.MANIFEST not in storage.names(folder):
        return None
    try:
        manifest = output.Manifest.read(folder)
    except DataError:
        if job.spec.overwrite:
            return None
        raise
    return manifest if manifest.job == job.identity else None


def _run_parts(
    job: Job,
    folder: str,
    before: output.Manifest,
    run_parts: RunParts,
    meter: "ProgressMeter",
    *,
    listener: Listener,
    lease: Lease,
) -> Sequence[Receipt]:
    """Run the parts of a job that have no receipt in a folder, and complete the folder."""
    kept, planned = job.earlier.kept, {part.id for part in job.parts}
    recorded = {receipt.part: receipt.files for receipt in before.receipts if receipt.inputs}
    stale, kept_parts = ({r.part for r in receipts} for receipts in (job.earlier.stale, kept))
    if recorded.keys() - stale - kept_parts - planned or kept_parts - recorded.keys():
        text = "was changed by another command while this one was planned; start it again"
        raise OutputExistsError(f"{job.output} {text}")
    runs = [sorted(set(run) - stale) for run in before.runs]
    if output.MANIFEST not in storage.names(folder):
        output.Manifest(job=job.identity).commit(folder)
    found, files = output.read_receipts(folder), output.find_files(folder)
    done, limited = _find_done(job, folder, found, files)
    num_rows = sum(limited.values())
    if num_done := len(done) + len(kept):
        listener(info(f"{num_done} of {len(planned) + len(kept)} parts are done already"))
    output.remove_other_parts(folder, files, found, done)
    meter.count(*kept, *done.values())
    own = list(done.values())
    counted = [each for each in own if each.part in limited]
    left = [replace(part, output=folder) for part in job.parts if part.id not in done]
    with closing(run_parts(left)) as results:
        for receipt, seconds in results:
            own.append(receipt)
            meter.count(receipt, seconds=seconds)
            counted += [receipt] if receipt.part in limited else []
            _check_error_rate(job, folder, counted, num_rows)
    _check_accounts(job, own)
    storage.remove_leftovers(folder)  # temporary files of workers that were killed in a commit
    lease.check()
    output.check_files(folder, own)
    receipts = [*kept, *own]
    # Write an empty table to each folder to which no part writes.
    folders = {name.partition("/")[0] for name in files_of(receipts)}
    if empty := {n: e for n, e in job.empty_tables.items() if n.partition("/")[0] not in folders}:
        receipts.append(
            Receipt(
                part=part_id("empty"),
                name="0",
                files=output.commit_files(folder, empty),
                counts=Counts(),
            )
        )
    receipts.sort(key=lambda receipt: receipt.part)
    for receipt in kept:
        if receipt.files != recorded[receipt.part]:  # a retry has replaced its quarantine
            output.commit_receipt(folder, receipt)
    summary = json_files.encode(_summarize(job, receipts))
    storage.commit(storage.join(folder, output.SUMMARY), summary)
    job.write_review(folder, receipts, listener)
    storage.commit(storage.join(folder, output.METRICS), meter.recorded())
    runs = [run for run in (*runs, sorted(planned.difference(*runs))) if run]
    output.Manifest(job=job.identity, receipts=receipts, runs=runs).commit(folder)
    storage.commit(storage.join(folder, output.SUCCESS), b"")
    return receipts


def _find_done(
    job: Job, folder: str, found: Mapping[str, Receipt], files: Mapping[str, tuple[str, int]]
) -> tuple[dict[str, Receipt], dict[str, int]]:
    """Return the receipts of the planned parts that are done and stay, of those `found`.

    Also return the number of rows of each part to which the limit of quarantined rows applies.
    """
    planned, stale = ({p.id for p in job.parts}, {r.part for r in job.earlier.stale})
    lost = output.find_lost(found.values(), files, verify=job.spec.verify)
    done = {
        part: receipt
        for part, receipt in found.items()
        if part in planned and lost.isdisjoint(receipt.files)
    }
    # A part with the id of a stale part has the same rows.
    retried = {file for each in job.earlier.stale if each.readings for file in each.inputs}
    limited = {
        part.id: part.num_rows
        for part in job.parts
        if not part.quarantine and part.id not in stale and retried.isdisjoint(part.files)
    }
    # A retry may repair nothing, so that it can be repeated after a kill; but it obeys a limit.
    limited = limited or {
        part.id: part.num_rows
        for part in job.parts
        if isinstance(job.spec, PredictSpec)
        and (job.spec.retry_quarantine and job.spec.max_error_rate < 1)
    }
    of_limited = [done[part] for part in limited if part in done]
    try:
        _check_error_rate(job, folder, of_limited, sum(limited.values()))
    except DataError:  # read rows again, because the pictures that they name may be repaired
        done = {part: each for part, each in done.items() if not each.counts.quarantined}
    return done, limited


def _summarize(job: Job, receipts: Sequence[Receipt]) -> JsonObject:
    """Return the content of `_summary.json`."""
    counts, is_prediction = Counts.total(receipts), isinstance(job.spec, PredictSpec)
    return {**(counts.summary() if is_prediction else counts.of_ingestion()), **job.about}


def _check_error_rate(job: Job, folder: str, done: Sequence[Receipt], rows: int) -> None:
    """Raise DataError if all rows are quarantined, or more than allowed."""
    rate, bad = 1.0, sum(each.counts.quarantined for each in done)
    if is_prediction := isinstance(job.spec, PredictSpec):
        rate = job.spec.max_error_rate
    none_left = bad == rows > 0
    if bad <= rate * rows and not none_left:
        return
    limit = "" if none_left else f", more than --max-error-rate {rate}"
    remedy = "change the settings and add --overwrite" if none_left else "allow more"
    where = "quarantine" if is_prediction else "_quarantine"
    raise DataError(
        f"{bad:,} of {rows:,} rows are unusable (most often {Counts.total(done).most_often()})"
        f"{limit}; see {folder}/{where}, then repair the input or {remedy}"
    )


def _check_accounts(job: Job, done: Sequence[Receipt]) -> None:
    """Check that each part was done once, that its rows add up, and that enough files were read."""
    planned = {part.id: part.num_rows for part in job.parts}
    if sorted(receipt.part for receipt in done) != sorted(planned):
        raise InternalError(f"{job.output}: {len(done)} parts done of {len(planned)} planned")
    for receipt in done:
        if receipt.counts.rows != planned[receipt.part]:
            raise InternalError(
                f"{receipt.inputs[0]}: {receipt.counts.rows} rows accounted for of "
                f"{planned[receipt.part]}; please report this"
            )
    broken = [receipt for receipt in done if receipt.counts.broken_files]
    number = sum(receipt.counts.broken_files for receipt in broken)
    num_files = len({file for part in job.parts for file in part.files})
    none_left = number == num_files > 0 and not job.earlier.kept
    if number > job.spec.max_broken_files or none_left:
        accept = f", or accept the loss of their rows with --max-broken-files {number}"
        first = Counts.total(broken).most_often()  # an ingestion has none, and rejects archives
        first = first or next(e for e in broken[0].inputs if kind_of(e) == "archive")
        raise DataError(
            f"{number:,} of {num_files:,} files cannot be read (the first: {first}); everything "
            "else is done: repair or remove these files and start the same command again"
            f"{'' if none_left else accept}"
        )


class ProgressMeter:
    """Adds up receipts, and emits a `JobProgress` event for each call of `count`."""

    def __init__(
        self, job: Job, listener: Listener, clock: Callable[[], float] = perf_counter
    ) -> None:
        kept = job.earlier.kept
        self._command, self._num_parts = job.identity["command"], len(job.parts) + len(kept)
        self._num_rows = sum(part.num_rows for part in job.parts)
        self._num_rows += sum(receipt.counts.rows for receipt in kept)
        self._listener, self._clock = listener, clock
        self._parts = self._rows = self._quarantined = self._rows_before = 0
        self._began = inf
        self._recorded: list[JobProgress] = []

    def count(self, *receipts: Receipt, seconds: float | None = None) -> None:
        """Count parts of earlier commands, or, with `seconds`, a part that was just done."""
        for receipt in receipts:
            self._parts += 1
            self._rows += receipt.counts.rows
            self._quarantined += receipt.counts.quarantined
        if seconds is None:
            self._rows_before = self._rows
        else:  # the first part begins after the start of Ray and of the actors
            self._began = min(self._began, self._clock() - seconds)
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
            complete=seconds is not None and self._parts == self._num_parts,
        )
        self._listener(event)
        before = self._recorded[-1].time_s if self._recorded else -_RECORD_S
        if event.complete or event.time_s - before >= _RECORD_S:
            self._recorded.append(event)

    def running(self) -> tuple[int, float, float]:
        """Return the rows that this command processed, when its first part began, and the time."""
        now = self._clock()
        return self._rows - self._rows_before, min(self._began, now), now

    def recorded(self) -> bytes:
        """Return the emitted progress as lines of JSON: at most one a second, and the last one."""
        return json_files.encode_lines(event.record() for event in self._recorded)
