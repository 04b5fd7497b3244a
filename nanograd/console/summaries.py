"""Summaries of finished commands: result, folders, and the next command."""

import json
import shlex
from typing import Any

from nanograd.jobs.account import describe
from nanograd.runtime import storage
from nanograd.runtime.events import duration

ResultLine = dict[str, Any]


def of_training(result: ResultLine) -> str:
    """Summarise a training run."""
    accuracy = f"{100 * result['test_accuracy']:.2f} % of the test images classified correctly"
    return _lines(
        f"trained {result['epochs']} epochs in {result['train_s']:.1f} s; {accuracy}",
        ("model", result["model"]),
        ("report", result["report"]),
        next_=f"nanograd ingest PICTURES --output rows\n"
        f"      nanograd predict rows --model {shlex.quote(result['model'])} --output read",
    )


def of_ingest(result: ResultLine) -> str:
    """Summarise an ingest job."""
    output, rejected = result["output"], result["quarantined"] or result["broken_files"]
    return _lines(
        f"{result['ingested']:,} pictures converted, {result['labelled']:,} of them with a label"
        f"{_quarantined(result)}",
        ("rows", output),
        ("quarantine", storage.join(output, "_quarantine") if rejected else None),
        next_=f"nanograd predict {shlex.quote(output)} --model RUN/model --output read"
        if result["ingested"]
        else "nanograd inspect PICTURES --output sheet.png draws each step of the conversion",
    )


def of_plan(result: ResultLine) -> str:
    """Summarise a dry run."""
    columns = [
        f"\n  {count:,} files: {names}" for names, count in result.get("columns", {}).items()
    ]
    left = result["estimated_s"]
    time = "" if left is None else f", about {duration(left)} at the speed of the last command"
    return (
        f"{result['files']:,} files, {result['new_files']:,} of them to read"
        f"{''.join(columns)}\n{result['rows_to_do']:,} rows to read in {result['parts_to_do']:,} "
        f"of {result['parts']:,} parts{time}; nothing was written"
    )


def of_inspection(result: ResultLine) -> str:
    """Summarise an inspection."""
    refused = f", {result['refused']:,} of them refused" if result["refused"] else ""
    return f"{result['pictures']:,} pictures drawn{refused}: {result['output']}"


def of_file(result: ResultLine) -> str:
    """Summarise a written file."""
    return f"{result['bytes']:,} bytes written: {result['output']}"


def of_report(result: ResultLine) -> str:
    """Summarise a report."""
    return f"written in {result['report_s']:.1f} s: {result['report']}"


def of_pictures(result: ResultLine) -> str:
    """Summarise an export of images as picture files."""
    return f"{result['images']:,} pictures written: {result['output']}"


def of_data(result: ResultLine) -> str:
    """Summarise a data set."""
    counts = []
    for name in ("train", "test"):
        digits = ", ".join(map(str, result[name]["per_class"]))
        counts.append(f"  {name:<5} {result[name]['images']:>7,} images; of each digit {digits}")
    return "\n".join([f"{result['data']}, SHA-256 {result['sha256']}", *counts])


def of_prediction(result: ResultLine, format_: str) -> str:
    """Summarise a prediction with tables in this format."""
    output, accuracy = result["output"], result["accuracy"]
    right = "" if accuracy is None else f", {100 * accuracy:.2f} % of the labelled rows correctly"
    by_ingest = sum(result.get("ingest_quarantined", {}).values())
    ingest = f"; ingest had quarantined {by_ingest:,} pictures" if by_ingest else ""
    predictions = storage.join(output, "predictions")
    rejected = result["quarantined"] or result["broken_files"]
    quarantine = storage.join(output, "quarantine") if rejected else None
    return _lines(
        f"{result['predicted']:,} rows classified{right}{_quarantined(result)}{ingest}",
        ("predictions", predictions),
        ("quarantine", quarantine),
        *(("most often", describe(each)) for each in result["details"][:1]),
        ("review", result["review"]),
        ("report", result["report"]),
        next_=_show_table(predictions, format_),
    )


def _show_table(folder: str, format_: str) -> str:
    """Return a shell command that prints the most important columns of the predictions."""
    kind = {"parquet": "parquet", "csv": "csv", "jsonl": "json"}[format_]
    columns = ["source_file", "source_row", "prediction", "confidence", "label"]
    # Double quotes in the code, so that the shell command needs only one pair of single quotes.
    quoted, names = json.dumps(folder, ensure_ascii=False), json.dumps(columns)
    table = f'ds.dataset({quoted}, format="{kind}", partitioning="hive").to_table({names})'
    code = f"import pyarrow.dataset as ds; print({table}.to_pandas())"
    return f"python -c {shlex.quote(code)}"


def of_demo(result: ResultLine, *, pictures: str, rows: str, model: str) -> str:
    """Summarise the demo, given the result line of its prediction."""
    right = f"{result['accuracy']:.2%} of them correctly"
    return _lines(
        f"classified {result['predicted']:,} handwritten digits, {right}",
        ("pictures", pictures),
        ("as Parquet", rows),
        ("predictions", result["output"]),
        ("the model", model),
        next_=f"nanograd ingest YOUR_PICTURES --output rows; "
        f"nanograd predict rows --model {shlex.quote(model)} --output read",
    )


def _quarantined(result: ResultLine) -> str:
    reasons = sorted(result["reasons"].items(), key=lambda each: -each[1])
    named = ", ".join(f"{count:,} {reason}" for reason, count in reasons[:3])
    rows = f"; {result['quarantined']:,} quarantined ({named})" if reasons else ""
    files = f"; {result['broken_files']:,} files cannot be read" if result["broken_files"] else ""
    return rows + files


def _lines(first: str, *outputs: tuple[str, str | None], next_: str) -> str:
    named = [f"  {name:<12} {output}" for name, output in outputs if output]
    return "\n".join(["", first, *named, f"next: {next_}"])
