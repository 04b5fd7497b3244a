"""The report of a training run: one HTML file that opens offline, made from its run directory."""

import json
import os
import platform
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanograd.digits import deskew, form, preparation
from nanograd.digits.dataset import NUM_CLASSES, Dataset
from nanograd.errors import DataError, UsageError
from nanograd.jobs.output import SUMMARY
from nanograd.models import model as model_io
from nanograd.models import reference
from nanograd.models.model import Model
from nanograd.nn import metrics
from nanograd.pictures import tuning
from nanograd.report import accuracy
from nanograd.report.charts import Axis, Chart, Series, confusion_chart, fit_axis, plot
from nanograd.report.html import Report, asset, render
from nanograd.runtime import json_files, process, storage
from nanograd.runtime.arrays import Floats
from nanograd.runtime.events import EpochMetrics
from nanograd.runtime.json_files import JsonObject
from nanograd.settings.fields import from_toml
from nanograd.settings.train_spec import PRESETS, TrainSpec

# Style of the mark for each event that is a failure or a recovery, by the event's name.
_STYLES = {"lost": "failed", "server_lost": "failed", "joined": "joined"}
_FILES = ("config.toml", "metrics.jsonl", "events.jsonl")
# Types of the values in the lines of metrics.jsonl and events.jsonl.
_OF_EPOCH = {
    "net": int | None,
    **{name: type_ | int for name, type_ in EpochMetrics.__annotations__.items()},
}
_OF_EVENT = {"net": int | None, "round": int | None} | dict.fromkeys(
    ("time", "event", "sentence"), str
)
# Maximum bytes of all nets of a page as ASCII JSON, enough for 1,200 hidden units in total. The
# whole page is then below 3 MB.
_MAX_NETS_BYTES = 2_560_000
_SCRIPTS = ("resize.js", "marks.js", "normalise.js", "net.js", "zip.js")


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """Contents of a run directory."""

    folder: str  # the run directory
    config: JsonObject  # resolved settings of the run
    epochs: Sequence[JsonObject]  # rows of metrics.jsonl; epochs and rounds count over all nets
    events: Sequence[JsonObject]  # rows of events.jsonl; rounds count over all nets
    model: Model  # the trained model
    versions: JsonObject  # versions of the packages that trained the model


def read_run(folder: str) -> FinishedRun:
    """Read a run directory.

    Raises:
        DataError: the run is not finished, a file is damaged, or the folder holds no run.
        StorageError: reading failed.
    """
    model = storage.join(folder, "model")
    manifest = storage.join(model, model_io.MANIFEST)
    if storage.exists(storage.join(folder, SUMMARY)):
        raise DataError(f"{folder} was written by predict or ingest; name a training run")
    if not storage.exists(folder):
        raise DataError(f"{folder}: there is no such folder; check the path")
    if not storage.exists(manifest):
        raise DataError(
            f"{folder} holds neither a finished training run nor a finished prediction; check the "
            "path, or finish the run or prediction with its own command"
        )
    config, *lines = (storage.join(folder, name) for name in _FILES)
    epochs, events = map(json_files.read_lines, lines, (_OF_EPOCH, _OF_EVENT))
    try:
        settings = from_toml(storage.read(config).decode(errors="surrogateescape"), config)
    except UsageError as error:
        raise DataError(f"{error}; restore the file") from error
    found = model_io.load(model)
    trained = found.about["identity"].get("epochs")
    planned = settings.get("epochs", trained)
    if planned != trained:  # the command that trains more epochs was stopped
        raise DataError(
            f"{folder} has a model of {trained} epochs in a run of {planned} that is not finished; "
            "finish the run with its own command"
        )
    return FinishedRun(
        folder=folder,
        config=settings,
        epochs=_count_through(epochs, epochs),
        events=_count_through(events, epochs),
        model=found,
        versions=json_files.read_manifest(manifest)["versions"],
    )


def _count_through(rows: list[JsonObject], epochs: list[JsonObject]) -> list[JsonObject]:
    """Count epochs and rounds through all nets of an ensemble; in `rows`, each net starts at 1.

    >>> epochs = [{"net": net, "epoch": 1, "round": 9} for net in (1, 2)]
    >>> _count_through(epochs, epochs)[1]
    {'net': 2, 'epoch': 2, 'round': 18}
    >>> _count_through([{"net": 2, "round": 3}, {"net": 2}], epochs)
    [{'net': 2, 'round': 12}, {'net': 2}]
    """
    last, counted = {row.get("net") or 1: row for row in epochs}, []
    for row in rows:
        before = [each for net, each in last.items() if net < (row.get("net") or 1)]
        numbers = [name for name in ("epoch", "round") if row.get(name) is not None]
        sums = {name: row[name] + sum(each[name] for each in before) for name in numbers}
        counted.append(row | sums)
    return counted


def build(run: FinishedRun, test: Dataset) -> Report:
    """Build the report of a run; this classifies the test images."""
    with process.one_thread():
        probabilities = run.model.probabilities(test.images)
    predictions, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    correct = predictions == test.labels
    calibration = metrics.calibration(confidence, correct)
    confusion = metrics.confusion_matrix(predictions, test.labels, NUM_CLASSES)
    bins = {
        name: np.histogram(confidence[chosen], 20, (0, 1))[0]
        for name, chosen in (("correct", correct), ("wrong", ~correct))
    }
    plots = {
        "learning": learning_charts(run.epochs),
        "confusion": [confusion_chart(confusion)],
        "calibration": [accuracy.reliability_chart(calibration)],
        "confidence": [accuracy.histogram_chart(bins)],
    }
    if speed := speed_charts(run):
        plots["speed"] = speed
    wrong = np.flatnonzero(~correct)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][: accuracy.NUM_SHOWN]
    columns = [each[worst].tolist() for each in (test.labels, predictions, confidence)]
    mistakes = list(map(accuracy.draw_prediction, test.images[worst], *columns))
    preset = str(run.config.get("preset"))
    usual = asdict(TrainSpec.resolve({"preset": preset})) if preset in PRESETS else {}
    units, num_units = accuracy.draw_units(run.model.nets[0].params)
    present = storage.names(run.folder)
    files = [name for name in _FILES if name in present]
    ray = next((each.version for each in distributions(name="ray")), "not installed")
    files += [f"model/{name}" for name in storage.names(storage.join(run.folder, "model"))]
    html = render(
        "training.html",
        run=run,
        accuracy=correct.mean(),
        num_images=len(test),
        num_wrong=len(wrong),
        num_failures=sum(_STYLES.get(event["event"]) == "failed" for event in run.events),
        plots=plots,
        confusion=confusion,
        classes=accuracy.classes_of(confusion),
        bins=accuracy.bins_of(calibration),
        calibration=calibration,
        mistakes=mistakes,
        units=units,
        num_units=num_units,
        packed=pack_model(run.model),
        code=page_code(),
        changed={name: each for name, each in run.config.items() if usual.get(name) != each},
        environment=[
            ("trained with", ", ".join(map(" ".join, run.versions.items()))),
            ("arithmetic here", process.fingerprint()),
            ("Ray here", ray),
            ("machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"),
            ("data, SHA-256", run.model.about["identity"]["data_sha256"]),
            ("parameters, SHA-256", run.model.params_sha256()),
        ],
        checksums=[(n, storage.checksum(storage.read(storage.join(run.folder, n)))) for n in files],
    )
    return Report(html, plots)


def learning_charts(epochs: Sequence[JsonObject]) -> list[Chart]:
    """Plot losses, validation accuracy (if any) and learning rate of each epoch."""
    charts: list[Chart] = []
    for title, name, spec, lines in (
        ("Loss", "loss", ".3g", {"loss": "training", "val_loss": "validation"}),
        ("Validation accuracy", "accuracy", ".2%", {"val_accuracy": "accuracy"}),
        ("Learning rate", "rate", ".3g", {"learning_rate": "rate"}),
    ):
        series = []
        for style, (key, line) in zip(("main", "second"), lines.items(), strict=False):
            known = [row for row in epochs if row.get(key) is not None]
            if known:
                series.append(Series(line, [(row["epoch"], row[key]) for row in known], style))
        if series:
            x = Axis("epoch", 0, epochs[-1]["epoch"] or 1, "g")
            y = fit_axis([value for each in series for _, value in each.points], name, spec)
            charts.append(plot(title, x, y, series))
    return charts


def speed_charts(run: FinishedRun) -> list[Chart]:
    """Plot images per second by round, with marks for the events of the workers.

    Without events, one epoch makes no chart.
    """
    steps, end = [], 0
    for row in run.epochs:
        begin, end = end, row["round"]
        steps += [(begin, row["images_per_s"]), (end, row["images_per_s"])]
    marks = [
        (event["round"], event["sentence"], _STYLES.get(event["event"], "other"))
        for event in run.events
        if event.get("round") is not None
    ]
    if len(run.epochs) < 2 and not (run.epochs and marks):
        return []
    y = fit_axis([height for _, height in steps], "images/s", ",.0f", 0)
    x, series = Axis("round", 0, end or 1, ",.0f", max_ticks=5), [Series("images/s", steps)]
    chart = plot("Images per second", x, y, series, marks=marks)
    names = {"failed": "failure", "joined": "replacement", "other": "other event"}
    styles = {style for _, _, style in marks}
    return [chart._replace(legend=[each for each in names.items() if each[0] in styles])]


def page_code() -> str:
    """Return the JavaScript that does not need the page, after the constants shared with Python."""
    constants = tuning.PAGE | {
        "LONGEST_SIDE": form.LONGEST_SIDE,
        "MAX_SLANT": deskew.MAX_SLANT,
        "MAX_STRETCH": deskew.MAX_STRETCH,
        "LEAST_SCORE": float(reference.LEAST_SCORE),
        "FAINT": float(reference.FAINT),
        "UNFAMILIAR": reference.UNFAMILIAR,
    }
    return "\n".join([f"const TUNING = {json.dumps(constants)};", *map(asset, _SCRIPTS)])


def pack_model(model: Model) -> JsonObject:
    """Return JSON for `unpack` in net.js, with as many of the first nets as fit into a page."""
    nets = [
        {
            **net.config(),
            "affine": preparation.affine(net.preparation),
            "layers": [
                pack_layer(net.params.w1, net.params.b1),
                pack_layer(net.params.w2, net.params.b2),
            ],
        }
        for net in model.nets
    ]
    sizes = np.cumsum([len(json.dumps(net)) for net in nets])
    tensors = {name: pack_array(each) for name, each in model.reference.tensors().items()}
    return {
        "nets": nets[: int((sizes <= _MAX_NETS_BYTES).sum())],
        "reference": model.reference.config() | tensors,
    }


def pack_layer(weights: Floats, biases: Floats) -> JsonObject:
    """Return a layer as a JSON object; its (inputs, units) weights become 16-bit numbers.

    step_j = max_i |w_ij| / 32767, number_ij = round(w_ij / step_j)
    """
    steps = np.maximum(np.abs(weights).max(axis=0) / 32767, np.finfo(np.float32).tiny)
    numbers = np.rint(weights / steps).astype(np.int16).T
    packed = {"numbers": numbers, "steps": steps, "biases": biases}
    return {name: pack_array(each) for name, each in packed.items()}


def pack_array(array: NDArray[Any]) -> dict[str, str]:
    """Return the name of an array's type in JavaScript, and its bytes in base64."""
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return {"type": f"{array.dtype.name.capitalize()}Array", "data": b64encode(data).decode()}
