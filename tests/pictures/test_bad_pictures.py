"""Every kind of bad picture among good ones: a reason in quarantine, no effect on other rows."""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from nanograd.errors import DataError, StorageError, UnreadableError
from nanograd.images.writers import QUARANTINE
from nanograd.jobs.ingest import ROWS
from nanograd.jobs.job import run_job
from nanograd.jobs.part import run_local
from nanograd.jobs.receipts import Counts
from nanograd.pictures import decode
from nanograd.settings.specs import PictureOptions
from tests.helpers import ingests
from tests.helpers.folders import as_nobody
from tests.helpers.ingests import image_of, planned, read_quarantine, read_rows
from tests.helpers.odd_files import BAD, READABLE, drawing, encoded


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A folder with a good picture before and one after every other in the order of names."""
    (tmp_path / "in").mkdir()
    for name in (" first", "~ last"):
        (tmp_path / "in" / f"{name}.png").write_bytes(encoded(drawing()))
    return tmp_path / "in"


def ingest(folder: Path, **settings: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Return figures, rows and reasons by file name; check the invariants of every run."""
    output = folder.parent / "rows"
    settings = {"max_bytes": 500_000, "overwrite": True, **settings}
    figures = ingests.ingest(output, folder, **settings)
    rows = {Path(row["image"]["path"]).name: row for row in read_rows(output)}
    rejected = read_quarantine(output)
    reasons = {Path(row["source_file"]).name: row["reason"] for row in rejected}
    assert figures["rows"] == figures["ingested"] + figures["quarantined"]
    assert (figures["ingested"], figures["quarantined"]) == (len(rows), len(rejected))
    assert figures["rows"] == sum(path.is_file() for path in folder.iterdir())
    assert not set(rows) & set(reasons)
    assert all(
        row["source_row"] == 0 and row["detail"] and "\n" not in row["detail"] for row in rejected
    )
    return figures, rows, reasons


def test_odd_picture_files_are_read_like_the_plain_one(good):
    for name, data in READABLE.items():
        (good / name).write_bytes(data())

    _, rows, reasons = ingest(good)

    plain = image_of(rows[" first.png"]).astype(int)
    distances = {name: np.abs(image_of(row) - plain).mean() for name, row in rows.items()}
    assert reasons == {}
    assert all(image_of(row).shape == (28, 28) for row in rows.values())
    assert all(image_of(row)[0, 0] == 0 for row in rows.values())
    assert {name: distance for name, distance in distances.items() if distance >= 8} == {}


def test_bad_pictures_are_quarantined_each_with_its_reason(good):
    for name, (_, data) in BAD.items():
        (good / name).write_bytes(data())
    (good / "M middle.png").write_bytes(encoded(drawing()))

    figures, rows, reasons = ingest(good, part_rows=7)

    output = good.parent / "rows"
    assert reasons == {name: reason for name, (reason, _) in BAD.items()}
    assert set(rows) == {" first.png", "M middle.png", "~ last.png"}
    assert figures["reasons"] == Counter(reason for reason, _ in BAD.values())
    assert pq.read_table(output).schema.equals(ROWS)
    assert pq.read_table(output / "_quarantine").schema.equals(QUARANTINE)


def test_limits_are_inclusive_and_formats_are_those_of_the_content(good):
    data = encoded(drawing())
    _, at, _ = ingest(good, max_bytes=len(data), max_pixels=40_000)
    with pytest.raises(DataError, match=r"2 of 2 rows are unusable .*too_large"):
        ingest(good, max_bytes=len(data) - 1)

    (good / "gif under.png").write_bytes(encoded(drawing(), "GIF"))
    _, rows, reasons = ingest(good, formats="jpg, PNG")

    assert len(at) == len(rows) == 2
    assert reasons == {"gif under.png": "broken_image"}


@pytest.mark.parametrize(
    "change",
    [lambda file: None, Path.mkdir, lambda file: file.symlink_to("nowhere")],
    ids=["removed", "folder", "dangling link"],
)
def test_file_that_is_gone_after_planning_is_quarantined(good, change):
    job, work = planned(good.parent / "rows", good)
    (good / "~ last.png").unlink()
    change(good / "~ last.png")

    total = Counts.total(run_job(job, run_local(work)).receipts).of_ingestion()

    [row] = read_quarantine(good.parent / "rows")
    assert (row["source_file"], row["reason"]) == (str(good / "~ last.png"), "no_file")
    assert (total["rows"], total["ingested"], total["quarantined"]) == (2, 1, 1)


@pytest.fixture
def private() -> Iterator[Path]:
    """A file that this process may not read, not even as root."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = Path(folder) / "7.png"
        file.touch()
        file.chmod(0)
        with as_nobody():
            yield file


def test_file_without_permission_is_refused(private):
    options = PictureOptions(max_bytes=1000, max_pixels=1000)

    with pytest.raises(UnreadableError, match=f"^no_permission: cannot read {private}: "):
        decode.read(str(private), options)


def test_failing_storage_stops_the_job_and_quarantines_nothing(good):
    output = good.parent / "rows"
    job, work = planned(output, good)
    last = good / "~ last.png"
    last.unlink()
    last.symlink_to("/proc/self/mem")  # reading its first bytes is an error of input and output

    with pytest.raises(StorageError, match="cannot read"):
        run_job(job, run_local(work))

    assert not (output / "_SUCCESS").exists()


def test_names_that_are_not_unicode_are_escaped_and_originals_kept(good):
    data = encoded(drawing(), "JPEG")
    (good / os.fsdecode(b"7_\xff.jpg")).write_bytes(data)
    (good / os.fsdecode(b"8_\xfe.png")).write_bytes(b"")

    figures, rows, reasons = ingest(good, label_from="name", keep_original=True)

    row = rows[r"7_\udcff.jpg"]
    assert (row["label"], row["original"]["bytes"]) == (7, data)
    assert row["image"]["path"] == row["original"]["path"]
    assert image_of(row).shape == (28, 28)
    assert reasons == {r"8_\udcfe.png": "empty"}
    assert json.dumps(figures)


def test_large_files_make_smaller_parts(good):
    for number in range(5):
        with (good / f"{number}.png").open("wb") as file:
            file.truncate(100_000_000)  # a hole, which takes no space on disk

    _, rows, reasons = ingest(good)

    parts = list((good.parent / "rows" / "_receipts").iterdir())
    assert len(parts) == 3
    assert (len(rows), set(reasons.values())) == (2, {"too_large"})
