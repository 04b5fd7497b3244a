"""Print what `predict` and `ingest` make of every kind of input, as JSON: a checksum for each kind.

Run with the variables of `kernel.variables`, the checksums are those of every x86-64 processor.
"""

import json
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import nanograd
from nanograd.digits.dataset import Dataset
from nanograd.digits.form import to_png
from nanograd.images import sources
from nanograd.models import model as model_io
from nanograd.models.model import Model
from tests.helpers.image_columns import FLAT_NAMES, NUMBER_COLUMNS, PICTURE_COLUMNS
from tests.helpers.models import some_ensemble, some_reference

NUM_ROWS = 7


def checksum(value: Any) -> str:
    return sha256(json.dumps(value, default=str).encode()).hexdigest()[:16]


def rows_below(folder: Path) -> list[dict[str, Any]]:
    """Return all rows of the Parquet files in a folder, without the folders of their sources."""
    rows = pq.read_table(folder).to_pylist()
    for row in rows:
        row |= {name: Path(row[name]).name for name in ("path", "source_file")}
    return rows


def tables(digits: Dataset) -> Iterator[tuple[str, pa.Table]]:
    labels = [*digits.labels[:-1].tolist(), 10]
    for name, column in {**NUMBER_COLUMNS, **PICTURE_COLUMNS}.items():
        yield name, pa.table({"image": column(digits.images), "label": labels})
    for name, names in FLAT_NAMES.items():
        columns = dict(zip(names, digits.images.T, strict=True))
        yield f"columns {name}", pa.table({"id": range(len(labels)), "label": labels, **columns})
    broken = [to_png(image) for image in digits.images]
    broken[2], broken[4] = broken[2][:40], None
    yield "damaged pictures", pa.table({"image": pa.array(broken, pa.binary()), "label": labels})


def csv_files(digits: Dataset) -> Iterator[tuple[str, str]]:
    pixels = [",".join(map(str, row)) for row in digits.images.tolist()]
    lines = [f"{label},{row}" for label, row in zip(digits.labels, pixels, strict=True)]
    header = ",".join(["label", *FLAT_NAMES["pixel0"]])
    yield "CSV with a header", "\n".join([header, *lines, ""])
    yield "CSV without", "\n".join(lines)
    yield "damaged CSV", "\n".join([header, *lines[:3], "7,1,2", lines[3].replace("0", "x", 1), ""])


def checksums(folder: Path) -> dict[str, str]:
    digits = sources.load_test(["sample"]).take(slice(0, NUM_ROWS))
    model = some_ensemble()
    model_io.save(
        Model(nets=model.nets, about={}, reference=some_reference()), str(folder / "model")
    )
    found: dict[str, str] = {}

    def predict(name: str, file: Path, format_: str = "parquet") -> None:
        out = folder / f"out{len(found)}"
        nanograd.predict(file, model=folder / "model", output=out, format=format_)
        if format_ == "parquet":
            found[name] = checksum(
                [rows_below(out / kind) for kind in ("predictions", "quarantine")]
            )
        else:
            text = "".join(each.read_text() for each in sorted((out / "predictions").iterdir()))
            found[name] = checksum(text.replace(f"{folder}/", ""))

    for name, table in tables(digits):
        pq.write_table(table, file := folder / "rows.parquet")
        predict(name, file)
    for format_ in ("csv", "jsonl"):
        predict(f"as {format_}", file, format_)
    for name, text in csv_files(digits):
        (file := folder / "rows.csv").write_text(text)
        predict(name, file)
    with ZipFile(folder / "drawings.zip", "w") as archive:
        for number, (image, label) in enumerate(zip(digits.images, digits.labels, strict=True)):
            archive.writestr(f"{label}/{number}.png", to_png(image))
        archive.writestr("3/none.png", b"no picture")
    nanograd.ingest(folder / "drawings.zip", output=folder / "ingested")
    pictures = pq.read_table(folder / "ingested").to_pylist()
    found["ingested pictures"] = checksum(
        [(sha256(row["image"]["bytes"]).hexdigest(), row["label"]) for row in pictures]
    )
    return found


if __name__ == "__main__":
    versions = [np.__version__, pa.__version__]
    print(json.dumps({"versions": versions, "kinds": checksums(Path(sys.argv[1]))}, indent=1))  # noqa: T201
