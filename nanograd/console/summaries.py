"""Summaries of finished jobs: result, places, and the next command."""

from typing import Any

from nanograd.runtime import storage

ResultLine = dict[str, Any]


def of_training(result: ResultLine) -> str:
    """Summarise a training run."""
    accuracy = f"{100 * result['test_accuracy']:.2f} % of the test images classified correctly"
    return _lines(
        f"trained {result['epochs']} epochs in {result['train_s']:.1f} s; {accuracy}",
        ("model", result["model"]),
        ("report", result["report"]),
        next_=f"nanograd ingest PICTURES --output rows\n"
        f"      nanograd predict rows --model {result['model']} --output read",
    )


def of_ingest(result: ResultLine) -> str:
    """Summarise an ingest job."""
    output = result["output"]
    return _lines(
        f"{result['ingested']:,} pictures converted, {result['labelled']:,} of them with a label"
        f"{_quarantined(result)}",
        ("rows", output),
        ("quarantine", storage.join(output, "_quarantine") if result["quarantined"] else None),
        next_=f"nanograd predict {output} --model RUN/model --output read"
        if result["ingested"]
        else "nanograd inspect PICTURES --output sheet.png draws each step of the conversion",
    )


def of_inspection(result: ResultLine) -> str:
    """Summarise an inspection."""
    refused = f", {result['refused']:,} of them refused" if result["refused"] else ""
    return f"{result['pictures']:,} pictures drawn{refused}: {result['output']}"


def of_prediction(result: ResultLine, format_: str) -> str:
    """Summarise a prediction whose tables have this format."""
    output, accuracy = result["output"], result["accuracy"]
    right = "" if accuracy is None else f", {100 * accuracy:.2f} % of the labelled rows correctly"
    predictions = storage.join(output, "predictions")
    quarantine = storage.join(output, "quarantine") if result["quarantined"] else None
    shown = quarantine if quarantine and not result["predicted"] else predictions
    return _lines(
        f"{result['predicted']:,} rows classified{right}{_quarantined(result)}",
        ("predictions", predictions),
        ("quarantine", quarantine),
        ("report", result["report"]),
        next_=_show_table(shown, format_),
    )


def _show_table(place: str, format_: str) -> str:
    """Return a command that prints a folder of tables."""
    if format_ == "parquet":
        library, table = "parquet as pq", f"pq.read_table('{place}')"
    else:
        kind = {"csv": "csv", "jsonl": "json"}[format_]
        library, table = "dataset as ds", f"ds.dataset('{place}', format='{kind}').to_table()"
    return f'python -c "import pyarrow.{library}; print({table}.to_pandas())"'


def of_demo(result: ResultLine, *, pictures: str, rows: str, model: str) -> str:
    """Summarise the demo, from the result line of its prediction."""
    right = f"{result['accuracy']:.2%} of them correctly"
    return _lines(
        f"classified {result['predicted']:,} handwritten digits, {right}",
        ("pictures", pictures),
        ("as Parquet", rows),
        ("predictions", result["output"]),
        ("the model", model),
        next_=f"nanograd ingest YOUR_PICTURES --output rows; "
        f"nanograd predict rows --model {model} --output read",
    )


def _quarantined(result: ResultLine) -> str:
    reasons = sorted(result["reasons"].items(), key=lambda each: -each[1])
    named = ", ".join(f"{count:,} {reason}" for reason, count in reasons[:3])
    return f"; {result['quarantined']:,} quarantined ({named})" if reasons else ""


def _lines(first: str, *places: tuple[str, str | None], next_: str) -> str:
    named = [f"  {name:<12} {place}" for name, place in places if place]
    return "\n".join(["", first, *named, f"next: {next_}"])
