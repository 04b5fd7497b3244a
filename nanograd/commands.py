"""The commands as Python functions: settings in, a result out; `nanograd.batch` has four of them.

Settings are keyword arguments, named like the flags with underscores; the environment variables
that set flags have no effect. The command line passes `spec`, a dataclass of the settings, in place
of all keyword arguments. All commands may raise these errors of `nanograd.errors`: UsageError for
an invalid setting or a missing package, DataError for an input or model that is missing or damaged,
and StorageError if a file cannot be read or written. Ray is imported only if `workers` is not 0.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from os import fsdecode
from time import perf_counter
from typing import Any

import numpy as np

from nanograd.console import results
from nanograd.console.results import Done, Result
from nanograd.console.terminal import shown
from nanograd.digits import mnist
from nanograd.digits.dataset import NUM_CLASSES
from nanograd.errors import OutputExistsError, UsageError, needs_package
from nanograd.images import inputs, sources, writers
from nanograd.models import model as model_io
from nanograd.models.model import Model
from nanograd.nn import metrics
from nanograd.report import training_report
from nanograd.report.html import Report, write_report
from nanograd.report.trackers import guarded, trackers
from nanograd.runtime import events, json_files, kernel, process, storage
from nanograd.runtime.events import Listener, broadcast, ignore, info, log_warnings, warning
from nanograd.runtime.json_files import JsonObject
from nanograd.runtime.lease import exclusive
from nanograd.runtime.signals import stop_signals
from nanograd.settings import specs
from nanograd.settings.arguments import places, resolved, takes, takes_input
from nanograd.settings.fields import Place
from nanograd.settings.specs import ReadOptions
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.local import LocalGroup, StartGroup
from nanograd.training.run import TrainingRun, load_initial


@takes(TrainSpec)
def train(
    *, listener: Listener = log_warnings, progress: bool = False, **settings: Any
) -> results.Training:
    """Train a net, or an ensemble, in its run directory; the bits do not depend on `workers`.

    If the run directory holds the same run, a complete run is loaded and a stopped run continues.

    Args:
        listener: called with each event (`nanograd.runtime.events`): messages, progress, finished
            epochs, failures of workers. `nanograd.TextLog(print)` prints them as lines. By default,
            warnings go to Python's `logging`.
        progress: show messages and a progress bar, on stderr or below the cell of a notebook.
        settings: `data="mnist"`, `preset="accurate"`, `output="runs/1"`, `batch_size=128`, ...
            The preset provides all other settings. `data` is a data set, a list of data sets, or a
            pair of arrays (images, labels) with images as for `Model.predict`. `workers` is the
            number of Ray actors; 0, the default, trains in this process, without Ray; None uses one
            actor per free CPU.

    Raises:
        OutputExistsError: the run directory holds another run.
        Stopped: Ctrl-C was pressed; the same call with the same output continues.
        DivergedError: a gradient, loss or parameter is not finite.
    """
    settings, arrays = sources.separate_arrays(settings)
    with resolved(TrainSpec, settings) as spec, shown(listener, progress) as audience:
        spec.check_output(spec.output)
        now = datetime.now().astimezone()  # with microseconds, because runs may start together
        place = spec.output or f"runs/{spec.preset}-{now:%Y%m%d-%H%M%S-%f}"
        if spec.kernel == kernel.PORTABLE:
            process.require_portable()
        initial = load_initial(spec)
        options = ReadOptions.of_data(vars(spec))
        data = sources.load(spec.data, audience, spec.test_split, options, arrays)
        images = f"{len(data.train):,} + {len(data.test):,} images of {data.name}"
        audience(info(f"{images}; run directory {place}"))
        with trackers(place, spec, audience) as tracking:
            with (
                _workers(spec, place, audience) as (actors, start_group, metered),
                stop_signals() as stop,
            ):
                run = TrainingRun(replace(spec, workers=actors), place, data, initial)
                recipe = run.recipes[0]
                if spec.warmup >= recipe.num_rounds:
                    rounds = events.count(recipe.num_rounds, "round")
                    text = f"the warm-up takes the whole run of {rounds}"
                    audience(warning(f"{text}: lower --warmup or raise --epochs"))
                model = run.train(start_group, broadcast([audience, *tracking, *metered]), stop)

            def build() -> Report:
                return training_report.build(training_report.read_run(place), data.test)

            report = write_report(place, build, audience, as_png=spec.plots)
            rows = json_files.read_lines(storage.join(place, "metrics.jsonl"))
            found = results.Training(model=model, metrics=rows, directory=place, report=report)
            broadcast([audience, *tracking])(events.TrainingFinished(result=found.to_json()))
            return found


@contextmanager
def _workers(
    spec: TrainSpec, place: str, listener: Listener
) -> Iterator[tuple[int, StartGroup, list[Listener]]]:
    """Provide the number of Ray actors, the function that starts them, and Ray's metrics."""
    if spec.workers == 0:
        yield 0, LocalGroup, []
        return
    from nanograd.distributed.cluster import num_actors, session
    from nanograd.distributed.group import RayGroup
    from nanograd.distributed.prometheus import RayMetrics

    with session(spec.address, spec.workers, listener):
        metrics = guarded(RayMetrics("train", place), listener)
        yield num_actors(spec.workers, spec.shards), RayGroup, [metrics]


def report(
    place: Place, data: Sequence[str] = (), listener: Listener = ignore, *, as_png: bool = False
) -> Done:
    """Write the report of a finished run or prediction; with `as_png`, also charts as PNG files.

    The report of a run uses the test images of `data`; by default, of the run's own data.

    Raises:
        OutputExistsError: another process writes the folder.
    """
    from nanograd.jobs.output import SUMMARY
    from nanograd.report import prediction_report

    began, place = perf_counter(), fsdecode(place)
    if SUMMARY in storage.names(place):
        if data:
            raise UsageError(f"--data has no effect: {place} is a prediction; leave it out")
        built = prediction_report.build(place)
    else:
        run = training_report.read_run(place)
        test = sources.reload_test(data, run.model.about, run.config, listener)
        built = training_report.build(run, test)
    with exclusive(place, listener):
        written = built.write(place, as_png=as_png)
    seconds = perf_counter() - began
    values = {"report": written, "report_s": round(seconds, 3)}
    return Done(summary=f"written in {seconds:.1f} s: {written}", values=values)


def compare(
    runs: Place | Sequence[Place], *, listener: Listener = log_warnings
) -> results.Comparison:
    """Compare finished training runs: the settings that differ, results and curves.

    Args:
        runs: run directories, folders or URIs.
        listener: see `train`.
    """
    found = list(map(training_report.read_run, places(runs)))
    names = [each.name for each in TrainSpec.settings() if each.group != "Output"]
    settings = {name: [run.config.get(name) for run in found] for name in names}
    settings["data_sha256"] = [run.model.about["identity"]["data_sha256"] for run in found]
    of_models = ("test_accuracy", "val_accuracy", "epochs", "train_s", "images_per_s")
    last = [run.epochs[-1] if run.epochs else {} for run in found]  # {} if metrics.jsonl is lost
    return results.Comparison(
        runs=[run.folder for run in found],
        settings={
            name: values for name, values in settings.items() if values != values[:1] * len(values)
        },
        results={
            **{name: [run.model.about[name] for run in found] for name in of_models},
            **{name: [epoch.get(name) for epoch in last] for name in ("loss", "val_loss")},
            "params_sha256": [run.model.params_sha256() for run in found],
        },
        curves={
            name: [[epoch.get(name) for epoch in run.epochs] for run in found]
            for name in ("loss", "val_loss", "val_accuracy")
        },
    )


@takes_input(specs.EvaluateSpec)
def evaluate(
    model: Place | Model | None = None, *, listener: Listener = log_warnings, **settings: Any
) -> results.Evaluation:
    """Measure a model on labelled images.

    Args:
        model: a `Model`, or the path or URI of a model or run directory; None for the model in
            this package.
        listener: see `train`; with `verbose=True` it receives an `ImageScored` for each image.
        settings: `data` (as for `train`), and the other settings of the command.
    """
    name = repr(model) if isinstance(model, Model) else model
    settings, arrays = sources.separate_arrays({"model": name, **settings})
    with resolved(specs.EvaluateSpec, settings) as spec:
        loaded = model_io.load(model if isinstance(model, Model) else spec.model)
        options = ReadOptions.of_data(vars(spec))
        test = sources.load_test(spec.data, listener, options, arrays, about=loaded.about)
        began = perf_counter()
        with process.one_thread():
            probabilities = loaded.probabilities(test.images)
        best = np.argmax(probabilities, axis=1)
        if spec.verbose:
            found = test.labels.tolist(), probabilities.tolist(), best.tolist()
            for label, row, digit in zip(*found, strict=True):
                listener(events.ImageScored(label=label, scores=tuple(row), prediction=digit))
        seconds = perf_counter() - began
        confidence, is_right = probabilities.max(axis=1), best == test.labels
        return results.Evaluation(
            images=len(test),
            accuracy=metrics.accuracy(best, test.labels),
            calibration_error=metrics.calibration(confidence, is_right, 15).error,
            confusion=metrics.confusion_matrix(best, test.labels, NUM_CLASSES),
            evaluate_s=round(seconds, 3),
            params_sha256=loaded.params_sha256(),
        )


def export(
    model: Place | None = None,
    output: Place | None = None,
    *,
    listener: Listener = log_warnings,
    spec: specs.ExportSpec | None = None,
) -> results.Export:
    """Write a model as an ONNX graph.

    Args:
        model: model or run directory, or its URI; None for the model in this package.
        output: file or URI that ends in .onnx.
        listener: see `train`.
        spec: settings in place of `model` and `output`.
    """
    given = {"model": model, "spec": spec, **({} if output is None else {"output": output})}
    with resolved(specs.ExportSpec, given) as chosen:
        file = storage.absolute(chosen.output)
        storage.refuse_file(file.rpartition("/")[0])
        if not storage.is_remote(file) and storage.local_path(file).is_dir():
            raise OutputExistsError(f"{file} is a folder; choose another --output")
        loaded = model_io.load(chosen.model)
        with needs_package("nanograd export", "onnx"):
            from nanograd.models.onnx import OPSET, graph
        data = graph(loaded)
        storage.commit(chosen.output, data)
        return results.Export(
            format="onnx",
            opset=OPSET,
            nets=len(loaded.nets),
            bytes=len(data),
            params_sha256=loaded.params_sha256(),
            output=chosen.output,
        )


def fetch_data(mirrors: Sequence[str] = (), listener: Listener = ignore) -> Done:
    """Download MNIST into the cache; use only the given mirrors, if any."""
    cache, files = mnist.cache_folder(), {**mnist.FILES["train"], **mnist.FILES["test"]}
    mnist.fetch(cache, mirrors or mnist.MIRRORS, listener, files)
    text = f"MNIST is complete and verified in {cache}"
    return Done(summary=text, values={"cache": cache})


def describe_data(spec: specs.DataSpec, listener: Listener = ignore) -> Done:
    """Count the images of data sets and compute their checksum."""
    options = ReadOptions.of_data(vars(spec))
    data = sources.load(spec.data, listener, options=options, to_train=False)
    values: JsonObject = {"data": data.name, "sha256": data.sha256}
    lines = [f"{data.name}, SHA-256 {data.sha256}"]
    for name, part in (("train", data.train), ("test", data.test)):
        counts = np.bincount(part.labels, minlength=NUM_CLASSES).tolist()
        values[name] = {"images": len(part), "per_class": counts}
        digits = ", ".join(map(str, counts))
        lines.append(f"  {name:<5} {len(part):>7,} images; of each digit {digits}")
    return Done(summary="\n".join(lines), values=values)


def export_data(spec: specs.DataExportSpec, listener: Listener = ignore) -> Done:
    """Write test sets as PNG files, with a subfolder for each class.

    Raises:
        UsageError: a data set would read these files the next time.
    """
    output, folder = spec.output, storage.absolute(spec.output)
    storage.refuse_file(folder)
    file = storage.join(folder, "0", "00000.png")
    for name in (each for each in spec.data if each not in sources.WORDS):
        if inputs.takes(storage.absolute(name), file):
            text = f"the output, {output}, lies in the data set {name}; choose another --output"
            raise UsageError(text)
    test = sources.load_test(spec.data, listener, ReadOptions.of_data(vars(spec)))
    writers.write_pictures(test, folder)
    values = {"images": len(test), "output": output}
    return Done(summary=f"{events.count(len(test), 'picture')} written: {output}", values=values)


def demo(output: str, listener: Listener = ignore) -> Iterator[tuple[str, Result]]:
    """Run the whole pipeline on the built-in sample; yield each command with its result.

    Raises:
        OutputExistsError: the folder holds something else than an earlier demo.
    """
    from nanograd.batch import ingest, predict
    from nanograd.distributed.cluster import session

    began = perf_counter()
    run, pictures, rows, read = (storage.join(output, n) for n in ("run", "png", "rows", "read"))
    try:
        listener(info("writing the sample's test digits as PNG files, like a folder of your own"))
        export_data(specs.DataExportSpec(data="sample", output=pictures), listener)
        with session(None, 2, listener):
            listener(info("training on the built-in sample with two Ray workers"))
            trained = train(
                preset="accurate", data="sample", workers=2, output=run, listener=listener
            )
            yield "train", trained
            yield "ingest", ingest(pictures, output=rows, workers=None, listener=listener)
            predicted = predict(rows, output=read, model=run, workers=None, listener=listener)
            yield "predict", predicted
    except OutputExistsError as error:
        raise OutputExistsError(f"{error} (the demo has no --overwrite)") from error
    seconds = round(perf_counter() - began, 3)
    accuracies = {"test_accuracy": trained.test_accuracy, "accuracy": predicted.accuracy}
    values = {**accuracies, "predicted": predicted.predicted, "demo_s": seconds, "output": output}
    result = Done(summary=results.describe_demo(output, predicted), values=values)
    listener(info(str(result)))
    yield "demo", result
