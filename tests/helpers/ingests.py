"""Runs of `nanograd ingest` in this process, and their output."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from nanograd import batch
from nanograd.jobs.ingest import plan
from nanograd.jobs.job import Job
from nanograd.jobs.part import Work
from nanograd.settings.specs import IngestSpec


def ingest(output: Path, *inputs: Path, **settings: Any) -> dict[str, Any]:
    config = IngestSpec(output=str(output), workers=0, **settings)
    return batch.ingest([str(place) for place in inputs], spec=config).to_json()


def read_rows(output: Path) -> list[dict[str, Any]]:
    """Return the rows in the order of their paths."""
    rows: list[dict[str, Any]] = pq.read_table(output).to_pylist()
    return sorted(rows, key=lambda row: str(row["image"]["path"]))


def read_quarantine(output: Path) -> list[dict[str, Any]]:
    place = output / "_quarantine"
    rows: list[dict[str, Any]] = pq.read_table(place).to_pylist() if place.exists() else []
    return rows


def image_of(row: dict[str, Any]) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(row["image"]["bytes"])))


def planned(output: Path, *inputs: Path, part_rows: int = 2000) -> tuple[Job, Work]:
    places = [str(place) for place in inputs]
    return plan(places, IngestSpec(output=str(output), part_rows=part_rows))
