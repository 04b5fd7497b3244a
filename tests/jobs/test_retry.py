"""`--retry-quarantine`: rows of the quarantine that are read again, whatever happens on the way."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd.digits.dataset import Mnist
from nanograd.runtime import json_files
from tests.helpers.folders import untimed_contents
from tests.helpers.growth import FILE_ROWS, Run, every_row, sources

SCAN = {"retry_quarantine": True, "image_column": "scan", "label_column": "none"}


@pytest.fixture
def add_scans(folder: Path, sample: Mnist) -> Callable[[int], Path]:
    """Write a file whose pictures are in another column than expected."""

    def write(number: int) -> Path:
        images = [image.tobytes() for image in sample.test.images[number : number + FILE_ROWS]]
        table = pa.table({"scan": images, "image": [b"x"] * FILE_ROWS})
        pq.write_table(table, folder / f"{number:05d}.parquet")
        return folder / f"{number:05d}.parquet"

    return write


def accounts(*figures: dict[str, Any]) -> list[tuple[int, int]]:
    return [(each["predicted"], each["quarantined"]) for each in figures]


def pending(out: Path) -> Any:
    return json_files.read_manifest(f"{out}/_manifest.json")["retries"]


@pytest.fixture
def retried(
    run: Run, add: Callable[..., Path], add_scans: Callable[[int], Path], out: Path
) -> dict[str, bytes]:
    """An output of two files, the rows of one of them retried."""
    add(0)
    add_scans(1)
    first = run()
    assert accounts(first, run(**SCAN)) == [(6, 8), (13, 1)]
    return untimed_contents(out)


@pytest.mark.parametrize("format_", ["parquet", "csv", "jsonl"])
def test_quarantine_of_any_format_is_read_again(
    run: Run, add_scans: Callable[[int], Path], add: Callable[..., Path], format_: str
) -> None:
    add(0)
    add_scans(1)

    first = run(format=format_)
    again = run(format=format_, **SCAN)

    assert accounts(first, again) == [(6, 8), (13, 1)]
    assert again["rows"] == 2 * FILE_ROWS


def test_file_of_another_schema_is_read_with_its_own_columns(
    run: Run, add: Callable[..., Path], folder: Path, out: Path, sample: Mnist
) -> None:
    add(0)
    images = [image.tobytes() for image in sample.test.images[:FILE_ROWS]]
    two = pa.table({"scan": images, "photo": images})  # none is chosen without a name
    pq.write_table(two, folder / "00001.parquet")
    first = run()

    retried = run(retry_quarantine=True, image_column="scan")
    again = run()

    assert accounts(first, retried, again) == [(6, 8), (13, 1), (13, 1)]
    assert sources(out) == every_row(0, 1)


def test_retry_that_finds_nothing_changes_no_row(
    run: Run, add: Callable[..., Path], out: Path
) -> None:
    add(0)
    figures = [run(), *(run(retry_quarantine=True) for _ in range(3))]

    assert accounts(*figures) == [(6, 1)] * 4
    assert sources(out) == every_row(0)
    assert len(json_files.read_manifest(f"{out}/_manifest.json")["receipts"]) == 2


def test_row_is_retried_with_one_setting_after_the_other(
    run: Run, add: Callable[..., Path], folder: Path, out: Path, sample: Mnist
) -> None:
    images = [image.tobytes() for image in sample.test.images[:6]]
    columns = {name: [b"x"] * 6 for name in ("image", "one", "two")}
    columns["one"][:2], columns["two"][:4] = images[:2], images[:4]
    pq.write_table(pa.table(columns), folder / "0.parquet")
    add(1)
    first = run()

    figures = [run(retry_quarantine=True, image_column=name) for name in ("one", "two", "one")]

    assert accounts(first, *figures) == [(6, 7), (8, 5), (10, 3), (10, 3)]
    for lost in sorted((out / "predictions").iterdir()):
        before = pq.read_table(out / "predictions").sort_by("source_row").to_pylist()
        lost.unlink()
        assert accounts(run()) == [(10, 3)]
        assert pq.read_table(out / "predictions").sort_by("source_row").to_pylist() == before


@pytest.mark.parametrize("table", ["predictions", "quarantine", "_review"])
def test_lost_file_of_a_retry_is_made_again_by_the_next_command(
    run: Run, retried: dict[str, bytes], out: Path, table: str
) -> None:
    for file in sorted((out / table).iterdir()):
        file.unlink()

        assert accounts(run()) == [(13, 1)]

        now = untimed_contents(out)
        assert {name for name in retried if "part-" in name} <= now.keys()
        assert all(data == now[name] for name, data in retried.items() if "predictions/" in name)
        assert pending(out) == []


def test_changed_file_of_a_retry_is_replaced_by_sync_and_read_in_both_ways(
    run: Run, retried: dict[str, bytes], add_scans: Callable[[int], Path], out: Path
) -> None:
    os.utime(add_scans(1), ns=(0, 0))
    changed = run(sync=True)
    add_scans(1).unlink()
    removed = run(sync=True)

    assert accounts(changed, removed) == [(13, 1), (6, 1)]
    assert sources(out) == every_row(0)


def test_retry_with_growth_reads_both(
    run: Run, retried: dict[str, bytes], add: Callable[..., Path],
    add_scans: Callable[[int], Path], out: Path,
) -> None:  # fmt: skip
    add(2)
    add_scans(3)

    grown = run(**SCAN)

    assert accounts(grown, run()) == [(26, 2), (26, 2)]
    assert sources(out) == every_row(0, 1, 2, 3)
