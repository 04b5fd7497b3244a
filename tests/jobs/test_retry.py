"""`--retry-quarantine`: rows of the quarantine that are read again, whatever happens on the way."""

import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow.dataset import dataset

from nanograd.errors import DataError, OutputExistsError
from nanograd.jobs.output import read_receipts
from nanograd.runtime import json_files
from tests.helpers.growth import FILE_ROWS, every_row, sources
from tests.helpers.image_columns import PICTURE, raw
from tests.jobs.conftest import Case

TABLES = ("predictions", "quarantine")
SCAN = {"retry_quarantine": True, "image_column": "scan", "label_column": "none"}


def accounts(*figures: dict[str, Any]) -> list[tuple[int, int]]:
    return [(each["predicted"], each["quarantined"]) for each in figures]


@pytest.fixture
def retried(case: Case) -> None:
    """Make an output of two files, and retry the rows of one of them."""
    case.add(0)
    case.add_scan(1)
    first = case.run()
    assert accounts(first, case.run(**SCAN)) == [(6, 8), (13, 1)]


def test_retry_reads_repaired_pictures_and_only_the_rows_of_the_quarantine(case, images, tmp_path):
    for number in range(3):
        rows = [{"bytes": images[number].tobytes()}, {"path": f"{number}.png"}]
        case.write(f"{number}.parquet", {"image": pa.array(rows, PICTURE)})
    root = tmp_path / "pictures"
    root.mkdir()
    (root / "0.png").write_bytes(images[3].tobytes())
    settings = {"image_root": str(root)}
    first = case.run(**settings)
    kept = {path: path.stat().st_mtime_ns for path in (case.out / "predictions").iterdir()}
    (root / "1.png").write_bytes(images[4].tobytes())

    again = case.run(**settings)
    retried = case.run(**settings, retry_quarantine=True)

    now = {path: path.stat().st_mtime_ns for path in (case.out / "predictions").iterdir()}
    assert accounts(first, again, retried) == [(4, 2), (4, 2), (5, 1)]
    assert kept.items() < now.items()
    assert len(sources(case.out)) == 6


def test_retry_with_other_settings_belongs_to_the_same_job(case):
    case.add(0)
    case.add_scan(1)
    first = case.run()
    kept = case.table().to_pylist()

    retried = case.run(**SCAN)
    again = case.run()
    case.add(2)
    grown = case.run()

    assert accounts(first, retried, again, grown) == [(6, 8), (13, 1), (13, 1), (19, 2)]
    assert first["labelled"] == retried["labelled"] == 6
    found = case.table().to_pylist()
    assert all(row in found for row in kept)
    receipts = json_files.read_manifest(f"{case.out}/_manifest.json")["receipts"]
    stored = read_receipts(str(case.out))  # a replaced quarantine is recorded there, too
    files = {each["part"]: set(each["files"]) for each in receipts}
    assert {part: set(each.files) for part, each in stored.items()}.items() <= files.items()
    readings = [options for each in receipts for options in each["readings"]]
    assert [options["image_column"] for options in readings] == ["scan"] * 2
    case.refuse(OutputExistsError, r"another job \(other image_column\)", image_column="scan")
    for change in ({"format": "csv"}, {"keep": ("label",)}, {"no_probabilities": True}):
        case.refuse(OutputExistsError, "another job", retry_quarantine=True, **change)


def test_retry_of_an_unfinished_output_with_other_settings_is_refused(case):
    case.add(0)
    case.add_scan(1)
    with pytest.raises(DataError, match="more than --max-error-rate"):
        case.run(max_error_rate=0.1)

    case.refuse(OutputExistsError, r"\(other image_column, label_column\)", **SCAN)


def test_file_of_another_schema_is_read_with_its_own_columns(case, images):
    case.add(0)
    scans = raw(images[:FILE_ROWS])
    case.write("00001.parquet", {"scan": scans, "photo": scans})  # none is chosen without a name
    first = case.run()

    retried = case.run(retry_quarantine=True, image_column="scan")
    again = case.run()

    assert accounts(first, retried, again) == [(6, 8), (13, 1), (13, 1)]
    assert sources(case.out) == every_row(0, 1)


def test_retry_that_repairs_too_few_rows_ends_with_an_error_and_keeps_the_output(case):
    case.add(0)
    case.add_scan(1)
    first, before = case.run(), case.table().to_pylist()

    for rate, settings in ((0, SCAN), (0.1, SCAN), (0.9, {"retry_quarantine": True})):
        with pytest.raises(DataError, match=r"[18] of 8 rows are unusable.*/_next/quarantine"):
            case.run(**settings, max_error_rate=rate)
        assert case.table().to_pylist() == before

    assert accounts(first, case.run(**SCAN, max_error_rate=0.2)) == [(6, 8), (13, 1)]
    rows = sources(case.out)
    for _ in range(3):  # a retry that finds nothing changes no row
        assert accounts(case.run(retry_quarantine=True)) == [(13, 1)]
        assert sources(case.out) == rows
    receipts = json_files.read_manifest(f"{case.out}/_manifest.json")["receipts"]
    assert sorted(len(each["readings"]) for each in receipts) == [0, 0, 1, 2]


def test_row_is_retried_with_one_setting_after_the_other(case, images, tmp_path):
    pictures = raw(images[:6]).to_pylist()
    columns = {name: [b"x"] * 6 for name in ("image", "one", "two")}
    columns["one"][:2], columns["two"][:4] = pictures[:2], pictures[:4]
    case.write("0.parquet", columns)
    case.add(1)
    first = case.run()

    again = [case.run(retry_quarantine=True, image_column=name) for name in ("one", "two", "one")]

    assert accounts(first, *again) == [(6, 7), (8, 5), (10, 3), (10, 3)]
    each_lost_file_is_replaced(case, tmp_path, "predictions")


def each_lost_file_is_replaced(case: Case, tmp_path: Path, table: str) -> None:
    """Check that the next command reads all rows as before, if one file of the output is lost."""
    before, figures = [case.table(name).to_pylist() for name in TABLES], accounts(case.run())
    shutil.copytree(case.out, tmp_path / "saved")
    for lost in sorted((case.out / table).iterdir()):
        lost.unlink()

        assert accounts(case.run()) == accounts(case.run(verify=True)) == figures

        assert [case.table(name).to_pylist() for name in TABLES] == before
        shutil.rmtree(case.out)
        shutil.copytree(tmp_path / "saved", case.out)


@pytest.mark.parametrize("table", [*TABLES, "_review"])
def test_lost_file_of_a_retry_is_replaced_by_the_next_command(case, retried, tmp_path, table):
    each_lost_file_is_replaced(case, tmp_path, table)


def test_lost_file_of_rows_that_no_retry_could_read_is_replaced(case, tmp_path):
    case.add(0)
    case.write("1.parquet", {"image": [b"x"] * 3, "scan": [b"y"] * 3})
    case.run()
    case.run(**SCAN)

    each_lost_file_is_replaced(case, tmp_path, "quarantine")


def test_changed_file_of_a_retry_is_replaced_by_sync_and_read_in_both_ways(case, retried):
    os.utime(case.add_scan(1), ns=(0, 0))
    changed = case.run(sync=True)
    case.add_scan(1).unlink()
    removed = case.run(sync=True)

    assert accounts(changed, removed) == [(13, 1), (6, 1)]
    assert sources(case.out) == every_row(0)


def test_retry_reads_a_file_with_another_time_and_the_same_content(case):
    case.add(0)
    os.utime(case.add_scan(1), ns=(0, 0))
    first = case.run()
    os.utime(case.add_scan(1), ns=(1, 1))

    assert accounts(first, case.run(), case.run(**SCAN)) == [(6, 8), (6, 8), (13, 1)]


def test_retry_with_growth_reads_both(case, retried):
    case.add(2)
    case.add_scan(3)

    grown = case.run(**SCAN)

    assert accounts(grown, case.run()) == [(26, 2), (26, 2)]
    assert sources(case.out) == every_row(0, 1, 2, 3)


@pytest.mark.parametrize("format_", ["parquet", "csv", "jsonl"])
def test_rows_that_are_quarantined_again_still_have_their_columns_to_keep(case, images, format_):
    pictures = [b"no picture", images[0].tobytes(), b"x"]
    for name in ("image", "scan"):
        at = pa.array([1, 2, None], pa.timestamp("us"))
        case.write(
            f"day=3/{name}.parquet",
            {name: pa.array(pictures, pa.binary()), "id": [f'"{name}', "", ","], "at": at},
        )
    settings = {"keep": ("id", "at", "day"), "format": format_}

    def quarantined() -> list[list[str]]:
        kind = "json" if format_ == "jsonl" else format_
        table = dataset(case.out / "quarantine", format=kind, partitioning=None).to_table()
        rows = table.select([*settings["keep"], "source_file", "source_row"]).to_pylist()
        return sorted(list(map(str, row.values())) for row in rows)

    case.run(**settings)
    before = quarantined()
    case.run(**settings, **SCAN)  # fits only one of the files

    assert len(before) == 4
    assert quarantined() == before
