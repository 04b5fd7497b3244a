"""The report of a prediction: one file that opens offline, from what the output folder holds."""

import json
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nanograd.batch.job import MANIFEST, METRICS, SUMMARY
from nanograd.data.dataset import NUM_CLASSES
from nanograd.errors import DataError
from nanograd.nn import metrics
from nanograd.report import accuracy, plots
from nanograd.report.accuracy import Mistake, percent
from nanograd.report.charts import Axis, Bars, Line, around, chart
from nanograd.report.html import cards, document, folded, paragraph, table
from nanograd.runtime import json_files, storage

NAME = "report.html"

# Of a job of thousands, the file checksums named in the page; all are in the manifest.
_MOST_FILES = 200

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Story:
    """What the output folder of a prediction tells.

    Args:
        place: the folder.
        summary: `_summary.json`.
        job: settings and model that the output depends on.
        files: checksum of each file that was written.
        progress: figures over time; empty if they are not known.
    """

    place: str
    summary: Row
    job: Row
    files: Mapping[str, str]
    progress: Sequence[Row]


def is_one(place: str) -> bool:
    """Whether a folder holds a finished prediction."""
    names = storage.names(place)
    return MANIFEST in names and SUMMARY in names


def write(place: str, *, as_png: bool = False) -> str:
    """Write the report of a finished prediction into its output folder.

    Args:
        place: the folder or URI.
        as_png: whether its plots are written as PNG files, too.

    Returns:
        Where it is.

    Raises:
        DataError: this is no finished prediction.
        StorageError: it cannot be read or written.
    """
    report = storage.join(place, NAME)
    story = read(place)
    storage.commit(report, page(story).encode())
    if as_png:
        plots.write(place, _plots(story))
    return report


def read(place: str) -> Story:
    """What an output folder tells.

    Raises:
        DataError: this is no prediction, or it is damaged.
        StorageError: it cannot be read.
    """
    manifest = json_files.read_manifest(storage.join(place, MANIFEST))
    if (command := manifest["job"]["command"]) != "predict":
        raise DataError(f"{place} is what {command} wrote: reports are of training and predictions")
    return Story(
        place=place,
        summary=json.loads(storage.read(storage.join(place, SUMMARY))),
        job=manifest["job"],
        files={
            name: checksum
            for receipt in manifest["receipts"]
            for name, checksum in receipt["files"].items()
        },
        progress=json_files.read_lines(storage.join(place, METRICS)),
    )


def page(story: Story) -> str:
    """The report as HTML."""
    sections = [("digits", "Digits", _digits(story.summary))]
    if story.summary["predicted"]:
        sections.append(("confidence", "Confidence", _confidence(story.summary)))
    if story.summary["labelled"]:
        sections.append(("mistakes", "Worst mistakes", _mistakes(story.summary)))
    sections += [
        ("quarantine", "Quarantine", _quarantine(story)),
        ("speed", "Speed", _speed(story.progress)),
        ("settings", "Settings and files", _settings(story) + _files(story)),
    ]
    return document(f"Prediction {story.place}", sections, _lead(story))


def _plots(story: Story) -> dict[str, list[plots.Draw]]:
    summary = story.summary
    drawn = plots.of_rows(_by_number(summary["predicted_as"]), story.progress)
    if summary["labelled"]:
        matrix = np.array(summary["confusion"])
        drawn |= plots.of_reading(matrix, _calibration(summary))
    return drawn


def _lead(story: Story) -> str:
    summary = story.summary
    labelled = summary["labelled"]
    right = (
        f"Of {labelled:,} with a label {percent(summary['accuracy'])} were read right."
        if labelled
        else "No row had a label, so nobody knows how many were read right."
    )
    words = (
        f"{summary['rows']:,} rows: {summary['predicted']:,} read, "
        f"{summary['quarantined']:,} in quarantine. {right}"
    )
    last = story.progress[-1] if story.progress else None
    return paragraph(words, "lead") + cards(
        [
            ("rows", f"{summary['rows']:,}"),
            ("read", f"{summary['predicted']:,}"),
            ("quarantined", f"{summary['quarantined']:,}"),
            ("accuracy", percent(summary["accuracy"]) if labelled else "no labels"),
            ("rows/s", f"{last['rows_per_s']:,.0f}" if last else "-"),
            ("seconds", f"{last['time_s']:,.1f}" if last else "-"),
        ]
    )


def _digits(summary: Row) -> str:
    read = _by_number(summary["predicted_as"])
    bars = [Bars("read", *_beside(read, 0))]
    matrix = np.array(summary["confusion"]) if summary["labelled"] else None
    if matrix is not None:
        bars.append(Bars("by their labels", *_beside(matrix.sum(axis=1), 1), "second"))
    counts = chart(
        "Rows by digit",
        Axis("digit", -0.5, 9.5, lambda value: f"{value:.0f}"),
        around([0, *read.tolist()], "rows", lambda value: f"{value:,.0f}", 0),
        bars,
    )
    rows = [[str(digit), f"{count:,}"] for digit, count in enumerate(read)]
    shown = f'<div class="plots">{counts}</div>' + folded(
        "Rows by digit as a table", table("Rows by digit", ["digit", "read"], rows)
    )
    return shown if matrix is None else shown + accuracy.confusion(matrix)


def _beside(counts: NDArray[np.int64], place: int) -> tuple[list[tuple[float, float]], list[float]]:
    starts = np.arange(NUM_CLASSES) - 0.4 + 0.4 * place
    return [(float(start), float(start) + 0.38) for start in starts], counts.tolist()


def _confidence(summary: Row) -> str:
    read = _by_number(summary["predicted_by_confidence"])
    labelled = _by_number(summary["labelled_by_confidence"])
    correct = _by_number(summary["correct_by_confidence"])
    groups = {
        "read right": correct,
        "read wrong": labelled - correct,
        "without label": read - labelled,
    }
    return accuracy.confidence_of(
        {name: counts for name, counts in groups.items() if counts.any()},
        _calibration(summary) if labelled.any() else None,
    )


def _calibration(summary: Row) -> metrics.Calibration:
    return metrics.calibration_from_counts(
        _by_number(summary["labelled_by_confidence"]),
        _by_number(summary["millionths_by_confidence"]) / 1e6,
        _by_number(summary["correct_by_confidence"]),
    )


def _mistakes(summary: Row) -> str:
    worst = [
        Mistake(
            pixels=_pixels(each["png"]),
            label=each["label"],
            prediction=each["prediction"],
            confidence=each["confidence"],
            origin=f"{each['source_file'].rsplit('/', 1)[-1]}, row {each['source_row']:,}",
        )
        for each in summary["worst"]
    ]
    labelled = summary["labelled"]
    return accuracy.worst_of(worst, labelled - summary["correct"], labelled)


def _pixels(png: str) -> NDArray[np.uint8]:
    with Image.open(BytesIO(b64decode(png))) as picture:
        return np.array(picture)


def _quarantine(story: Story) -> str:
    summary = story.summary
    if not summary["reasons"]:
        return paragraph("Every row could be read.")
    counts = sorted(summary["reasons"].items(), key=lambda each: -each[1])
    rows = [
        [reason, f"{count:,}", percent(count / (summary["rows"] + summary["broken_files"]))]
        for reason, count in counts
    ]
    where = storage.join(story.place, "quarantine")
    return paragraph(
        f"Each with its file, row and the reason in a sentence in `{where}`; a file that cannot "
        "be opened at all is one line without a row number."
    ) + table("What could not be read", ["reason", "rows", "share"], rows)


def _speed(progress: Sequence[Row]) -> str:
    if not progress:
        return paragraph("How the rows came in over time is not known.")
    points = [(0.0, 0.0), *((row["time_s"], row["row"]) for row in progress)]
    lines = [Line("rows done", points)]
    if progress[-1]["quarantined"]:
        bad = [(0.0, 0.0), *((row["time_s"], row["quarantined"]) for row in progress)]
        lines.append(Line("quarantined", bad, "second"))
    done = chart(
        "Rows over time",
        Axis("seconds", 0, points[-1][0] or 1, lambda value: f"{value:g}"),
        around([0, points[-1][1]], "rows", lambda value: f"{value:,.0f}", 0),
        lines,
    )
    rows = [
        [f"{row['time_s']:.1f}", f"{row['row']:,}", f"{row['quarantined']:,}"] for row in progress
    ]
    head = ["seconds", "rows", "quarantined"]
    return f'<div class="plots">{done}</div>' + folded(
        "Rows over time as a table", table("Rows over time", head, rows)
    )


def _settings(story: Story) -> str:
    rows = [
        [name, value if isinstance(value, str) else json.dumps(value)]
        for name, value in story.job.items()
        if name != "parts"
    ]
    rows.append(["parts", f"{len(story.job['parts']):,}"])
    return table("Settings, resolved", ["setting", "value"], rows, class_="words")


def _files(story: Story) -> str:
    names = sorted(story.files)
    rows = [[name, story.files[name]] for name in names[:_MOST_FILES]]
    title = f"{len(names):,} files with their SHA-256"
    if len(names) > _MOST_FILES:
        title += f", the first {_MOST_FILES} (all are in {MANIFEST})"
    return folded(title, table("Files", ["file", "SHA-256"], rows, class_="words"))


def _by_number(counts: Mapping[str, int]) -> NDArray[np.int64]:
    """Counts by "0" to "9" as an array."""
    return np.array([counts.get(str(number), 0) for number in range(10)], np.int64)
