"""The last words of a job: what came of it, where it is, and which command is next."""

from typing import Any

from nanograd.runtime import storage

Figures = dict[str, Any]


def of_training(figures: Figures) -> str:
    """Last words of a training run, from its result line."""
    read = f"{100 * figures['test_accuracy']:.2f} % of the test images read right"
    return _lines(
        f"trained {figures['epochs']} epochs in {figures['train_s']:.1f} s; {read}",
        ("model", figures["model"]),
        ("report", figures["report"]),
        next_=f"nanograd ingest PICTURES --output rows\n"
        f"      nanograd predict rows --model {figures['model']} --output read",
    )


def of_ingest(figures: Figures) -> str:
    """Last words of an ingest job, from its result line."""
    output = figures["output"]
    return _lines(
        f"{figures['ingested']:,} pictures made rows, {figures['labelled']:,} of them with a label"
        f"{_quarantined(figures)}",
        ("rows", output),
        ("quarantine", storage.join(output, "_quarantine") if figures["quarantined"] else None),
        next_=f"nanograd predict {output} --model RUN/model --output read"
        if figures["ingested"]
        else "nanograd inspect PICTURES --output sheet.png draws what was found in them",
    )


def of_inspection(figures: Figures) -> str:
    """Last words of an inspection, from its result line."""
    refused = f", {figures['refused']:,} of them refused" if figures["refused"] else ""
    return f"{figures['pictures']:,} pictures drawn{refused}: {figures['output']}"


def of_prediction(figures: Figures, format_: str) -> str:
    """Last words of a prediction, from its result line and the format of its tables."""
    output, accuracy = figures["output"], figures["accuracy"]
    right = "" if accuracy is None else f", {100 * accuracy:.2f} % of those with a label right"
    predictions = storage.join(output, "predictions")
    quarantine = storage.join(output, "quarantine") if figures["quarantined"] else None
    shown = quarantine if quarantine and not figures["predicted"] else predictions
    return _lines(
        f"{figures['predicted']:,} rows read{right}{_quarantined(figures)}",
        ("predictions", predictions),
        ("quarantine", quarantine),
        ("report", figures["report"]),
        next_=_show_table(shown, format_),
    )


def _show_table(place: str, format_: str) -> str:
    """A command that prints a folder of tables."""
    if format_ == "parquet":
        library, table = "parquet as pq", f"pq.read_table('{place}')"
    else:
        kind = {"csv": "csv", "jsonl": "json"}[format_]
        library, table = "dataset as ds", f"ds.dataset('{place}', format='{kind}').to_table()"
    return f'python -c "import pyarrow.{library}; print({table}.to_pandas())"'


def of_demo(figures: Figures, *, pictures: str, rows: str, model: str) -> str:
    """Last words of the demo, from the result line of its prediction."""
    right = f"{figures['accuracy']:.2%} of them right"
    return _lines(
        f"read {figures['predicted']:,} handwritten digits, {right}",
        ("pictures", pictures),
        ("as Parquet", rows),
        ("predictions", figures["output"]),
        ("the model", model),
        next_=f"nanograd ingest YOUR_PICTURES --output rows; "
        f"nanograd predict rows --model {model} --output read",
    )


def _quarantined(figures: Figures) -> str:
    reasons = sorted(figures["reasons"].items(), key=lambda each: -each[1])
    named = ", ".join(f"{count:,} {reason}" for reason, count in reasons[:3])
    return f"; {figures['quarantined']:,} quarantined ({named})" if reasons else ""


def _lines(first: str, *places: tuple[str, str | None], next_: str) -> str:
    named = [f"  {name:<12} {place}" for name, place in places if place]
    return "\n".join(["", first, *named, f"next: {next_}"])
