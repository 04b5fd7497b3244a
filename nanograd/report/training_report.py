"""The report of a training run: one HTML file that opens offline, made from its run directory."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from typing import Any

import numpy as np

from nanograd.config.settings import from_toml
from nanograd.data.dataset import NUM_CLASSES, Dataset
from nanograd.errors import DataError
from nanograd.models import model as model_io
from nanograd.models.model import Model
from nanograd.nn import metrics
from nanograd.report import accuracy, drawing
from nanograd.report.accuracy import ConfusionMatrix
from nanograd.report.charts import Axis, Chart, Line, Mark, fit_axis
from nanograd.report.html import render
from nanograd.report.plots import Plot, Report
from nanograd.runtime import json_files, process, storage

# Styles of the marks, by name of the event; every other event is neither failure nor recovery.
_STYLES = {"lost": "failed", "server_lost": "failed", "joined": "joined"}

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """Contents of a run directory."""

    place: str  # the run directory
    config: Row  # its settings, resolved
    epochs: Sequence[Row]  # rows of metrics.jsonl, epochs and rounds counted through all nets
    events: Sequence[Row]  # rows of events.jsonl, rounds counted likewise
    model: Model  # the result
    versions: Row  # of the packages that trained it


def read_run(place: str) -> FinishedRun:
    """Read a run directory.

    Raises:
        DataError: the run is not finished.
        StorageError: reading failed.
    """
    folder = storage.join(place, "model")
    manifest = storage.join(folder, model_io.MANIFEST)
    if not storage.exists(manifest):
        raise DataError(
            f"{place} holds neither a finished training run nor a finished prediction; check the "
            "path, or finish it with its own command"
        )
    config = storage.join(place, "config.toml")
    epochs = json_files.read_lines(storage.join(place, "metrics.jsonl"))
    events = json_files.read_lines(storage.join(place, "events.jsonl"))
    return FinishedRun(
        place=place,
        config=from_toml(storage.read(config).decode(errors="surrogateescape"), config),
        epochs=_count_through(epochs, epochs),
        events=_count_through(events, epochs),
        model=model_io.load(folder),
        versions=json_files.read_manifest(manifest)["versions"],
    )


def _count_through(rows: list[Row], epochs: list[Row]) -> list[Row]:
    """Count epochs and rounds through the nets of an ensemble; each net begins at 0.

    >>> epochs = [{"net": net, "epoch": 1, "round": 9} for net in (1, 2)]
    >>> _count_through(epochs, epochs)[1]
    {'net': 2, 'epoch': 2, 'round': 18}
    >>> _count_through([{"net": 2, "round": 3}, {"net": 2}], epochs)
    [{'net': 2, 'round': 12}, {'net': 2}]
    """
    last = {row.get("net", 1): row for row in epochs}

    def count_through(row: Row) -> Row:
        before = [each for net, each in last.items() if net < row.get("net", 1)]
        numbers = row.keys() & {"epoch", "round"}
        return row | {name: row[name] + sum(each[name] for each in before) for name in numbers}

    return [count_through(row) for row in rows]


def build(run: FinishedRun, test: Dataset) -> Report:
    """Build the report of a run, for which it classifies the test images."""
    with process.one_thread():
        scores = run.model.scores(test.images)
    predictions, best = scores.argmax(axis=1), scores.max(axis=1)
    correct = predictions == test.labels
    calibration = metrics.calibration(best, correct)
    confusion = ConfusionMatrix(metrics.confusion_matrix(predictions, test.labels, NUM_CLASSES))
    plots: dict[str, Sequence[Plot]] = {
        "learning": learning_charts(run.epochs),
        "speed": [speed_chart(run)],
        "confusion": [confusion],
        "calibration": [accuracy.reliability_chart(calibration)],
        "confidence": [
            accuracy.histogram_chart(
                {
                    name: np.histogram(best[chosen], 20, (0, 1))[0]
                    for name, chosen in (("correct", correct), ("wrong", ~correct))
                }
            )
        ],
    }
    units, num_units = accuracy.draw_units(run.model.nets[0].params)
    html = render(
        "training.html",
        run=run,
        accuracy=correct.mean(),
        num_images=len(test),
        num_wrong=int((~correct).sum()),
        num_failures=sum(_STYLES.get(event["event"]) == "failed" for event in run.events),
        plots=plots,
        confusion=confusion,
        calibration=calibration,
        mistakes=accuracy.worst_mistakes(test.images, test.labels, predictions, best),
        units=units,
        num_units=num_units,
        pad_side=drawing.PAD_SIDE,
        scripts=drawing.SCRIPTS,
        packed=drawing.pack_model(run.model),
        fingerprint=process.fingerprint(),
        ray=next((each.version for each in distributions(name="ray")), "not installed"),
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        checksums=_checksums(run.place),
    )
    return Report(html, plots)


def learning_charts(epochs: Sequence[Row]) -> list[Chart]:
    """Plot loss, validation accuracy (if any) and learning rate of each epoch."""
    charts = []
    for title, name, spec in (
        ("Training loss", "loss", ".3g"),
        ("Validation accuracy", "val_accuracy", ".2%"),
        ("Learning rate", "learning_rate", ".3g"),
    ):
        points = [(row["epoch"], row[name]) for row in epochs if row[name] is not None]
        if points:
            y = fit_axis([value for _, value in points], title.lower(), spec)
            x = Axis("epoch", 0, points[-1][0], "g")
            charts.append(Chart(title, x, y, [Line(title.lower(), points)]))
    return charts


def speed_chart(run: FinishedRun) -> Chart:
    """Plot images per second over the rounds, with the events of the workers."""
    begins = [0, *(row["round"] for row in run.epochs)]
    steps = [
        (round_, row["images_per_s"])
        for begin, row in zip(begins, run.epochs, strict=False)
        for round_ in (begin, row["round"])
    ]
    return Chart(
        "Images per second; failures (red) and replacements (green)",
        Axis("round", 0, begins[-1], ",.0f"),
        fit_axis([height for _, height in steps], "images/s", ",.0f", 0),
        [Line("images/s", steps)],
        [
            Mark(event["round"], event["sentence"], _STYLES.get(event["event"], "other"))
            for event in run.events
            if "round" in event
        ],
    )


def _checksums(place: str) -> list[tuple[str, str]]:
    present = storage.names(place)
    names = ["config.toml", "metrics.jsonl", "events.jsonl"]
    names = [name for name in names if name in present]
    names += [f"model/{name}" for name in storage.names(storage.join(place, "model"))]
    return [(name, storage.checksum(storage.read(storage.join(place, name)))) for name in names]
