"""Every kind of bad picture among good ones: a reason in quarantine, and no other row touched."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nanograd import commands
from nanograd.batch.ingest import plan
from nanograd.batch.job import run_job
from nanograd.batch.part import run_here
from nanograd.config.command_configs import IngestConfig
from nanograd.errors import StorageError, UnreadableError
from nanograd.pictures.decode import PictureReader
from tests.helpers.odd_files import BAD, READABLE, cut, drawing, encoded


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A folder with a good picture before and one after every other in the order of names."""
    (tmp_path / "in").mkdir()
    for name in (" first", "~ last"):
        (tmp_path / "in" / f"{name}.png").write_bytes(encoded(drawing(), "PNG"))
    return tmp_path / "in"


def ingest(folder: Path, **settings: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Figures, rows and reasons by the file's name; what every run must hold is checked."""
    output = folder.parent / "rows"
    config = IngestConfig(
        output=str(output), workers=0, **{"max_bytes": 500_000, "overwrite": True, **settings}
    )
    figures = commands.ingest(config, [str(folder)], lambda sentence: None)
    rows = {Path(row["image"]["path"]).name: row for row in pq.read_table(output).to_pylist()}
    bad = output / "_quarantine"
    rejects = pq.read_table(bad).to_pylist() if bad.exists() else []
    reasons = {Path(row["source_file"]).name: row["reason"] for row in rejects}
    assert figures["rows"] == figures["ingested"] + figures["quarantined"]
    assert (figures["ingested"], figures["quarantined"]) == (len(rows), len(rejects))
    assert figures["rows"] == sum(path.is_file() for path in folder.iterdir())
    assert not set(rows) & set(reasons)
    assert all(row["detail"] and "\n" not in row["detail"] for row in rejects)
    return figures, rows, reasons


def ink_of(row: dict[str, Any]) -> Any:
    return np.asarray(Image.open(BytesIO(row["image"]["bytes"])))


def test_odd_pictures_of_a_digit_are_read_as_the_plain_one_is(good: Path) -> None:
    for name, data in READABLE.items():
        (good / name).write_bytes(data())

    _, rows, reasons = ingest(good)

    plain = ink_of(rows[" first.png"]).astype(int)
    far = {name: np.abs(ink_of(row) - plain).mean() for name, row in rows.items()}
    assert reasons == {}
    assert all(ink_of(row).shape == (28, 28) for row in rows.values())
    assert {name: distance for name, distance in far.items() if distance >= 8} == {}


@pytest.mark.parametrize("part_rows", [7, 2000])
def test_bad_pictures_are_quarantined_each_with_its_reason_and_no_row_is_lost(
    good: Path, part_rows: int
) -> None:
    for name, (_, data) in BAD.items():
        (good / name).write_bytes(data())
    (good / "M middle.png").write_bytes(encoded(drawing(), "PNG"))

    figures, rows, reasons = ingest(good, part_rows=part_rows)

    assert reasons == {name: reason for name, (reason, _) in BAD.items()}
    assert set(rows) == {" first.png", "M middle.png", "~ last.png"}
    assert sum(figures["reasons"].values()) == len(BAD)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_file_cut_anywhere_is_a_row_or_a_reason(good: Path, kind: str) -> None:
    whole = encoded(drawing(), kind)
    for percent in range(1, 100, 7):
        (good / f"{percent}.{kind.lower()}").write_bytes(cut(whole, percent / 100))

    _, rows, reasons = ingest(good)

    assert len(rows) + len(reasons) == 17
    assert set(reasons.values()) <= {"broken_image", "blank", "low_contrast", "too_many_marks"}
    assert {" first.png", "~ last.png"} <= set(rows)


@pytest.mark.parametrize("formats", ["png", "PNG", "jpeg,png", "jpg, png"])
def test_other_formats_than_the_allowed_are_refused_whatever_their_name(
    good: Path, formats: str
) -> None:
    (good / "gif under.png").write_bytes(encoded(drawing(), "GIF"))

    _, rows, reasons = ingest(good, formats=formats)

    assert reasons == {"gif under.png": "broken_image"}
    assert len(rows) == 2


def test_limits_are_inclusive(good: Path) -> None:
    data = encoded(drawing(), "PNG")

    _, at, _ = ingest(good, max_bytes=len(data), max_pixels=40_000)
    _, below, reasons = ingest(good, max_bytes=len(data) - 1)

    assert len(at) == 2
    assert (below, set(reasons.values())) == ({}, {"too_large"})


def run_after(good: Path, change: Callable[[Path], object]) -> dict[str, str]:
    """The reasons of a job whose last picture changes between planning and reading."""
    output = good.parent / "rows"
    job, work = plan(IngestConfig(output=str(output)), [str(good)], lambda sentence: None)
    change(good / "~ last.png")
    total = run_job(job, run_here(work), lambda sentence: None).summary
    rejects = pq.read_table(output / "_quarantine").to_pylist()
    assert (total["rows"], total["ingested"], total["quarantined"]) == (2, 1, 1)
    return {Path(row["source_file"]).name: row["reason"] for row in rejects}


def becomes_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def becomes_a_link_to_nowhere(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


@pytest.mark.parametrize(
    "change",
    [Path.unlink, becomes_a_folder, becomes_a_link_to_nowhere],
    ids=lambda each: each.__name__,
)
def test_file_that_is_gone_when_it_is_read_is_quarantined(
    good: Path, change: Callable[[Path], object]
) -> None:
    assert run_after(good, change) == {"~ last.png": "no_file"}


def test_file_that_is_empty_when_it_is_read_is_quarantined(good: Path) -> None:
    assert run_after(good, lambda file: file.write_bytes(b"")) == {"~ last.png": "empty"}


@pytest.fixture
def private() -> Iterator[Path]:
    """A file that this process may not read: root's, and for root as nobody else's."""
    nobody = 65534
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = Path(folder) / "7.png"
        file.touch()
        file.chmod(0)
        before = os.geteuid()
        if before == 0:
            os.seteuid(nobody)
        try:
            yield file
        finally:
            os.seteuid(before)


def test_file_that_may_not_be_read_is_refused_alone(private: Path) -> None:
    reader = PictureReader(max_bytes=1000, max_pixels=1000)

    with pytest.raises(UnreadableError, match=f"^no_permission: cannot read {private}: "):
        reader.read(str(private))


def test_place_that_fails_as_a_whole_stops_the_job_and_quarantines_nothing(good: Path) -> None:
    output = good.parent / "rows"
    job, work = plan(IngestConfig(output=str(output)), [str(good)], lambda sentence: None)
    loop = good / "~ last.png"
    loop.unlink()
    loop.symlink_to(loop)

    with pytest.raises(StorageError, match="cannot read"):
        run_job(job, run_here(work), lambda sentence: None)

    assert not (output / "_SUCCESS").exists()


def test_name_that_is_no_unicode_is_a_row_all_the_same(good: Path) -> None:
    (good / os.fsdecode(b"7_\xff.png")).write_bytes(encoded(drawing(), "PNG"))
    (good / os.fsdecode(b"8_\xfe.png")).write_bytes(b"")

    figures, rows, reasons = ingest(good, label_from="name", keep_original=True)

    assert rows[r"7_\udcff.png"]["label"] == 7
    assert reasons == {r"8_\udcfe.png": "empty"}
    assert json.dumps(figures)


def test_original_is_kept_beside_the_normalised_form_byte_for_byte(good: Path) -> None:
    data = encoded(drawing(), "JPEG")
    (good / "photo.jpg").write_bytes(data)

    _, rows, _ = ingest(good, keep_original=True)

    row = rows["photo.jpg"]
    assert row["original"] == {"bytes": data, "path": str(good / "photo.jpg")}
    assert row["image"]["path"] == row["original"]["path"]
    assert ink_of(row).shape == (28, 28)


def test_large_files_make_smaller_parts(good: Path) -> None:
    for number in range(5):
        with (good / f"{number}.png").open("wb") as file:
            file.truncate(100_000_000)  # a hole, which takes no room on the disk

    _, rows, reasons = ingest(good)

    parts = list((good.parent / "rows" / "_receipts").iterdir())
    assert len(parts) == 3
    assert (len(rows), set(reasons.values())) == (2, {"too_large"})
