"""Limits of what may be lost: files, rows, and all of them, in what a command adds."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nanograd.commands import predict
from nanograd.errors import DataError
from tests.helpers.folders import untimed_contents
from tests.helpers.growth import FILE_ROWS, Run, every_row, sources

GOOD = FILE_ROWS - 1


def cut(file: Path) -> bytes:
    """Cut a file short; return what it was."""
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    return whole


@pytest.mark.parametrize("grows", [False, True])
def test_lost_files_end_the_job_once_the_rest_is_done(
    run: Run, add: Callable[..., Path], out: Path, grows: bool
) -> None:
    if grows:
        add(20)
        run()
    before = untimed_contents(out)
    files = [add(number) for number in range(10)]
    whole = [cut(file) for file in files[::2]]

    for _ in range(2):
        with pytest.raises(DataError, match=rf"5 of 10 files .*{files[0]}.*--max-broken-files 5"):
            run(max_error_rate=0.5, max_broken_files=4)
    stage = out / "_next" if grows else out
    done = pq.read_table(stage / "predictions").num_rows
    lost = pq.read_table(stage / "quarantine")["source_row"].null_count
    complete = untimed_contents(out)
    for file, data in zip(files[::2], whole, strict=True):
        file.write_bytes(data)
    figures = run()

    assert (done, lost) == (5 * GOOD, 5)
    assert before.items() <= complete.items()
    assert ("_SUCCESS" in complete) == grows
    assert figures["rows"] == FILE_ROWS * (11 if grows else 10)
    assert sources(out) == every_row(*range(10), *([20] if grows else []))
    assert (out / "_SUCCESS").exists()


def test_accepted_loss_is_counted_apart_from_rows(
    run: Run, add: Callable[..., Path], out: Path, folder: Path, model: str
) -> None:
    cut(add(0))
    add(1)
    add(2)

    figures = run(max_broken_files=1)
    again = predict(folder, model=model, output=out)

    assert figures["rows"] == figures["predicted"] + figures["quarantined"] == 2 * FILE_ROWS
    assert sum(figures["reasons"].values()) == figures["quarantined"] == 2
    assert (figures["broken_files"], figures["files"]) == (1, 3)
    assert [(each["files"], each["rows"]) for each in figures["details"]] == [(1, 0), (0, 2)]
    assert (again.rows, again.quarantined, again.broken_files) == (2 * FILE_ROWS, 2, 1)
    report = (out / "report.html").read_text()
    assert "1 of the input files cannot be read" in report
    assert "1 file" in report


def test_loss_that_was_accepted_is_not_counted_again(
    run: Run, add: Callable[..., Path], out: Path
) -> None:
    cut(add(0))
    add(1)
    run(max_broken_files=1)
    add(2)

    figures = run()
    cut(add(3))
    with pytest.raises(DataError, match="1 of 1 files"):
        run()

    assert (figures["rows"], figures["broken_files"]) == (2 * FILE_ROWS, 1)
    assert (out / "_SUCCESS").exists()


def test_repaired_file_is_read_by_retry(run: Run, add: Callable[..., Path], out: Path) -> None:
    file = add(0)
    whole = cut(file)
    add(1)
    run(max_broken_files=1)
    file.write_bytes(whole)

    figures = run(retry_quarantine=True)

    assert (figures["rows"], figures["broken_files"]) == (2 * FILE_ROWS, 0)
    assert sources(out) == every_row(0, 1)


@pytest.mark.parametrize("share", [0.05, 1.0])
def test_limit_of_rows_is_not_diluted_by_what_stands(
    run: Run, add: Callable[..., Path], out: Path, share: float
) -> None:
    """A night of rows that cannot be read, after many that can."""
    for number in range(10):
        file = add(number, rows=90)
        pq.write_table(pq.read_table(file).slice(0, 89), file)
    run()
    night = add(11, rows=30)
    table = pq.read_table(night)
    bad = 10 if share < 1 else 30
    images = [b"no picture"] * bad + table["image"].to_pylist()[: 30 - bad]
    pq.write_table(table.set_column(0, "image", [images]), night)

    before = untimed_contents(out)
    with pytest.raises(DataError, match=rf"{bad} of 30 rows are unusable"):
        run(max_error_rate=share)
    after = untimed_contents(out)

    assert before.items() <= after.items()
    if share < 1:
        assert run(max_error_rate=0.5)["quarantined"] == bad
