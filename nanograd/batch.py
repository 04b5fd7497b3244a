"""The commands that read pictures and rows: ingest, predict, inspect, review.

See `nanograd.commands` for their settings and errors. If a job takes long, Ray runs its parts.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from time import perf_counter
from typing import Any

from nanograd.console.results import Corrections, Ingestion, Inspections, Plan, Prediction
from nanograd.console.terminal import shown
from nanograd.jobs import ingest as ingest_parts
from nanograd.jobs import predict as predict_parts
from nanograd.jobs.job import Job, JobResult, describe_job, run_job
from nanograd.jobs.output import CORRECTIONS, REVIEW, SUMMARY
from nanograd.jobs.part import DonePart, DoneParts, Part, RunParts, Work, run_local, run_part
from nanograd.jobs.receipts import Counts
from nanograd.models import model as model_io
from nanograd.report import prediction_report, sheet
from nanograd.report.html import write_report
from nanograd.report.review import Decisions, read_list, serve
from nanograd.report.trackers import guarded
from nanograd.runtime import process, storage
from nanograd.runtime.events import Listener, broadcast, duration, info, log_warnings, warning
from nanograd.runtime.json_files import JsonObject
from nanograd.runtime.lease import exclusive
from nanograd.settings import specs
from nanograd.settings.arguments import places, resolved, takes_input
from nanograd.settings.fields import Place

# Without --workers, a job that takes at most about this many seconds runs in this process, because
# the start of Ray and its actors takes about as long. The first parts are measured for a second.
_SMALL_S, _MEASURED_S = 20.0, 1.0


@takes_input(specs.IngestSpec)
def ingest(
    inputs: Place | Sequence[Place],
    *,
    listener: Listener = log_warnings,
    progress: bool = False,
    **settings: Any,
) -> Ingestion:
    """Convert pictures to Parquet.

    Arguments and errors are as for `predict`; the setting `output` is required.
    """
    called = perf_counter()
    with resolved(specs.IngestSpec, settings) as spec, shown(listener, progress) as audience:
        spec.check_output(spec.output)
        job, work = ingest_parts.plan(places(inputs), spec, audience)
        if spec.dry_run:
            return Ingestion(plan=Plan(**describe_job(job)))
        done = run_parts(job, work, audience)
        times = _times(called, done, "ingest_s")
        return Ingestion(**Counts.total(done.receipts).of_ingestion(), **times, output=spec.output)


@takes_input(specs.PredictSpec)
def predict(
    inputs: Place | Sequence[Place],
    *,
    listener: Listener = log_warnings,
    progress: bool = False,
    **settings: Any,
) -> Prediction:
    """Classify the digits in pictures, or in Parquet or CSV files.

    Args:
        inputs: files, folders or globs, local or in an object store.
        listener: see `train`.
        progress: see `train`.
        settings: `model="runs/1"`, `output="read"`, ... With `workers=0`, the default, the job runs
            in this process, without Ray. With None, it starts in this process, and then uses one
            Ray actor per free CPU if it takes long.

    Raises:
        OutputExistsError: the output holds the result of another job.
        StorageError: the storage failed; the same call continues the job.
    """
    called = perf_counter()
    with resolved(specs.PredictSpec, settings) as spec, shown(listener, progress) as audience:
        spec.check_output(spec.output)
        job, work = predict_parts.plan(places(inputs), spec, audience)
        if spec.dry_run:
            return Prediction(plan=Plan(**describe_job(job)))
        done, output = run_parts(job, work, audience), spec.output
        counts = Counts.total(done.receipts)
        for text in counts.remarks():
            audience(warning(text))
        build = partial(prediction_report.build, output)
        return Prediction(
            **counts.of_prediction(),
            **_times(called, done, "predict_s"),
            ingest_quarantined=job.about["ingest_quarantined"],
            files=len({file for part in job.parts for file in part.files} | job.earlier.files()),
            summary=storage.join(output, SUMMARY),
            review=storage.join(output, REVIEW) if spec.review_share else None,
            report=write_report(output, build, audience, as_png=spec.plots, again=done.changed),
            output=output,
            format=spec.format,
            partition_by=list(spec.partition_by),
        )


@takes_input(specs.InspectSpec)
def inspect(
    inputs: Place | Sequence[Place], *, listener: Listener = log_warnings, **settings: Any
) -> Inspections:
    """Draw the main steps from a picture to the probabilities.

    Args:
        inputs: files, folders or globs, local or in an object store.
        listener: see `train`.
        settings: `output="sheet.png"` is required; with `digits="many"`, pictures may hold
            many digits, and each digit gets a box.
    """
    with resolved(specs.InspectSpec, settings) as spec:
        output = storage.absolute(spec.output)
        sheet.check_output(output)
        model = model_io.load(spec.model)
        pictures, total = sheet.find_pictures(places(inputs), spec, output)
        if total > spec.limit:
            text = f"{total:,} pictures; the sheet shows the first {spec.limit} (--limit)"
            listener(info(text))
        with process.one_thread():
            found = sheet.inspect_pictures(pictures, spec, model)
        storage.commit(output, sheet.draw_sheet(found, spec.model or model_io.BUILT_IN))
        refused = sum(each.steps.refused is not None for each in found)
        return Inspections(
            pictures=len(found),
            read=len(found) - refused,
            refused=refused,
            results=[each.to_json() for each in found],
            left_out=total - len(found),
            output=spec.output,
        )


@takes_input(specs.ReviewSpec)
def review(output: Place, *, listener: Listener = print, **settings: Any) -> Corrections:
    """Serve a page to correct the least certain rows of a finished prediction, until Ctrl-C.

    Args:
        output: folder or URI of the prediction.
        listener: receives the address of the page; see `train`. By default it is printed.
        settings: `port`, by default a free one, and `no_browser`: only print the address.

    Raises:
        OutputExistsError: another process is writing to the output.
        UnavailableError: the port is not free.
    """
    with resolved(specs.ReviewSpec, settings) as spec:
        [given] = places([output])
        place = storage.absolute(given)
        rows = read_list(place)
        if not len(rows):
            return Corrections(rows=0)
        with exclusive(place, listener) as lease:
            decisions = Decisions(place, rows, lease)
            serve(decisions, spec, listener)
            counts = decisions.close()
        file = storage.join(given, CORRECTIONS) if counts["reviewed"] else None
        return Corrections(**counts, corrections=file)


def run_parts(job: Job, work: Work, listener: Listener) -> JobResult:
    """Run a batch job.

    Ray is not started if the output is already complete. If neither a number of workers nor an
    address is given, Ray is started only if the job takes long.

    Raises:
        ClusterError: Ray does not answer or has no free CPU.
    """
    spec = job.spec
    if spec.workers == 0 or not job.parts:
        with process.one_thread():
            return run_job(job, run_local(work), listener)
    listeners = [listener]
    everyone = broadcast(listeners)
    with ExitStack() as stack:

        def start_ray() -> RunParts:
            from nanograd.distributed.cluster import num_actors, session
            from nanograd.distributed.part_pool import run_on_ray
            from nanograd.distributed.prometheus import RayMetrics

            stack.enter_context(session(spec.address, spec.workers, listener))
            metrics = RayMetrics(job.identity["command"], job.output)
            listeners.append(guarded(metrics, listener))
            return partial(run_on_ray, work, num_actors(spec.workers))

        if spec.workers or spec.address:
            return run_job(job, start_ray(), everyone)
        text = f"running in this process; Ray starts if this takes over {_SMALL_S:.0f} s"
        listener(info(f"{text} (--workers N starts it at once)"))
        return run_job(job, run_small(work, start_ray, listener), everyone)


def run_small(
    work: Work,
    start_ray: Callable[[], RunParts],
    listener: Listener,
    run_here: Callable[[Work, Part], DonePart] = run_part,
) -> RunParts:
    """Return a function that runs parts in this process as long as the job looks small.

    As soon as the speed of the first parts shows that all parts would take too long, the function
    calls `start_ray`, and runs all other parts with the function that `start_ray` returns.
    """

    def run(parts: Sequence[Part]) -> DoneParts:
        num_done, num_left, seconds = 0, sum(part.num_rows for part in parts), 0.0
        for number, part in enumerate(parts, 1):
            with process.one_thread():
                done = run_here(work, part)
            num_done, num_left = num_done + part.num_rows, num_left - part.num_rows
            seconds += done.seconds
            yield done
            left_s = seconds * num_left / max(num_done, 1)
            if num_left and seconds > _MEASURED_S and seconds + left_s > _SMALL_S:
                text = f"the rest would take about {duration(left_s)} in this process"
                listener(info(f"{text}, so Ray takes over"))
                yield from start_ray()(parts[number:])
                return

    return run


def _times(called: float, done: JobResult, name: str) -> JsonObject:
    seconds = done.ended - done.began
    return {
        "start_s": round(done.began - called, 3),
        name: round(seconds, 3),
        "rows_per_s": round(done.rows / seconds) if seconds else 0,
    }
