"""The report of a prediction: one HTML file that opens offline, made from its output folder."""

import json
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nanograd.batch.account import NUM_LEVELS, REVIEW, first_row
from nanograd.batch.earlier import MANIFEST
from nanograd.batch.part import files_of
from nanograd.batch.replacement import METRICS, SUMMARY
from nanograd.errors import DataError
from nanograd.nn import metrics
from nanograd.report import accuracy
from nanograd.report.accuracy import ConfusionMatrix, Mistake
from nanograd.report.charts import Axis, Bars, Chart, Line, fit_axis
from nanograd.report.html import render
from nanograd.report.plots import Plot, Report
from nanograd.runtime import json_files, storage

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class FinishedPrediction:
    """Contents of the output folder of a prediction."""

    place: str  # the folder
    summary: Row  # `_summary.json`
    job: Row  # settings and model that determine the output
    files: Mapping[str, str]  # name and checksum of each file that was written
    num_parts: int  # into which the job was cut
    progress: Sequence[Row]  # rows of `_metrics.jsonl`; may be empty


def is_prediction(place: str) -> bool:
    """Return whether a folder holds a finished prediction."""
    names = storage.names(place)
    return MANIFEST in names and SUMMARY in names


def read_prediction(place: str) -> FinishedPrediction:
    """Read the output folder of a prediction.

    Raises:
        DataError: the folder holds no prediction, or it is damaged.
        StorageError: reading failed.
    """
    manifest = json_files.read_manifest(storage.join(place, MANIFEST))
    if (command := manifest["job"]["command"]) != "predict":
        raise DataError(
            f"{place} was written by {command}; reports exist of training runs and predictions"
        )
    return FinishedPrediction(
        place=place,
        summary=json.loads(storage.read(storage.join(place, SUMMARY))),
        job=manifest["job"],
        files={name: about["sha256"] for name, about in files_of(manifest["receipts"]).items()},
        num_parts=len(manifest["receipts"]),
        progress=json_files.read_lines(storage.join(place, METRICS)),
    )


def build(prediction: FinishedPrediction) -> Report:
    """Build the report of a prediction."""
    summary, progress = prediction.summary, prediction.progress
    plots: dict[str, Sequence[Plot]] = {"digits": [digits_chart(summary)]}
    confusion = calibration = review = None
    if summary["labelled"]:
        confusion = ConfusionMatrix(np.array(summary["confusion"]))
        calibration = metrics.calibration_from_counts(
            _by_number(summary["labelled_by_confidence"]),
            _by_number(summary["millionths_by_confidence"]) / 1e6,
            _by_number(summary["correct_by_confidence"]),
        )
        plots |= {
            "confusion": [confusion],
            "calibration": [accuracy.reliability_chart(calibration)],
        }
        # Earlier summaries have no doubt, and without mistakes every share is right.
        if "labelled_by_doubt" in summary and summary["correct"] < summary["labelled"]:
            levels = (summary["labelled_by_doubt"], summary["correct_by_doubt"])
            review = accuracy.review_by_doubt(*(_by_number(each, NUM_LEVELS) for each in levels))
            plots["review"] = [review.chart()]
    if summary["predicted"]:
        plots["confidence"] = [confidence_chart(summary)]
    if progress:
        plots["speed"] = [speed_chart(progress)]
    html = render(
        "prediction.html",
        prediction=prediction,
        summary=summary,
        predicted_as=_by_number(summary["predicted_as"]).tolist(),
        plots=plots,
        confusion=confusion,
        calibration=calibration,
        review=review,
        review_file=storage.join(prediction.place, REVIEW),
        mistakes=[_mistake(each) for each in summary["worst"]],
        quarantine=storage.join(prediction.place, "quarantine"),
        details=[
            (each["reason"], each["detail"], f"{each['rows']:,}", first_row(each))
            for each in summary.get("details", [])  # earlier summaries had none
        ],
        reasons=sorted(summary["reasons"].items(), key=lambda each: -each[1]),
        # Earlier summaries have no places.
        settings={name: summary[name] for name in ("inputs", "model") if name in summary}
        | {**prediction.job, "parts": prediction.num_parts},
        manifest=MANIFEST,
    )
    return Report(html, plots)


def digits_chart(summary: Row) -> Chart:
    """Plot the number of rows predicted as each digit, and labelled as each if there are labels."""
    predicted = _by_number(summary["predicted_as"]).tolist()
    labels, spans = list("0123456789"), [(digit - 0.4, digit - 0.02) for digit in range(10)]
    bars = [Bars("predicted", spans, predicted, labels)]
    if summary["labelled"]:
        labelled = np.array(summary["confusion"]).sum(axis=1).tolist()
        spans = [(digit, digit + 0.38) for digit in range(10)]
        bars.append(Bars("labelled", spans, labelled, labels, "second"))
    y = fit_axis([0, *predicted], "rows", ",.0f", 0)
    return Chart("Rows by digit", Axis("digit", -0.5, 9.5, ".0f"), y, bars)


def confidence_chart(summary: Row) -> Chart:
    """Plot the number of rows by best score: correct, wrong, without label."""
    predicted = _by_number(summary["predicted_by_confidence"])
    labelled = _by_number(summary["labelled_by_confidence"])
    correct = _by_number(summary["correct_by_confidence"])
    groups = {
        "correct": correct,
        "wrong": labelled - correct,
        "without label": predicted - labelled,
    }
    return accuracy.histogram_chart({name: each for name, each in groups.items() if each.any()})


def speed_chart(progress: Sequence[Row]) -> Chart:
    """Plot the rows done over time, and those in quarantine if any are."""

    def line(name: str, key: str, style: str) -> Line:
        return Line(name, [(0, 0), *((row["time_s"], row[key]) for row in progress)], style)

    last, lines = progress[-1], [line("rows done", "row", "main")]
    if last["quarantined"]:
        lines.append(line("quarantined", "quarantined", "second"))
    x = Axis("seconds", 0, last["time_s"] or 1, "g")
    return Chart("Rows over time", x, fit_axis([0, last["row"]], "rows", ",.0f", 0), lines)


def _mistake(worst: Row) -> Mistake:
    with Image.open(BytesIO(b64decode(worst["png"]))) as picture:
        pixels = np.array(picture)
    return Mistake(
        image=accuracy.draw_digit(pixels, worst["label"]),
        label=worst["label"],
        prediction=worst["prediction"],
        confidence=worst["confidence"],
        origin=f"{worst['source_file'].rsplit('/', 1)[-1]}, row {worst['source_row']:,}",
    )


def _by_number(counts: Mapping[str, int], number: int = 10) -> NDArray[np.int64]:
    """Return counts by "0", "1", ... as an array.

    >>> _by_number({"1": 7}).tolist()
    [0, 7, 0, 0, 0, 0, 0, 0, 0, 0]
    """
    return np.array([counts.get(str(each), 0) for each in range(number)], np.int64)
