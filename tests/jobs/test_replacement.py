"""The replacement of parts of an output: of changed and removed files, and of quarantined rows."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event as StopSignal
from threading import Thread

import duckdb
import pyarrow.parquet as pq
import pytest

from nanograd.errors import OutputExistsError
from nanograd.runtime import storage
from nanograd.runtime.lease import Lease
from tests.helpers.folders import untimed_contents
from tests.helpers.growth import FILE_ROWS, every_row, runs, sources


@contextmanager
def reading(out: Path, *, may_fail: bool = False) -> Iterator[set[tuple[int, int]]]:
    """Count rows, and distinct ones, in a loop by DuckDB, before, while and after others work.

    DuckDB opens a file twice, and fails if it was replaced between.
    """
    query = "SELECT count(*), count(DISTINCT (source_file, source_row)) FROM read_parquet(?)"
    done, begun, failures = StopSignal(), StopSignal(), list[Exception]()
    seen = set[tuple[int, int]]()

    def read() -> None:
        while not done.is_set():
            try:
                found = duckdb.connect().execute(query, [f"{out}/predictions/*.parquet"])
                seen.add(found.fetchone())
            except duckdb.Error as error:
                failures.append(error)
            begun.set()

    reader = Thread(target=read)
    reader.start()
    assert begun.wait(60)
    yield seen
    done.set()
    reader.join()
    assert may_fail or failures == []


@pytest.mark.parametrize("change", ["growth", "sync", "overwrite", "retry_quarantine"])
def test_reader_in_a_loop_sees_each_row_once(case, change):
    case.fill(10)
    case.run()
    before = untimed_contents(case.out)
    for number in range(5) if change == "sync" else ():
        os.utime(case.add(number + 20, f"{number:05d}.parquet"), ns=(0, 0))
    if change == "growth":
        case.add(10)

    more = {"overwrite": {"keep": ("label",)}, "retry_quarantine": {"polarity": "light-on-dark"}}
    settings = {change: True, **more.get(change, {})} if change != "growth" else {}
    with reading(case.out, may_fail=change != "growth") as seen:
        case.run(**settings)

    after = untimed_contents(case.out)
    assert seen <= {(60, 60), (66, 66)} if change == "growth" else seen == {(60, 60)}
    old = [name for name in before if name.startswith("predictions/")]
    assert sum(before[name] != after[name] for name in old) == {"sync": 5, "overwrite": 10}.get(
        change, 0
    )
    assert sources(case.out) == every_row(*range(11 if change == "growth" else 10))
    assert not (case.out / "_next").exists()


def test_folder_keeps_a_table_when_the_part_that_wrote_it_is_dropped(case):
    for number in range(3):
        file = case.add(number)
        pq.write_table(pq.read_table(file).slice(0, FILE_ROWS - 1), file)
    case.run()
    assert pq.read_table(case.out / "quarantine").num_rows == 0
    (case.folder / "00000.parquet").unlink()

    figures = case.run(sync=True)

    assert figures["rows"] == 2 * (FILE_ROWS - 1)
    assert pq.read_table(case.out / "quarantine").num_rows == 0


@pytest.mark.parametrize("rows", [FILE_ROWS, FILE_ROWS + 5])
def test_changed_file_is_named_and_replaced_by_sync(case, rows):
    case.add(0)
    file = case.add(1)
    case.run()
    case.add(30, file.name, rows)
    os.utime(file, ns=(0, 0))

    case.refuse(OutputExistsError, rf"1 input file .*{file.name}; .*--sync")
    figures = case.run(sync=True)

    assert sources(case.out) == [*every_row(0), *(("00001", row) for row in range(rows))]
    assert (figures["rows"], runs(case.out)) == (FILE_ROWS + rows, [1, 1])
    assert len(list((case.out / "_receipts").iterdir())) == 2


@pytest.mark.parametrize("retry", [False, True])
def test_removed_file_keeps_its_rows_until_sync(case, retry):
    case.add(0)
    file = case.add(1)
    case.run()
    file.unlink()
    case.add(2)

    kept = case.run(retry_quarantine=retry)
    rows = sources(case.out)
    dropped = case.run(sync=True, retry_quarantine=retry)

    assert any("1 input file " in text and "--sync drops them" in text for text in case.messages)
    assert (rows, kept["rows"]) == (every_row(0, 1, 2), 21)
    assert (sources(case.out), dropped["rows"]) == (every_row(0, 2), 14)
    assert f"--sync drops the rows of 1 removed input file, such as {file}" in case.messages
    assert retry or runs(case.out) == [1, 1]


def test_replacement_stops_once_another_process_holds_the_output(case, monkeypatch):
    case.fill(4)
    case.run()
    moved: list[str] = []
    move = storage.move

    def record(source: str, target: str) -> None:
        moved.append(source)
        move(source, target)

    def check(_: Lease) -> None:
        if len(moved) == 2:
            raise OutputExistsError("taken over")

    monkeypatch.setattr(storage, "move", record)
    monkeypatch.setattr(Lease, "check", check)
    with pytest.raises(OutputExistsError):
        case.run(overwrite=True)
    monkeypatch.undo()
    added = len(moved)
    again = case.run(overwrite=True)

    assert added == 2
    assert (sources(case.out), again["rows"]) == (every_row(0, 1, 2, 3), 28)
