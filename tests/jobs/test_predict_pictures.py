"""Picture files as input of a prediction, alone and beside tables: each once, as by `ingest`."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nanograd.console.preview import preview_rows
from nanograd.errors import DataError, OutputExistsError, UsageError
from nanograd.models.reference import UNFAMILIAR
from nanograd.runtime import json_files
from tests.helpers.growth import FILE_ROWS, runs
from tests.helpers.ingests import ingest
from tests.jobs.conftest import Case

Draw = Callable[[str, int], Path]


@pytest.fixture
def draw(case: Case) -> Draw:
    """Write a digit of the sample as a picture of dark ink on light paper."""

    def write(name: str, number: int) -> Path:
        image = Image.fromarray(255 - case.digits.images[number].reshape(28, 28)).resize((140, 140))
        file = case.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
        return file

    return write


@pytest.fixture
def photos(case: Case, draw: Draw) -> list[Path]:
    """Seven pictures, in folders and in names that say their labels."""
    labels = case.digits.labels[:7].tolist()
    return [draw(f"{label}/photo {n} ü.png", n) for n, label in enumerate(labels)]


def by_name(case: Case) -> dict[str, dict[str, Any]]:
    return {Path(row["source_file"]).name: row for row in case.table().to_pylist()}


def names(case: Case, name: str = "predictions") -> list[tuple[str, int | None]]:
    rows = case.table(name).to_pylist()
    return [(str(Path(r["source_file"]).relative_to(case.folder)), r["source_row"]) for r in rows]


def test_pictures_get_the_predictions_of_their_ingested_rows(case, photos, tmp_path):
    ingest(tmp_path / "rows", case.folder)
    case.run(tmp_path / "rows")
    shutil.move(case.out, tmp_path / "of rows")

    figures = case.run()

    of_rows = pq.read_table(tmp_path / "of rows/predictions").to_pylist()
    rows = case.table().to_pylist()
    assert figures["rows"] == figures["predicted"] == figures["labelled"] == len(photos)
    left_out = {"source_file", "source_row"}
    assert [{k: row[k] for k in row.keys() - left_out} for row in rows] == [
        {k: row[k] for k in row.keys() - left_out} for row in of_rows
    ]
    assert [(row["source_file"], row["source_row"]) for row in rows] == [
        (str(file), 0) for file in sorted(photos)
    ]
    assert [row["label"] for row in rows] == [int(file.parent.name) for file in sorted(photos)]


@pytest.mark.parametrize("format_", ["parquet", "csv", "jsonl"])
def test_mixed_input_is_accounted_for_file_by_file(case, draw, format_):
    draw("1.png", 0)
    (case.folder / "bad.png").write_bytes(b"no picture")
    case.add(0)
    with ZipFile(case.folder / "scans.zip", "w") as archive:
        archive.write(draw("sub/a.png", 3), "7/a.png")
        archive.writestr("7/empty.png", b"")
    case.write("digits.csv", b"label,1x1\n")

    figures = case.run(keep=("label",), format=format_)

    assert (figures["rows"], figures["predicted"], figures["quarantined"]) == (12, 9, 3)
    assert figures["files"] == 6
    assert any("digits.csv" in each for each in case.messages)
    text = preview_rows(str(case.out))
    for name in ("1.png", "scans.zip/7/a.png", "bad.png", "00000.parquet, row 5", "broken_image"):
        assert name in text
    if format_ == "parquet":
        assert by_name(case)["1.png"]["input_label"] is None
        assert names(case) == sorted(
            [("1.png", 0), ("sub/a.png", 0), ("scans.zip/7/a.png", 0)]
            + [("00000.parquet", row) for row in range(6)]
        )
        refused = [("00000.parquet", 6), ("bad.png", 0), ("scans.zip/7/empty.png", 0)]
        assert names(case, "quarantine") == refused


@pytest.mark.parametrize("again", ["sync", "retry_quarantine"])
def test_unusable_pictures_and_archives_affect_no_other(case, photos, again):
    case.refuse(UsageError, "--label-column has no effect: there are no", label_column="id")
    Image.new("L", (90, 90), 250).save(case.folder / "blank.png")
    (case.folder / "empty.jpg").touch()
    (case.folder / "scans.zip").write_bytes(b"PK no archive")

    with pytest.raises(DataError, match=r"1 of 10 files cannot be read.*scans\.zip"):
        case.run()
    figures = case.run(max_broken_files=1)

    assert (figures["rows"], figures["predicted"], figures["broken_files"]) == (9, 7, 1)
    assert case.quarantine() == [
        ("blank.png", 0, "blank"), ("empty.jpg", 0, "empty"), ("scans.zip", None, "broken_archive"),
    ]  # fmt: skip
    with ZipFile(case.folder / "scans.zip", "w") as archive:
        archive.write(photos[0], "7.png")
    case.refuse(OutputExistsError, "1 input file changed since")
    repaired = case.run(**{again: True})
    assert case.quarantine() == [("blank.png", 0, "blank"), ("empty.jpg", 0, "empty")]
    assert (repaired["rows"], repaired["predicted"], repaired["broken_files"]) == (10, 8, 0)


def test_archive_that_breaks_counts_as_changed_and_not_as_removed(case, photos):
    scans = case.folder / "scans.zip"
    with ZipFile(scans, "w") as archive:
        archive.write(photos[0], "7.png")
        archive.write(photos[1], "8.png")
    whole = case.run()
    data = scans.read_bytes()
    scans.write_bytes(data[:99])

    case.refuse(OutputExistsError, "2 input files changed since", max_broken_files=1)
    with pytest.raises(DataError, match=r"1 of 8 files cannot be read.*scans\.zip"):
        case.run(sync=True)
    lost = case.run(sync=True, max_broken_files=1)
    scans.write_bytes(data)
    again = case.run(sync=True)

    assert [(each["rows"], each["broken_files"]) for each in (whole, lost, again)] == [
        (9, 0), (7, 1), (9, 0),
    ]  # fmt: skip
    said = re.findall(r"--sync (\w+) the rows of (\d+ \w+)", "\n".join(case.messages))
    assert said == [("replaces", "2 changed"), ("replaces", "2 changed"), ("replaces", "1 changed")]


def test_only_new_pictures_are_read_and_changes_need_sync(case, photos, draw):
    case.run()
    before = {path: path.stat().st_mtime_ns for path in case.out.glob("predictions/*")}
    draw("new.png", 11)
    grown = case.run()
    after = {path: path.stat().st_mtime_ns for path in case.out.glob("predictions/*")}
    assert before.items() < after.items()
    assert (grown["rows"], runs(case.out)) == (8, [1, 1])
    assert by_name(case)["new.png"]["label"] is None

    photos[0].chmod(0o600)  # the content is the same
    assert case.run()["rows"] == 8
    draw(f"{photos[0].parent.name}/{photos[0].name}", 12)
    case.refuse(OutputExistsError, "1 input file changed since")
    case.refuse(OutputExistsError, "input files changed, or got another label", label_from="none")
    photos[1].unlink()
    assert case.run(sync=True)["rows"] == 7
    moved = photos[2].rename(case.folder / "moved.png")
    case.refuse(OutputExistsError, "1 input file got another name")
    assert case.run(sync=True)["rows"] == 7
    assert moved.name in by_name(case)
    assert photos[2].name not in by_name(case)


def test_quarantined_pictures_are_retried_with_other_settings(case, photos, draw):
    Image.new("L", (90, 90), 250).save(case.folder / "blank.png")
    large = Image.open(draw("large.png", 9)).resize((400, 400))
    large.save(case.folder / "large.png")
    settings = {"max_pixels": 20_000, "rows_per_file": 3}
    first = case.run(**settings)

    retried = case.run(retry_quarantine=True, rows_per_file=3)
    again = case.run(**settings)

    accounts = [(each["predicted"], each["quarantined"]) for each in (first, retried, again)]
    assert accounts == [(7, 2), (8, 1), (8, 1)]
    assert case.quarantine() == [("blank.png", 0, "blank")]
    receipts = json_files.read_manifest(f"{case.out}/_manifest.json")["receipts"]
    assert sum(each["readings"] != [] for each in receipts) >= 1


def test_pictures_have_the_columns_of_their_folders(case, draw):
    for number, name in enumerate(["day=2026-01-01/a.png", "day=2026-01-02/b.png", "c.png"]):
        draw(name, number)
    (case.folder / "day=2026-01-01/bad.png").write_bytes(b"no picture")
    with ZipFile(case.folder / "scans.zip", "w") as archive:
        archive.write(case.folder / "c.png", "day=2026-01-03/d.png")
    case.add(3, "day=2026-01-02/x.parquet")

    case.run(keep=("day",))

    days = {name: row["day"] for name, row in by_name(case).items()}
    assert days == {
        "a.png": "2026-01-01", "b.png": "2026-01-02", "c.png": None, "d.png": "2026-01-03",
        "x.parquet": "2026-01-02",
    }  # fmt: skip
    [bad] = [e for e in case.table("quarantine").to_pylist() if e["path"].endswith("bad.png")]
    assert bad["day"] == "2026-01-01"


def test_limit_counts_tables_and_pictures(case, photos):
    case.add(0)

    figures = case.run(limit=10, label_from="none")

    assert (figures["rows"], len(names(case))) == (10, 9)
    assert figures["labelled"] == 6


def test_preview_of_a_long_output_has_its_first_and_its_least_certain_rows(case):
    case.add(0, "a/x.parquet")
    case.add(7, "b/x.parquet", rows=193)

    case.run()
    lines = preview_rows(str(case.out)).splitlines()

    assert lines[0] == "the first of 200 rows:"
    first = [each.split()[:3] for each in lines[2:12]]
    every = [("a", row) for row in range(7)] + [("b", row) for row in range(3)]
    assert first == [[f"{folder}/x.parquet,", "row", str(row)] for folder, row in every]
    assert lines[13] == "the least certain rows:"
    review = pq.read_table(case.out / "_review.pq").to_pylist()
    for row, line in zip(review, lines[15:], strict=True):
        name = Path(row["source_file"]).relative_to(case.folder)
        assert line.startswith(f"  {name}, row {row['source_row']} ")


def test_preview_marks_wrong_and_unfamiliar_rows_and_hides_folders(case, photos):
    case.run()
    text = preview_rows(str(case.out))

    rows = case.table().to_pylist()
    header, *lines = text.splitlines()
    assert header.split() == ["picture", "digit", "confidence"]
    for row, line in zip(rows, lines, strict=True):
        file = Path(row["source_file"])
        assert line.startswith(f"  {file.parent.name}/{file.name} ")
        assert ("labelled" in line) == (row["label"] != row["prediction"])
        assert ("unfamiliar" in line) == (row["unfamiliarity"] > UNFAMILIAR)
        assert f"    {row['prediction']}    " in line
    case.add(0)
    case.run()
    _, *added = preview_rows(str(case.out)).splitlines()  # of the last command only
    assert [line.split(",")[0].strip() for line in added] == ["00000.parquet"] * FILE_ROWS
    case.run(partition_by=("prediction",), overwrite=True)
    assert preview_rows(str(case.out)) == ""


def test_retry_leaves_the_rows_of_other_pictures_that_changed(case, draw):
    photos = [draw(f"7_{number}.png", number) for number in range(3)]
    photos[2].write_bytes(photos[2].read_bytes()[:200])
    assert case.run()["quarantined"] == 1
    draw("7_0.png", 3)

    case.refuse(OutputExistsError, "1 input file changed.*7_0.png", retry_quarantine=True)
    draw("7_2.png", 4)
    case.refuse(OutputExistsError, "1 input file changed.*7_0.png", retry_quarantine=True)
    case.refuse(OutputExistsError, "another label", retry_quarantine=True, label_from="none")
    draw("7_0.png", 0)
    assert case.run(retry_quarantine=True)["predicted"] == 3


@pytest.mark.parametrize("settings", [{"format": "csv"}, {"digits": "many"}, {}])
def test_overwrite_leaves_what_no_job_wrote(case, draw, settings):
    draw("7_0.png", 0)
    case.run(digits="many", partition_by=("line",))
    notes = case.out / "predictions/notes.parquet"
    notes.touch()  # a reader would take it for rows
    case.refuse(OutputExistsError, "did not write, such as", overwrite=True, **settings)
    notes.unlink()
    names = ("thesis.tex", "photos/a.jpg", "quarantine/.nfs1", "rows/part-0123456789abcdef.pq")
    for name in names:
        (case.out / name).parent.mkdir(exist_ok=True)
        (case.out / name).write_text(name)

    figures = case.run(overwrite=True, **settings)

    assert (figures["predicted"], len(case.read("predictions", {"prediction": pa.int8()}))) == (
        1,
        1,
    )
    assert [(case.out / name).read_text() for name in names] == [*names]
    assert (case.out / "numbers").exists() == (settings.get("digits") == "many")


def test_picture_that_is_rewritten_while_the_job_runs_is_refused(case, draw):
    photos = [draw(f"7_{number}.png", number) for number in range(3)]
    job, work = case.plan()
    draw("7_1.png", 5)

    with pytest.raises(DataError, match=r"7_1\.png was changed after the job began"):
        work(replace(job.parts[0], output=str(case.out)))
    assert not case.out.exists()
    photos[1].unlink()  # a picture that is gone is a row in quarantine
    assert work(replace(job.parts[0], output=str(case.out))).counts.reasons == {"no_file": 1}
