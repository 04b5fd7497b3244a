import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nanograd import commands
from nanograd.batch.ingest import ROWS
from nanograd.config.command_configs import IngestConfig
from nanograd.data.dataset import Dataset
from nanograd.data.mnist import Mnist, write_pictures
from nanograd.errors import DataError, OutputExistsError
from nanograd.tables.images import QUARANTINE
from tests.helpers.folders import untimed_contents


@pytest.fixture(scope="module")
def digits(sample: Mnist) -> Dataset:
    """19 digits of the sample."""
    return sample.test.take(slice(0, 19))


@pytest.fixture
def png(tmp_path: Path, digits: Dataset) -> Path:
    """Them as PNG files, a folder a class."""
    write_pictures(digits, str(tmp_path / "png"))
    return tmp_path / "png"


def ingest(tmp_path: Path, *inputs: Path, **settings: Any) -> tuple[dict[str, Any], list[Any]]:
    """The figures and the rows, in the order of their paths."""
    config = IngestConfig(output=str(tmp_path / "rows"), workers=0, **settings)
    figures = commands.ingest(config, [str(place) for place in inputs], lambda sentence: None)
    rows = pq.read_table(tmp_path / "rows").to_pylist()
    return figures, sorted(rows, key=lambda row: str(row["image"]["path"]))


def picture(kind: str, size: tuple[int, int] = (28, 28), ink: int = 255) -> bytes:
    """A picture file of an upright stroke on black."""
    image = Image.new("L", size)
    image.paste(ink, (size[0] * 13 // 28, size[1] // 7, size[0] * 15 // 28, size[1] * 6 // 7))
    stream = BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def test_pictures_of_mnists_form_keep_their_bytes_and_labels(
    tmp_path: Path, png: Path, digits: Dataset
) -> None:
    figures, rows = ingest(tmp_path, png)

    files = sorted(str(path) for path in png.rglob("*.png"))
    assert [row["image"]["path"] for row in rows] == files
    assert [row["label"] for row in rows] == [int(Path(file).parent.name) for file in files]
    assert [row["image"]["bytes"] for row in rows] == [Path(file).read_bytes() for file in files]
    first = np.asarray(Image.open(BytesIO(rows[0]["image"]["bytes"])))
    assert np.array_equal(first.reshape(784), digits.images[int(Path(files[0]).stem)])
    assert figures["rows"] == figures["ingested"] == figures["labelled"] == 19
    assert (figures["quarantined"], figures["reasons"]) == (0, {})


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_every_kind_of_picture_becomes_28_by_28_white_on_black(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"1.{kind.lower()}").write_bytes(picture(kind, (193, 280)))

    figures, [row] = ingest(tmp_path, tmp_path / "in")

    image = np.asarray(Image.open(BytesIO(row["image"]["bytes"])))
    assert image.shape == (28, 28)
    assert image.dtype == np.uint8
    assert (image[0, 0], image[14, 14]) == (0, 255)
    assert (row["label"], figures["labelled"]) == (1, 1)


def test_label_from_none_labels_nothing(tmp_path: Path, png: Path) -> None:
    figures, rows = ingest(tmp_path, png, label_from="none")

    assert {row["label"] for row in rows} == {None}
    assert figures["labelled"] == 0


def test_broken_pictures_are_quarantined_and_the_folder_is_still_a_table(
    tmp_path: Path, png: Path
) -> None:
    broken = {
        "empty.png": (b"", "empty"),
        "text.jpg": (b"no picture", "broken_image"),
        "cut.png": (picture("JPEG")[:400], "broken_image"),
        "huge.bmp": (picture("BMP", (200, 201)), "too_large"),
        "blank.gif": (picture("GIF", ink=0), "blank"),
    }
    for name, (data, _) in broken.items():
        (png / name).write_bytes(data)

    figures, rows = ingest(tmp_path, png, max_pixels=40_000, part_rows=7)

    quarantine = pq.read_table(tmp_path / "rows" / "_quarantine")
    found = {Path(row["source_file"]).name: row for row in quarantine.to_pylist()}
    assert {name: row["reason"] for name, row in found.items()} == {
        name: reason for name, (_, reason) in broken.items()
    }
    assert all(row["source_row"] == 0 and row["detail"] for row in found.values())
    assert quarantine.schema.equals(QUARANTINE)
    assert pq.read_table(tmp_path / "rows").schema.equals(ROWS)
    assert len(rows) == figures["ingested"] == 19
    assert (figures["rows"], figures["quarantined"]) == (24, 5)
    assert figures["reasons"] == {"empty": 1, "broken_image": 2, "too_large": 1, "blank": 1}


@pytest.mark.parametrize(
    ("part_rows", "lengths"), [(1, [1] * 19), (7, [5, 7, 7]), (19, [19]), (20, [19])]
)
def test_part_rows_cut_the_output_and_nothing_else(
    tmp_path: Path, png: Path, part_rows: int, lengths: list[int]
) -> None:
    _, rows = ingest(tmp_path, png, part_rows=part_rows)

    parts = (tmp_path / "rows").glob("part-*.parquet")
    assert sorted(len(pq.read_table(part)) for part in parts) == lengths
    assert [row["image"]["path"] for row in rows] == sorted(str(p) for p in png.rglob("*.png"))


def test_folder_of_broken_pictures_alone_gives_an_empty_table(tmp_path: Path) -> None:
    (tmp_path / "7.png").write_bytes(b"")

    figures, rows = ingest(tmp_path, tmp_path / "7.png")

    assert rows == []
    assert (figures["rows"], figures["ingested"], figures["quarantined"]) == (1, 0, 1)


def test_picture_that_is_gone_is_quarantined(tmp_path: Path, png: Path) -> None:
    from nanograd.batch.ingest import plan
    from nanograd.batch.job import run_job
    from nanograd.batch.part import run_local

    gone = sorted(png.rglob("*.png"))[3]
    job, work = plan(IngestConfig(output=str(tmp_path / "rows")), [str(png)], print)
    gone.unlink()

    total = run_job(job, run_local(work), lambda sentence: None).summary

    [row] = pq.read_table(tmp_path / "rows" / "_quarantine").to_pylist()
    assert (row["source_file"], row["reason"]) == (str(gone), "no_file")
    assert (total["rows"], total["ingested"]) == (19, 18)


def test_no_picture_at_all_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "rows.parquet").write_bytes(b"")

    with pytest.raises(DataError, match=r"no \.png or \.jpg files in .*in"):
        ingest(tmp_path, tmp_path / "in")

    assert not (tmp_path / "rows").exists()


def test_same_command_again_does_nothing_and_finishes_what_was_lost(
    tmp_path: Path, png: Path
) -> None:
    first, _ = ingest(tmp_path, png, part_rows=7)
    before = untimed_contents(tmp_path / "rows")
    again, _ = ingest(tmp_path, png, part_rows=7)
    unchanged = untimed_contents(tmp_path / "rows")
    (tmp_path / "rows" / "_SUCCESS").unlink()
    next((tmp_path / "rows" / "_receipts").iterdir()).unlink()

    ingest(tmp_path, png, part_rows=7)

    assert again["ingested"] == first["ingested"] == 19
    assert unchanged == before
    assert untimed_contents(tmp_path / "rows") == before


@pytest.mark.parametrize(
    "settings", [{"label_from": "none"}, {"polarity": "dark-on-light"}, {"part_rows": 7}]
)
def test_other_settings_are_another_job(
    tmp_path: Path, png: Path, settings: dict[str, Any]
) -> None:
    ingest(tmp_path, png)

    with pytest.raises(OutputExistsError, match="another job"):
        ingest(tmp_path, png, **settings)


def test_another_picture_is_another_job_until_overwritten(tmp_path: Path, png: Path) -> None:
    ingest(tmp_path, png)
    shutil.copy(next(png.rglob("*.png")), png / "7_more.png")

    with pytest.raises(OutputExistsError, match="another job"):
        ingest(tmp_path, png)
    figures, rows = ingest(tmp_path, png, overwrite=True)

    assert figures["ingested"] == len(rows) == 20
