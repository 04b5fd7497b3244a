"""The report of a prediction: one HTML file that opens offline, made from its output folder."""

import json
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from nanograd.errors import DataError
from nanograd.jobs.output import MANIFEST, METRICS, SUMMARY, Manifest
from nanograd.jobs.receipts import Detail, Mistake, PredictionCounts, files_of
from nanograd.jobs.review import REVIEW
from nanograd.nn import metrics
from nanograd.report import accuracy
from nanograd.report.charts import Axis, Chart, Series, Table, fit_axis, plot
from nanograd.report.html import Report, percent, render
from nanograd.runtime import json_files, storage

# Maximum file checksums in the page; the job's manifest has all of them.
_MAX_FILES = 200

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class FinishedPrediction:
    """Contents of the output folder of a prediction."""

    folder: str
    summary: Row  # `_summary.json`
    counts: PredictionCounts  # sum over the receipts of all parts
    job: Mapping[str, Any]  # settings and model that determine the output
    files: Mapping[str, str]  # name and checksum of each file that was written
    num_parts: int  # number of the job's parts
    progress: Sequence[Row]  # rows of `_metrics.jsonl`; may be empty


def is_prediction(folder: str) -> bool:
    """Return whether a folder holds a finished prediction."""
    names = storage.names(folder)
    return MANIFEST in names and SUMMARY in names


def read_prediction(folder: str) -> FinishedPrediction:
    """Read the output folder of a prediction.

    Raises:
        DataError: the folder holds no prediction, or is damaged.
        StorageError: reading failed.
    """
    manifest = Manifest.read(folder)
    if (command := manifest.job["command"]) != "predict":
        raise DataError(
            f"{folder} was written by {command}; only training runs and predictions have reports"
        )
    return FinishedPrediction(
        folder=folder,
        summary=json.loads(storage.read(storage.join(folder, SUMMARY))),
        counts=PredictionCounts.total(manifest.receipts),
        job=manifest.job,
        files={name: each.sha256 for name, each in files_of(manifest.receipts).items()},
        num_parts=len(manifest.receipts),
        progress=json_files.read_lines(storage.join(folder, METRICS)),
    )


def build(prediction: FinishedPrediction) -> Report:
    """Build the report of a prediction."""
    summary, counts, folder = prediction.summary, prediction.counts, prediction.folder
    labelled, correct = counts.labelled_by_confidence, counts.correct_by_confidence
    plots = {"digits": [digits_chart(counts)]}
    classes = calibration = review = None
    if counts.labelled:
        sums = counts.millionths_by_confidence / 1e6
        calibration = metrics.calibration_from_counts(labelled, sums, correct)
        classes = accuracy.class_table(counts.confusion)
        plots |= accuracy.charts_of(counts.confusion, calibration)
    if counts.correct < counts.labelled:  # without mistakes there is nothing to plot
        review = accuracy.review_by_doubt(counts.labelled_by_doubt, counts.correct_by_doubt)
        plots["review"] = [review.chart()]
    if counts.predicted:
        unlabelled = counts.predicted_by_confidence - labelled
        groups = {"correct": correct, "wrong": labelled - correct, "without label": unlabelled}
        plots["confidence"] = [accuracy.histogram_chart(groups)]
    if prediction.progress:
        plots["speed"] = [speed_chart(prediction.progress)]
    reasons = sorted(summary["reasons"].items(), key=lambda each: -each[1])
    details = [Detail(**each) for each in summary["details"]]
    job = {"inputs": summary["inputs"], "model": summary["model"], **prediction.job}
    mistakes = []
    for each in summary["worst"]:
        with Image.open(BytesIO(b64decode(each["png"]))) as picture:
            pixels = np.array(picture)
        origin = Mistake(**each).name
        result = each["label"], each["prediction"], each["confidence"]
        mistakes.append(accuracy.draw_mistake(pixels, *result, origin))
    html = render(
        "prediction.html",
        prediction=prediction,
        summary=summary,
        plots=plots,
        classes=classes,
        calibration=calibration,
        review=review,
        review_file=storage.join(folder, REVIEW),
        mistakes=mistakes,
        quarantine=storage.join(folder, "quarantine"),
        reasons=[
            (reason, f"{count:,}", percent(count / summary["rows"])) for reason, count in reasons
        ],
        details=[(each.reason, each.detail, each.number, each.place) for each in details],
        settings={**job, "parts": prediction.num_parts},
        files=sorted(prediction.files.items()),
        most_files=_MAX_FILES,
        manifest=MANIFEST,
    )
    return Report(html, plots)


def digits_chart(counts: PredictionCounts) -> Chart:
    """Plot the number of rows by predicted digit and, if there are labels, by true digit."""
    title, digits, width = "Rows by digit", list("0123456789"), 0.38
    predicted = counts.predicted_as.tolist()
    bars = [(digit - 0.4, count) for digit, count in enumerate(predicted)]
    series = [Series("predicted", bars, "main", width, digits)]
    if counts.labelled:
        labelled = counts.confusion.sum(axis=1).tolist()
        series.append(Series("labelled", list(enumerate(labelled)), "second", width, digits))
    rows = [(str(digit), f"{count:,}") for digit, count in enumerate(predicted)]
    x = Axis("digit", -0.5, 9.5, ".0f", max_ticks=11)
    y = fit_axis([0, *predicted], "rows", ",.0f", 0)
    return plot(title, x, y, series, table=Table(title, ["digit", "predicted"], rows))


def speed_chart(progress: Sequence[Row]) -> Chart:
    """Plot the number of finished rows over time and, if any, of quarantined rows."""
    title, last = "Rows over time", progress[-1]
    points = [(each["time_s"], each["row"], each["quarantined"]) for each in progress]
    series = [Series("rows done", [(0, 0), *((time, row) for time, row, _ in points)])]
    if last["quarantined"]:
        quarantined = [(0, 0), *((time, number) for time, _, number in points)]
        series.append(Series("quarantined", quarantined, "second"))
    cells = [(f"{time:.1f}", f"{row:,}", f"{number:,}") for time, row, number in points]
    x, y = (
        Axis("seconds", 0, last["time_s"] or 1, "g"),
        fit_axis([0, last["row"]], "rows", ",.0f", 0),
    )
    return plot(title, x, y, series, table=Table(title, ["seconds", "rows", "quarantined"], cells))
