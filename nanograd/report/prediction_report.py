"""The report of a prediction: one HTML file that opens offline, made from its output folder."""

from base64 import b64decode
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from nanograd.errors import DataError, StorageError, UnreadableError
from nanograd.images.inputs import Origin, roots_of
from nanograd.images.reader import read_pictures
from nanograd.images.writers import NUMBERS, QUARANTINE, WITHOUT_PROBABILITIES, read
from nanograd.jobs.output import METRICS, PROGRESS, REVIEW, SUMMARY, Manifest, files_of
from nanograd.jobs.receipts import Counts, Detail
from nanograd.jobs.review import IMAGE, OF_PARTS, ORDER, PIXELS
from nanograd.models.reference import UNFAMILIAR
from nanograd.nn import metrics
from nanograd.report import accuracy
from nanograd.report.charts import Axis, Chart, Series, confusion_chart, fit_axis, plot
from nanograd.report.html import InlineImage, Report, embed_image, render
from nanograd.runtime import json_files, storage
from nanograd.runtime.events import as_word
from nanograd.runtime.json_files import JsonObject
from nanograd.settings.specs import PictureOptions, PredictSpec

# Longest side of the pictures in quarantine, and the largest pictures that are shown.
_THUMBNAIL, _OPTIONS = 96, PictureOptions(max_pixels=25_000_000, max_bytes=20_000_000)


def build(folder: str) -> Report:
    """Build the report of the prediction in an output folder.

    Raises:
        DataError: the folder holds no prediction, or is damaged.
        StorageError: reading failed.
    """
    manifest = Manifest.read(folder)
    if (command := manifest.job["command"]) != "predict":
        raise DataError(
            f"{folder} was written by {command}; only training runs and predictions have reports"
        )
    summary = json_files.read(storage.join(folder, SUMMARY))
    counts, rejected = Counts.total(manifest.receipts), _quarantined(folder, manifest)
    progress = json_files.read_lines(storage.join(folder, METRICS), PROGRESS)
    by_ingest = list[Detail]()
    for place in dict.fromkeys(summary["inputs"]) if summary["ingest_quarantined"] else ():
        with suppress(DataError, StorageError):  # the input may have been moved since
            if (made := Manifest.find(place)).job.get("command") == "ingest":
                by_ingest += _quarantined(place, made)
    lines = NUMBERS.empty_table()
    for name in (n for n in sorted(files_of(manifest.receipts)) if n.startswith("numbers/")):
        lines = pa.concat_tables([lines, read(storage.join(folder, name), NUMBERS)])
        order = ("confidence", "source_file", "source_row", "line")
        lines = lines.sort_by([(e, "ascending") for e in order])[: accuracy.NUM_SHOWN]
    # The list of the most doubtful rows or, if they are few, all rows that parts keep.
    doubtful, num_listed = _read_doubtful(folder, [], PIXELS), None
    if storage.exists(storage.join(folder, REVIEW)):
        doubtful = _read_doubtful(folder, [REVIEW], IMAGE)
        num_listed = len(doubtful)
        names = [n for n in sorted(files_of(manifest.receipts)) if n.startswith(f"{OF_PARTS}/")]
        if num_listed < accuracy.NUM_SHOWN and names:
            doubtful = _read_doubtful(folder, names, PIXELS)
    unfamiliar = doubtful.filter(pc.greater(doubtful["unfamiliarity"], UNFAMILIAR))
    unfamiliar = unfamiliar.sort_by([("unfamiliarity", "descending")])
    calibration = review = None
    if counts.labelled:
        sums = counts.millionths_by_confidence / 1e6
        of_labelled = counts.labelled_by_confidence, sums, counts.correct_by_confidence
        calibration = metrics.calibration_from_counts(*of_labelled)
    if counts.correct < counts.labelled:  # without mistakes there is nothing to plot
        review = accuracy.review_by_doubt(counts.labelled_by_doubt, counts.correct_by_doubt)
    plots = _plots(counts, calibration, review, progress)
    job = {"inputs": summary["inputs"], "model": summary["model"], **manifest.job}
    usual = PredictSpec().identity()
    html = render(
        "prediction.html",
        folder=folder,
        summary=summary,
        counts=counts,
        progress=progress,
        plots=plots,
        lines=[(each, Origin.of(each).name) for each in lines.to_pylist()],
        classes=accuracy.classes_of(counts.confusion),
        calibration=calibration,
        bins=accuracy.bins_of(calibration) if calibration else None,
        review=review,
        review_command=f"nanograd review {as_word(folder)}",
        num_listed=num_listed,
        least_certain=list(map(_draw_row, doubtful[: accuracy.NUM_SHOWN].to_pylist())),
        unfamiliar=list(map(_draw_row, unfamiliar[: accuracy.NUM_SHOWN].to_pylist())),
        most_familiar=UNFAMILIAR,
        mistakes=list(map(_draw_row, summary["worst"])),
        rejected=rejected,
        rejected_by_ingest=by_ingest[: accuracy.NUM_SHOWN],
        thumbnails=_thumbnails(rejected, summary["inputs"]),
        details=[Detail(**each) for each in summary["details"]],
        changed={n: value for n, value in job.items() if value and usual.get(n) != value},
        settings={**job, "parts": len(manifest.receipts)},
        files={name: each.sha256 for name, each in files_of(manifest.receipts).items()},
    )
    return Report(html, plots)


def _plots(
    counts: Counts,
    calibration: metrics.Calibration | None,
    review: Sequence[tuple[float, float]] | None,
    progress: Sequence[JsonObject],
) -> dict[str, list[Chart]]:
    plots = {"digits": [digits_chart(counts)]}
    if calibration:
        plots["confusion"] = [confusion_chart(counts.confusion)]
        plots["calibration"] = [accuracy.reliability_chart(calibration)]
    if review:
        plots["review"] = [accuracy.review_chart(review)]
    if counts.predicted:
        labelled, correct = counts.labelled_by_confidence, counts.correct_by_confidence
        unlabelled = counts.predicted_by_confidence - labelled
        groups = {"correct": correct, "wrong": labelled - correct, "without label": unlabelled}
        plots["confidence"] = [accuracy.histogram_chart(groups)]
    if len(progress) > 2:  # at the start, at the end, and between
        plots["speed"] = [speed_chart(progress)]
    return plots


def _read_doubtful(folder: str, names: Sequence[str], picture: pa.Field) -> pa.Table:
    """Read review lists of a prediction, the most doubtful row first, without kept columns."""
    columns = pa.schema([*WITHOUT_PROBABILITIES, ("doubt", pa.float32()), picture])
    tables = [read(storage.join(folder, name), columns) for name in names]
    return pa.concat_tables([columns.empty_table(), *tables]).sort_by(ORDER)


def _quarantined(folder: str, manifest: Manifest) -> list[Detail]:
    """Read the first rows of the quarantine of a job."""
    rows = list[JsonObject]()
    for name in sorted(files_of(manifest.receipts)):
        if name.startswith(("quarantine/", "_quarantine/")) and len(rows) < accuracy.NUM_SHOWN:
            rows += read(storage.join(folder, name), QUARANTINE).to_pylist()
    found = [Detail(**row, rows=1) for row in rows[: accuracy.NUM_SHOWN]]
    return sorted(found, key=lambda each: (each.path, each.source_row or 0))


def _draw_row(row: JsonObject) -> InlineImage:
    """Draw a row of pixels, or of a list whose pictures are PNG, in `png` or in `image`."""
    if isinstance(pixels := row.get("pixels"), bytes):
        image = np.frombuffer(pixels, np.uint8)
    else:
        png = b64decode(row["png"]) if "png" in row else row["image"]["bytes"]
        with Image.open(BytesIO(png)) as picture:
            image = np.array(picture)
    source = Origin.of(row)
    result = row["label"], row["prediction"], row["confidence"]
    return accuracy.draw_prediction(image, *result, source)


def _thumbnails(rows: Sequence[Detail], inputs: Sequence[str]) -> list[InlineImage | None]:
    """Return the picture of each row of quarantine, if it is a local input that can be decoded.

    A path that only a table names is not read: it may name any file.
    """

    def draw(picture: Image.Image) -> InlineImage:
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        return embed_image(picture.convert("L"), "the picture")

    roots, found = roots_of(inputs), list[InlineImage | None]()
    for each in rows:
        is_input = any(f"{each.path}/".startswith(f"{root}/") for root in roots)
        is_local = each.is_picture and not storage.is_remote(each.path)
        image: InlineImage | UnreadableError | None = None
        if is_input and is_local and each.path == each.source_file:
            [(_, image)] = read_pictures([(each.path, None)], draw, _OPTIONS)
        found.append(image if isinstance(image, InlineImage) else None)
    return found


def digits_chart(counts: Counts) -> Chart:
    """Plot the number of rows by predicted digit and, if there are labels, by true digit."""
    groups = {"predicted": counts.predicted_as.tolist()}
    if counts.labelled:
        groups["labelled"] = counts.confusion.sum(axis=1).tolist()
    width, series = 0.8 / len(groups), list[Series]()
    for name, style in zip(groups, ("main", "second"), strict=False):
        left = len(series) * width - 0.4
        bars = [(digit + left, count) for digit, count in enumerate(groups[name])]
        series.append(Series(name, bars, style, width, list("0123456789")))
    x = Axis("digit", -0.5, 9.5, ".0f", max_ticks=11)
    y = fit_axis([0, *(count for each in groups.values() for count in each)], "rows", ",.0f", 0)
    return plot("Rows by digit", x, y, series)


def speed_chart(progress: Sequence[JsonObject]) -> Chart:
    """Plot the number of finished rows over time and, if any, of quarantined rows."""
    last, series = progress[-1], list[Series]()
    for name, key, style in (
        ("rows done", "row", "main"),
        ("quarantined", "quarantined", "second"),
    ):
        if last[key] or not series:
            points = [(0, 0), *((each["time_s"], each[key]) for each in progress)]
            series.append(Series(name, points, style))
    x = Axis("seconds", 0, last["time_s"] or 1, "g")
    y = fit_axis([0, last["row"]], "rows", ",.0f", 0)
    return plot("Rows over time", x, y, series)
