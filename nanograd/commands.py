"""Each command as a function, for command line, jobs and API: settings in, result line out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from time import perf_counter, strftime
from typing import Any

import numpy as np

from nanograd import sources
from nanograd.backends import group_starter, part_runner, ray_metrics
from nanograd.console import summaries
from nanograd.data import mnist
from nanograd.digits import download
from nanograd.digits.dataset import NUM_CLASSES, Source
from nanograd.errors import UsageError
from nanograd.jobs import account
from nanograd.jobs import ingest as ingest_parts
from nanograd.jobs import predict as predict_parts
from nanograd.jobs.job import Job, JobResult, describe_job, run_job
from nanograd.jobs.part import Work
from nanograd.jobs.replacement import SUMMARY
from nanograd.models import model as model_io
from nanograd.models.model import Model
from nanograd.nn import metrics
from nanograd.report import prediction_report, sheet, training_report
from nanograd.report.html import REPORT, Report
from nanograd.report.inspection import find_pictures, inspect_picture, summarize
from nanograd.report.trackers import trackers
from nanograd.runtime import events, process, storage
from nanograd.runtime.events import Listener, broadcast, ignore, info, warning
from nanograd.runtime.kernel import PORTABLE
from nanograd.runtime.signals import stop_signals
from nanograd.settings.specs import (
    EvaluateSpec,
    ExportSpec,
    IngestSpec,
    InspectSpec,
    JobSpec,
    PredictSpec,
)
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.run import TrainingRun, train_run

ResultLine = dict[str, Any]


def train(
    config: TrainSpec, listener: Listener = ignore, arrays: Source | None = None
) -> ResultLine:
    """Train a net, or an ensemble, in its run directory; on arrays in place of data sets."""
    place = run_directory(config)
    if config.kernel == PORTABLE:
        process.require_portable()
    columns = (config.image_column, config.label_column)
    data = sources.load(config.data, listener, config.test_split, columns, arrays)
    images = f"{len(data.train):,} + {len(data.test):,} images of {data.name}"
    listener(info(f"{images}; run directory {place}"))
    with (
        trackers(place, config.identity(), config.tensorboard, config.mlflow, listener) as tracking,
        group_starter(config, listener) as (workers, start_group),
        stop_signals() as stop,
    ):
        everyone = broadcast(listener, *tracking, *ray_metrics(config, "train", place, listener))
        run = TrainingRun.of(replace(config, workers=workers), place, data)
        recipe = run.nets[0].recipe
        if recipe.num_warm_up >= recipe.num_rounds:
            text = f"the warm-up of {recipe.num_warm_up} rounds is longer than the run of"
            listener(warning(f"{text} {recipe.num_rounds}: lower --warmup or raise --epochs"))
        result = train_run(run, start_group, everyone, stop)
        everyone(events.TrainingFinished(result=result))

    def build() -> Report:
        return training_report.build(training_report.read_run(place), data.test)

    return {**result, "report": write_report(place, build, listener, as_png=config.plots)}


def run_directory(config: TrainSpec) -> str:
    """Return the run directory; by default a folder named for the preset and the time."""
    return config.output or f"runs/{config.preset}-{strftime('%Y%m%d-%H%M%S')}"


def report(
    place: str, data: Sequence[str], listener: Listener = ignore, *, as_png: bool = False
) -> ResultLine:
    """Write the report of a finished run or prediction.

    That of a run uses the test images of `data`, by default those of its own data set.
    """
    began = perf_counter()
    if prediction_report.is_prediction(place):
        if data:
            raise UsageError(f"--data has no effect: {place} is a prediction; leave it out")
        built = prediction_report.build(prediction_report.read_prediction(place))
    else:
        run = training_report.read_run(place)
        test = sources.reload_test(data, run.model.about, run.config, listener)
        built = training_report.build(run, test)
    written = built.write(place, as_png=as_png)
    return {"report": written, "report_s": round(perf_counter() - began, 3)}


def ingest(config: IngestSpec, inputs: Sequence[str], listener: Listener = ignore) -> ResultLine:
    """Convert pictures to Parquet."""
    called = perf_counter()
    job, work = ingest_parts.plan(inputs, config, listener)
    if config.dry_run:
        return describe_job(job)
    result = _run(config, job, work, listener)
    return {**result.summary, **_times("ingest_s", called, result), "output": config.output}


def predict(config: PredictSpec, inputs: Sequence[str], listener: Listener = ignore) -> ResultLine:
    """Classify the digits in Parquet or CSV files."""
    called = perf_counter()
    job, work = predict_parts.plan(inputs, config, listener)
    if config.dry_run:
        return describe_job(job)
    result = _run(config, job, work, listener)
    for text in account.remarks(result.summary):
        listener(warning(text))
    # What only the report uses would make a long line.
    summary = {
        name: value
        for name, value in result.summary.items()
        if name not in ("worst", "inputs", "model")
        and not name.endswith(("_by_confidence", "_by_doubt"))
    }
    files = len({file for part in job.parts for file in part.files} | job.earlier.files())
    times = _times("predict_s", called, result)

    def build() -> Report:
        return prediction_report.build(prediction_report.read_prediction(config.output))

    return {
        **summary,
        "files": files,
        **times,
        "summary": storage.join(config.output, SUMMARY),
        "review": None if config.review_share == 0 else storage.join(config.output, account.REVIEW),
        "report": write_report(
            config.output, build, listener, as_png=config.plots, again=result.changed
        ),
        "output": config.output,
    }


def inspect(config: InspectSpec, inputs: Sequence[str], listener: Listener = ignore) -> ResultLine:
    """Draw each step from a picture to the probabilities."""
    output = storage.absolute(config.output)
    sheet.check_output(output)
    model = model_io.load(config.model) if config.model else None
    shown, total = find_pictures(inputs, config.limit, output)
    if total > config.limit:
        listener(info(f"{total:,} pictures; the sheet shows the first {config.limit} (--limit)"))
    with process.one_thread():
        found = [inspect_picture(name, config, model, data) for name, data in shown.items()]
    storage.commit(output, sheet.draw_sheet(found, config.model))
    return {**summarize(found), "left_out": total - len(found), "output": config.output}


def evaluate(
    config: EvaluateSpec,
    listener: Listener = ignore,
    arrays: Source | None = None,
    model: Model | None = None,
) -> ResultLine:
    """Measure a model on test sets, or arrays; with `verbose`, emit an event for each image."""
    model = model or model_io.load(config.model)
    columns = (config.image_column, config.label_column)
    test = sources.load_test(config.data, listener, columns, arrays)
    began = perf_counter()
    with process.one_thread():
        scores = model.probabilities(test.images)
    best = np.argmax(scores, axis=1)
    if config.verbose:
        found = test.labels.tolist(), scores.tolist(), best.tolist()
        for label, row, prediction in zip(*found, strict=True):
            listener(events.ImageScored(label=label, scores=tuple(row), prediction=prediction))
    seconds, accuracy = perf_counter() - began, metrics.accuracy(best, test.labels)
    listener(info(f"evaluated in {seconds:.3f} s\naccuracy: {accuracy:.4f}"))
    return {
        "images": len(test),
        "accuracy": accuracy,
        "calibration_error": metrics.calibration(scores.max(axis=1), best == test.labels, 15).error,
        "confusion": metrics.confusion_matrix(best, test.labels, NUM_CLASSES).tolist(),
        "evaluate_s": round(seconds, 3),
        "params_sha256": model.params_sha256(),
    }


def export_model(config: ExportSpec) -> ResultLine:
    """Write a model as an ONNX graph."""
    model = model_io.load(config.model)
    try:
        from nanograd.models.onnx import OPSET, graph
    except ModuleNotFoundError as error:
        raise UsageError("nanograd export needs the package onnx: pip install onnx") from error
    data = graph(model)
    storage.commit(config.output, data)
    return {
        "format": "onnx",
        "opset": OPSET,
        "nets": len(model.nets),
        "bytes": len(data),
        "params_sha256": model.params_sha256(),
        "output": config.output,
    }


def data_fetch(mirrors: Sequence[str], listener: Listener = ignore) -> ResultLine:
    """Download MNIST into the cache."""
    cache = download.cache_folder()
    download.fetch(cache, mirrors or download.MIRRORS, listener)
    listener(info(f"MNIST is complete and verified in {cache}"))
    return {"cache": cache}


def data_info(names: Sequence[str], listener: Listener = ignore) -> ResultLine:
    """Count the images of data sets and compute their checksum."""
    data = sources.load(names, listener)
    return {
        "data": data.name,
        "sha256": data.sha256,
        **{
            part: {"images": len(each), "per_class": np.bincount(each.labels).tolist()}
            for part, each in (("train", data.train), ("test", data.test))
        },
    }


def data_export(names: Sequence[str], output: str, listener: Listener = ignore) -> ResultLine:
    """Write test sets as PNG files, a folder for each class."""
    test = sources.load_test(names, listener)
    mnist.write_pictures(test, output)
    return {"images": len(test), "output": output}


def demo(output: str, listener: Listener = ignore) -> Iterator[tuple[str, ResultLine]]:
    """Run the whole pipeline on the built-in sample; yield each command with its result line."""
    from nanograd.distributed.cluster import session

    began = perf_counter()
    run, pictures, rows, read = (storage.join(output, n) for n in ("run", "png", "rows", "read"))
    settings = {"preset": "accurate", "data": "sample", "workers": 2, "overwrite": True}
    with session(None, 2, listener):
        listener(info("training on the built-in sample with two Ray workers"))
        trained = train(TrainSpec.resolve(settings, {"output": run}), listener)
        yield "train", trained
        listener(info("writing its test digits as PNG files, like a folder of your own digits"))
        data_export(["sample"], pictures, listener)
        yield "ingest", ingest(IngestSpec(output=rows, overwrite=True), [pictures], listener)
        config = PredictSpec(output=read, model=trained["model"], overwrite=True)
        predicted = predict(config, [rows], listener)
        yield "predict", predicted
    places = {"pictures": pictures, "rows": rows, "model": trained["model"]}
    listener(info(summaries.of_demo(predicted, **places)))
    accuracies = {"test_accuracy": trained["test_accuracy"], "accuracy": predicted["accuracy"]}
    yield "demo", {**accuracies, "demo_s": round(perf_counter() - began, 3), "output": output}


def write_report(
    place: str,
    build: Callable[[], Report],
    listener: Listener,
    *,
    as_png: bool = False,
    again: bool = False,
) -> str | None:
    """Write a missing report, or again, or with plots; a failure is a warning, ends no command."""
    written = storage.join(place, REPORT)
    try:
        if as_png or again or not storage.exists(written):
            build().write(place, as_png=as_png)
        return written
    except Exception as error:  # noqa: BLE001 - the model is what counts, and it exists
        listener(warning(f"no report ({error!r}); `nanograd report {place} --debug` shows why"))
        return None


def _run(config: JobSpec, job: Job, work: Work, listener: Listener) -> JobResult:
    """Run a batch job in this process or on Ray, which is not started for nothing."""
    if not job.parts:
        config = replace(config, workers=0)
    with part_runner(config, work, listener) as run_parts:
        ray = ray_metrics(config, job.identity["command"], job.place, listener)
        return run_job(job, run_parts, broadcast(listener, *ray))


def _times(name: str, called: float, result: JobResult) -> ResultLine:
    """Return seconds to the start of the first part, seconds from there to the end, and rows/s."""
    seconds = result.ended - result.began
    return {
        "start_s": round(result.began - called, 3),
        name: round(seconds, 3),
        "rows_per_s": round(result.rows / seconds) if seconds else 0,
    }
