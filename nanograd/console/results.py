"""Results of the commands: named values, the JSON line that a command prints, and a summary."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np

from nanograd.jobs.receipts import Detail
from nanograd.models.model import Model
from nanograd.runtime import storage
from nanograd.runtime.arrays import Ints
from nanograd.runtime.events import as_word, count, duration, percent, printable
from nanograd.runtime.json_files import JsonObject


# Arrays have no truth value, so that results with arrays are equal only to themselves.
@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """Base class of the results; `str(result)` is a summary for the user."""

    def preview(self) -> str:
        """Return lines to show on a terminal before the summary; "" for none."""
        return ""

    def to_json(self) -> JsonObject:
        """Return the values as the command prints them."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }


@dataclass(frozen=True, kw_only=True)
class Done(Result):
    """The result of a command without a result class, which Python programs do not need."""

    summary: str
    values: JsonObject

    def __str__(self) -> str:
        return self.summary

    def to_json(self) -> JsonObject:
        """Return the values as the command prints them."""
        return self.values


@dataclass(frozen=True, kw_only=True, eq=False)
class Training(Result):
    """A finished training run."""

    model: Model  # `model.predict(images)`
    # One item per epoch: epoch, round, loss, val_accuracy, learning_rate, train_s, images_per_s,
    # and net in an ensemble.
    metrics: list[JsonObject] = field(repr=False)
    directory: str  # the run directory, a folder or URI
    report: str | None = None  # HTML file of the report; None if the report failed

    def __str__(self) -> str:
        line = self.to_json()
        return describe(
            f"trained {count(line['epochs'], 'epoch')} in {line['train_s']:.1f} s; "
            f"{percent(self.test_accuracy)} of the test images classified correctly",
            {"model": line["model"], "report": self.report},
            f"nanograd predict PICTURES --model {as_word(line['model'])}",
        )

    @property
    def test_accuracy(self) -> float:
        """Share of the test images that are classified correctly."""
        return float(self.model.about["test_accuracy"])

    @property
    def val_accuracy(self) -> float | None:
        """Share of the validation images that are classified correctly; None if there are none."""
        found: float | None = self.model.about["val_accuracy"]
        return found

    @property
    def params_sha256(self) -> str:
        """Checksum of all parameters."""
        return self.model.params_sha256()

    def to_json(self) -> JsonObject:
        """Return the facts in the model's manifest, the checksum, and the paths of the outputs."""
        facts = {name: value for name, value in self.model.about.items() if name != "identity"}
        place = storage.join(self.directory, "model")
        return {**facts, "params_sha256": self.params_sha256, "model": place, "report": self.report}


@dataclass(frozen=True, kw_only=True)
class Comparison(Result):
    """Training runs side by side; each list has an item for each run."""

    runs: list[str]  # run directories
    settings: dict[str, list[Any]]  # settings that differ
    results: dict[str, list[Any]]  # test_accuracy, val_accuracy, loss, train_s, ...
    curves: dict[str, list[list[float | None]]] = field(repr=False)  # values by epoch

    def __str__(self) -> str:
        rows = [["", *self.runs]]
        for name, values in (self.settings | self.results).items():
            rows.append([name, *map(_cell, values)])
        for name, lines in self.curves.items():
            known = [value for line in lines for value in line if value is not None]
            if known:
                drawn = (_curve(line, min(known), max(known)) for line in lines)
                rows.append([f"{name} by epoch", *drawn])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        padded = (map(str.ljust, row, widths) for row in rows)
        return "\n".join("  ".join(row).rstrip() for row in padded)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(map(str, value))
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text[:12] if re.fullmatch("[0-9a-f]{64}", text) else text


def _curve(values: Sequence[float | None], low: float, high: float) -> str:
    """Draw a curve as text, at most 24 values of it.

    >>> _curve([1.0, 0.5, None, 0.25, 0.0], 0.0, 1.0)
    '█▅ ▃▁'
    """
    steps, blocks = max(1, ceil(len(values) / 24)), "▁▂▃▄▅▆▇█"
    scale = (len(blocks) - 1) / (high - low or 1)
    shown = values[::-steps][::-1]  # with the last one
    return "".join(" " if v is None else blocks[round(scale * (v - low))] for v in shown)


@dataclass(frozen=True, kw_only=True)
class Plan(Result):
    """What `predict` or `ingest` would do; the result of a dry run."""

    files: int  # number of input files
    new_files: int  # number of input files that would be read
    columns: dict[str, int] = field(default_factory=dict)  # in `predict`: file counts by columns
    parts: int
    parts_to_do: int
    rows_to_do: int
    estimated_s: float | None  # time at the speed of the last command; None without one

    def __str__(self) -> str:
        shown = ((count(each, "file"), printable(names)) for names, each in self.columns.items())
        columns = [f"\n  {number}: {names}" for number, names in shown]
        left = self.estimated_s  # 0 without a row to read
        time = f", about {duration(left)} at the speed of the last command" if left else ""
        return (
            f"{count(self.files, 'file')}, {self.new_files:,} of them to read{''.join(columns)}\n"
            f"{count(self.rows_to_do, 'row')} to read in {self.parts_to_do:,} of "
            f"{count(self.parts, 'part')}"
            f"{time}; nothing was written"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class JobCounts(Result):
    """Counts of a batch job. After a dry run, only `plan` is set."""

    plan: Plan | None = None  # result of a dry run
    rows: int = 0  # all rows, including quarantined ones
    quarantined: int = 0  # quarantined rows
    broken_files: int = 0  # quarantined files whose number of rows is unknown
    reasons: dict[str, int] = field(default_factory=dict)  # quarantined rows by reason
    start_s: float = 0.0  # seconds from the call to the start of the first part
    rows_per_s: int = 0  # speed of this command
    output: str = ""  # folder or URI

    def to_json(self) -> JsonObject:
        """Return the values as the command prints them."""
        line = super().to_json()
        del line["plan"]
        return self.plan.to_json() if self.plan else line

    def _summarise(self, done: str, outputs: dict[str, str | None], next_: str) -> str:
        """Return the summary: what was done, what is quarantined, and the paths of the outputs."""
        if self.plan:
            return str(self.plan)
        if self.reasons:
            reasons = sorted(self.reasons.items(), key=lambda each: -each[1])
            named = ", ".join(f"{number:,} {reason}" for reason, number in reasons)
            done += f"; {self.quarantined:,} quarantined ({named})"
        if self.broken_files:
            done += f"; {count(self.broken_files, 'file')} cannot be read"
        if not self.quarantined and not self.broken_files:
            outputs = {**outputs, "quarantine": None}
        return describe(done, outputs, next_)


@dataclass(frozen=True, kw_only=True, eq=False)
class Ingestion(JobCounts):
    """Counts of `ingest`. After a dry run, only `plan` is set."""

    ingested: int = 0  # rows in the Parquet files of the output
    labelled: int = 0  # ingested rows with a label
    ingest_s: float = 0.0  # seconds from the start of the first part to the end

    def __str__(self) -> str:
        return self._summarise(
            f"{count(self.ingested, 'picture')} converted, {self.labelled:,} of them with a label",
            {"rows": self.output, "quarantine": storage.join(self.output, "_quarantine")},
            f"nanograd predict {as_word(self.output)}"
            if self.ingested
            else "nanograd inspect PICTURES --output sheet.png draws each step of the conversion",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction(JobCounts):
    """Counts of `predict`. After a dry run, only `plan` is set."""

    predicted: int = 0  # rows in OUTPUT/predictions, or pictures with numbers
    numbers: int = 0  # lines of digits; rows in OUTPUT/numbers
    labelled: int = 0  # predicted rows with a label
    correct: int = 0  # labelled rows whose prediction equals the label
    accuracy: float | None = None  # correct / labelled; None without labels
    # (10, 10) counts of labelled rows, by label and prediction.
    confusion: Ints | None = field(default=None, repr=False)
    predicted_as: dict[str, int] = field(default_factory=dict, repr=False)  # rows by digit
    unfamiliar: int = 0  # predicted digits unlike those of the training set
    bad_labels: int = 0  # predicted rows whose label is no digit
    dark_on_light: int = 0  # rows of raw pixels that were inverted
    # The most frequent details of quarantine, each with its first row.
    details: list[JsonObject] = field(default_factory=list, repr=False)
    ingest_quarantined: dict[str, int] = field(default_factory=dict)  # pictures by reason
    files: int = 0  # number of input files
    predict_s: float = 0.0  # seconds from the start of the first part to the end
    format: str = "parquet"  # file format of the predictions
    # Columns in the paths of the predictions instead of in the files.
    partition_by: list[str] = field(default_factory=list)
    summary: str = ""  # JSON file of the counts
    review: str | None = None  # list of the least certain rows; None if there is no list
    report: str | None = None  # HTML file of the report; None if the report failed

    def preview(self) -> str:
        """Return a table of the first rows and of the least certain ones."""
        from nanograd.console.preview import preview_rows  # only needed on a terminal

        return "" if self.plan else preview_rows(self.output)

    def __str__(self) -> str:
        right, by_ingest = self.accuracy, sum(self.ingest_quarantined.values())
        predictions = storage.join(self.output, "predictions")
        numbers = storage.join(self.output, "numbers") if self.numbers else None
        done = f"{count(self.predicted, 'row')} classified"
        if numbers:
            digits = count(sum(self.predicted_as.values()), "digit")
            done = f"{count(self.numbers, 'number')} of {digits} read"
            done += f" in {count(self.predicted, 'picture')}"
        review = f"nanograd review {as_word(self.output)} corrects the least certain rows"
        return self._summarise(
            done
            + ("" if right is None else f", {percent(right)} of the labelled rows correctly")
            + f"; {count(self.unfamiliar, 'digit')} unlike the training digits"
            * bool(self.unfamiliar)
            + f"; ingest had quarantined {count(by_ingest, 'picture')}" * (by_ingest > 0),
            {
                "numbers": numbers,
                "predictions": predictions,
                "quarantine": storage.join(self.output, "quarantine"),
                "for example": printable(str(Detail(**self.details[0]))) if self.details else None,
                "review": self.review and review,
                "report": self.report,
            },
            self._show_table(numbers or predictions, "text" if numbers else "prediction"),
        )

    def _show_table(self, folder: str, result: str) -> str:
        """Return a shell command that prints the most important columns of the first rows."""
        kind = {"parquet": "parquet", "csv": "csv", "jsonl": "json"}[self.format]
        columns = [result, "confidence", "source_row", "path"]
        if storage.is_remote(folder):
            folder = storage.absolute(folder)  # s3a:// becomes s3://
        # The code has double quotes, so that the shell command needs only one pair of single ones.
        quoted, names = json.dumps(folder, ensure_ascii=False), json.dumps(columns)
        # Only if needed, because Arrow cannot read a column in paths that has no value.
        hive = ', partitioning="hive"' * (result in self.partition_by)
        table = f'ds.dataset({quoted}, format="{kind}"{hive}).head(50, {names})'
        code = f"import pyarrow.dataset as ds; print({table}.to_pandas().to_string())"
        return f"python -c {shlex.quote(code)}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation(Result):
    """The accuracy of a model on labelled images."""

    images: int  # number of images
    accuracy: float  # share of the images that are classified correctly
    calibration_error: float  # mean difference between confidence and accuracy
    confusion: Ints = field(repr=False)  # (10, 10) images by label and prediction
    evaluate_s: float
    params_sha256: str  # checksum of the model's parameters

    def __str__(self) -> str:
        number = count(self.images, "image")
        return f"{number} evaluated in {self.evaluate_s:.3f} s\naccuracy: {self.accuracy:.4f}"


@dataclass(frozen=True, kw_only=True)
class Inspections(Result):
    """The pictures that `inspect` drew."""

    pictures: int  # = read + refused
    read: int
    refused: int
    results: list[JsonObject] = field(repr=False)  # one item per picture: file, prediction, ...
    left_out: int  # number of pictures above the limit
    output: str  # PNG file or URI

    def __str__(self) -> str:
        refused = f", {self.refused:,} of them refused" if self.refused else ""
        return f"{count(self.pictures, 'picture')} drawn{refused}: {self.output}"


@dataclass(frozen=True, kw_only=True)
class Corrections(Result):
    """The decisions of a person about the rows of a review list."""

    rows: int  # rows in the list
    left: int = 0  # rows in the list without a decision
    reviewed: int = 0  # decisions = corrected + confirmed + no_digit
    corrected: int = 0  # decisions for another digit than the prediction
    confirmed: int = 0  # decisions for the prediction
    no_digit: int = 0  # pictures that show no digit, or were skipped
    corrections: str | None = None  # Parquet file of the decisions; None if there are none

    def __str__(self) -> str:
        if not self.rows:
            return "the review list has no rows; there is nothing to review"
        done = (
            f"{count(self.reviewed, 'row')} reviewed: {self.corrected:,} corrected, "
            f"{self.confirmed:,} confirmed, {self.no_digit:,} without a digit; {self.left:,} left"
        )
        if self.corrections and self.corrected + self.confirmed:
            train = f"nanograd train --data auto --data {as_word(self.corrections)}"
            return describe(done, {"corrections": self.corrections}, train)
        return done


@dataclass(frozen=True, kw_only=True)
class Export(Result):
    """The file that `export` wrote."""

    format: str
    opset: int  # version of ONNX's operators
    nets: int  # number of nets in the model
    bytes: int  # size of the file
    params_sha256: str  # checksum of the model's parameters
    output: str  # path or URI

    def __str__(self) -> str:
        return f"{self.bytes:,} bytes written: {self.output}"


def describe(done: str, outputs: Mapping[str, str | None], next_: str) -> str:
    """Return a summary: a sentence, the paths of the outputs, and a command to run next."""
    named = [f"  {name:<12} {output}" for name, output in outputs.items() if output]
    return "\n".join(["", done, *named, f"next: {next_}"])


def describe_demo(output: str, predicted: Prediction) -> str:
    """Return the summary of the demo."""
    pictures, rows, read, model = (
        storage.join(output, name) for name in ("png", "rows", "read", "run/model")
    )
    return describe(
        f"classified {predicted.predicted:,} handwritten digits, "
        f"{percent(predicted.accuracy)} of them correctly",
        {"pictures": pictures, "as Parquet": rows, "predictions": read, "the model": model},
        f"nanograd predict YOUR_PICTURES --model {as_word(model)}",
    )
