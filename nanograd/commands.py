"""What each command does: settings in, figures out. The command line and the jobs call these."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter, strftime
from typing import Any

import numpy as np

from nanograd.backends import part_runner, ray_metrics, worker_group
from nanograd.batch import ingest as ingest_parts
from nanograd.batch import predict as predict_parts
from nanograd.batch.inputs import expand_pictures
from nanograd.batch.job import SUMMARY, Job, Result, run_job
from nanograd.batch.part import Work
from nanograd.config.command_configs import (
    EvaluateConfig,
    ExportConfig,
    IngestConfig,
    InspectConfig,
    JobConfig,
    PredictConfig,
)
from nanograd.config.train_config import TrainConfig
from nanograd.console import closing
from nanograd.data import download, mnist
from nanograd.errors import UsageError
from nanograd.models import model as model_io
from nanograd.nn import metrics
from nanograd.pictures.decode import PictureReader, formats_named
from nanograd.report import plots, prediction_report, sheet, training_report
from nanograd.report.inspection import inspect_picture, summarize
from nanograd.report.trackers import trackers
from nanograd.runtime import process, storage
from nanograd.runtime.events import Show, ignore, to_all
from nanograd.runtime.signals import stop_signals
from nanograd.training.run import train_run
from nanograd.training.run_directory import Run

Say = Callable[[str], None]
Figures = dict[str, Any]


def train(config: TrainConfig, say: Say, show: Show = ignore) -> Figures:
    """Train a net in its run directory; the figures of its result line."""
    place = run_directory(config)
    if config.plots:
        plots.require()
    data = mnist.load(config.data, say)
    say(f"{len(data.train):,} + {len(data.test):,} images of {data.name}; run directory {place}")
    others = trackers(place, vars(config), config.tensorboard, config.mlflow, say)
    with (
        others as shows,
        worker_group(config) as (workers, make_group),
        stop_signals() as stop,
    ):
        show = to_all([show, *shows, *ray_metrics(config, "train", place)])
        run = Run(config=replace(config, workers=workers), place=place, data=data)
        figures = train_run(run, make_group, stop.is_set, say, show)
        show({"event": "result", **figures})
    write = partial(training_report.write, place, data.test, as_png=config.plots)
    return {**figures, "report": write_report(place, write, say, anew=config.plots)}


def run_directory(config: TrainConfig) -> str:
    """Where a run is kept; if nobody says, in a folder named for the preset and the time."""
    return config.output or f"runs/{config.preset}-{strftime('%Y%m%d-%H%M%S')}"


def report(place: str, data: str | None, say: Say, *, as_png: bool = False) -> Figures:
    """Write the report of a finished run or prediction; the figures of its result line.

    Args:
        place: the run directory, or the output folder of a prediction.
        data: whose test images to read for it; None for those of the run.
        say: told in sentences what happens.
        as_png: whether its plots are written as PNG files, too.

    Raises:
        UsageError: a prediction has no test images; or Matplotlib is missing.
    """
    if as_png:
        plots.require()
    began = perf_counter()
    if prediction_report.is_prediction(place):
        if data is not None:
            raise UsageError(f"--data has no effect: {place} is a prediction; leave it out")
        written = prediction_report.write(place, as_png=as_png)
        return {"report": written, "report_s": round(perf_counter() - began, 3)}
    story = training_report.read_run(place)
    test = mnist.load_test(data or story.model.about["data"], say)
    written = training_report.write(place, test, as_png=as_png)
    return {"report": written, "report_s": round(perf_counter() - began, 3)}


def ingest(config: IngestConfig, inputs: Sequence[str], say: Say, show: Show = ignore) -> Figures:
    """Turn pictures into Parquet; the figures of its result line."""
    called = perf_counter()
    job, work = ingest_parts.plan(config, inputs, say)
    result = _run(config, job, work, say, show)
    return {**result.summary, **_times("ingest_s", called, result), "output": config.output}


def predict(config: PredictConfig, inputs: Sequence[str], say: Say, show: Show = ignore) -> Figures:
    """Read the digits in Parquet files; the figures of its result line."""
    called = perf_counter()
    if config.plots:
        plots.require()
    job, work = predict_parts.plan(config, inputs)
    result = _run(config, job, work, say, show)
    # What only the report shows would make a long line.
    shown = {
        name: value
        for name, value in result.summary.items()
        if name != "worst" and not name.endswith("_by_confidence")
    }
    files = len({file for part in job.parts for file in part.files})
    times = _times("predict_s", called, result)
    write = partial(prediction_report.write, config.output, as_png=config.plots)
    where = {
        "summary": storage.join(config.output, SUMMARY),
        "report": write_report(config.output, write, say, anew=config.plots),
        "output": config.output,
    }
    return {**shown, "files": files, **times, **where}


def inspect(config: InspectConfig, inputs: Sequence[str], say: Say) -> Figures:
    """Draw what pictures become on their way to the net; the figures of its result line."""
    output = storage.absolute(config.output)
    sheet.check_output(output)
    model = model_io.load(config.model) if config.model else None
    reader = PictureReader(
        max_bytes=config.max_bytes,
        max_pixels=config.max_pixels,
        formats=formats_named(config.formats),
    )
    files = [file.place for file in expand_pictures(inputs) if file.place != output]
    if len(files) > config.limit:
        say(f"{len(files):,} pictures; the first {config.limit} are drawn (--limit)")
    with process.one_thread():
        shown = files[: config.limit]
        found = [inspect_picture(file, reader, config.polarity, model) for file in shown]
    storage.commit(output, sheet.draw_sheet(found, config.model))
    return {**summarize(found), "left_out": len(files) - len(found), "output": config.output}


def evaluate(config: EvaluateConfig, say: Say, echo: Say) -> Figures:
    """Measure a model on a test set; with `verbose` a line an image through `echo`."""
    model = model_io.load(config.model)
    test = mnist.load_test(config.data, say)
    began = perf_counter()
    with process.one_thread():
        scores = model.scores(test.images)
    best = np.argmax(scores, axis=1)
    if config.verbose:
        for label, row, class_ in zip(test.labels, scores, best, strict=True):
            ten = " ".join(f"{score:.6f}" for score in row)
            echo(f"{label}  [{ten}]  {row[class_]:.6f}  {class_}")
    seconds, accuracy = perf_counter() - began, metrics.accuracy(best, test.labels)
    say(f"time taken to check: {seconds:.3f} s\naccuracy: {accuracy:.4f}")
    confusion = metrics.confusion_matrix(best, test.labels)
    return {
        "images": len(test),
        "accuracy": accuracy,
        "confusion": confusion.tolist(),
        "evaluate_s": round(seconds, 3),
        "params_sha256": model.params_sha256(),
    }


def export_model(config: ExportConfig) -> Figures:
    """Write a model as an ONNX graph; the figures of its result line."""
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


def data_fetch(mirrors: Sequence[str], say: Say) -> Figures:
    """Download MNIST into the cache; where it is."""
    cache = download.cache_folder()
    download.fetch(cache, mirrors or download.MIRRORS, say)
    return {"cache": cache}


def data_info(source: str, say: Say) -> Figures:
    """Counts, classes and checksum of a data set."""
    data = mnist.load(source, say)
    return {
        "data": data.name,
        "sha256": data.sha256,
        **{
            part: {"images": len(each), "per_class": np.bincount(each.labels).tolist()}
            for part, each in (("train", data.train), ("test", data.test))
        },
    }


def data_export(source: str, output: str, say: Say) -> Figures:
    """Write a test set as PNG files, a folder a class."""
    test = mnist.load_test(source, say)
    mnist.write_pictures(test, output)
    return {"images": len(test), "output": output}


def write_report(
    place: str, write: Callable[[], str], say: Say, *, anew: bool = False
) -> str | None:
    """Write a report where there is none, or anew; what goes wrong with it ends no command."""
    written = storage.join(place, training_report.NAME)
    try:
        return written if storage.exists(written) and not anew else write()
    except Exception as error:  # noqa: BLE001 - the model is what counts, and it is there
        say(f"WARNING: no report ({error!r}); `nanograd report {place} --debug` shows why")
        return None


def _run(config: JobConfig, job: Job, work: Work, say: Say, show: Show) -> Result:
    """Run a batch job here or on Ray."""
    with part_runner(config, work) as run_parts:
        metrics_ = ray_metrics(config, job.identity["command"], job.place)
        return run_job(job, run_parts, say, to_all([show, *metrics_]))


def _times(name: str, called: float, result: Result) -> Figures:
    """Seconds until the first part was begun, seconds from there to the end, rows a second."""
    seconds = result.ended - result.began
    return {
        "start_s": round(result.began - called, 3),
        name: round(seconds, 3),
        "rows_per_s": round(result.rows / seconds) if seconds else 0,
    }


_TRAINING = TrainConfig.resolve(
    {"preset": "accurate", "data": "sample", "workers": 2, "overwrite": True}
)


def demo(output: str, say: Say, show: Show = ignore) -> Iterator[tuple[str, Figures]]:
    """The whole pipeline on the built-in sample; yields (command, figures) as each step is done."""
    from nanograd.distributed.cluster import session

    began = perf_counter()
    run, pictures, rows, read = (storage.join(output, n) for n in ("run", "png", "rows", "read"))
    with session(None, 2):
        say("training on the built-in sample with two Ray workers")
        training = train(replace(_TRAINING, output=run), say, show)
        yield "train", training
        say("writing its test digits as PNG files, as your own folder of digits could look")
        data_export("sample", pictures, say)
        pictures_config = IngestConfig(output=rows, overwrite=True)
        yield "ingest", ingest(pictures_config, [pictures], say, show)
        rows_config = PredictConfig(output=read, model=training["model"], overwrite=True)
        reading = predict(rows_config, [rows], say, show)
        yield "predict", reading
    say(closing.of_demo(reading, pictures=pictures, rows=rows, model=training["model"]))
    figures = {"test_accuracy": training["test_accuracy"], "accuracy": reading["accuracy"]}
    yield "demo", {**figures, "demo_s": round(perf_counter() - began, 3), "output": output}
