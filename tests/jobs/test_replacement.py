"""The replacement of parts of an output: of changed and removed files, and of quarantined rows."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event as StopSignal
from threading import Thread

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd.digits.dataset import Mnist
from nanograd.errors import OutputExistsError
from nanograd.runtime import json_files, storage
from nanograd.runtime.lease import Lease
from tests.helpers.folders import untimed_contents
from tests.helpers.growth import FILE_ROWS, Run, every_row, runs, sources


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


def test_reader_in_a_loop_never_sees_a_row_twice_or_none(
    run: Run, add: Callable[..., Path], out: Path
) -> None:
    for number in range(10):
        add(number)
    run()
    add(10)

    with reading(out) as seen:
        run()

    assert seen <= {(60, 60), (66, 66)}
    assert (out / "_SUCCESS").exists()


@pytest.mark.parametrize("flag", ["sync", "overwrite", "retry_quarantine"])
def test_reader_in_a_loop_sees_replaced_rows_once(
    run: Run, add: Callable[..., Path], out: Path, flag: str
) -> None:
    for number in range(10):
        add(number)
    run()
    before = untimed_contents(out)
    for number in range(5) if flag == "sync" else ():
        os.utime(add(number + 20, f"{number:05d}.parquet"), ns=(0, 0))

    settings = {"keep": ("label",)} if flag == "overwrite" else {"polarity": "light-on-dark"}
    with reading(out, may_fail=True) as seen:
        run(**{flag: True}, **({} if flag == "sync" else settings))

    after = untimed_contents(out)
    assert seen == {(60, 60)}
    predictions = [{n for n in each if n.startswith("predictions/")} for each in (before, after)]
    assert predictions[0] == predictions[1]
    assert sum(before[name] != after[name] for name in before if "predictions/" in name) == {
        "sync": 5, "overwrite": 10, "retry_quarantine": 0
    }[flag]  # fmt: skip
    assert sources(out) == every_row(*range(10))
    assert not (out / "_next").exists()


def test_folder_keeps_a_table_when_the_part_that_wrote_it_is_dropped(
    run: Run, add: Callable[..., Path], folder: Path, out: Path
) -> None:
    for number in range(3):
        file = add(number)
        pq.write_table(pq.read_table(file).slice(0, FILE_ROWS - 1), file)
    run()
    assert pq.read_table(out / "quarantine").num_rows == 0
    (folder / "00000.parquet").unlink()

    figures = run(sync=True)

    assert figures["rows"] == 2 * (FILE_ROWS - 1)
    assert pq.read_table(out / "quarantine").num_rows == 0


@pytest.mark.parametrize("rows", [FILE_ROWS, FILE_ROWS + 5, FILE_ROWS - 5])
def test_changed_file_is_named_and_replaced_by_sync(
    run: Run, add: Callable[..., Path], out: Path, rows: int
) -> None:
    add(0)
    file = add(1)
    run()
    before = untimed_contents(out)
    add(30, file.name, rows)
    os.utime(file, ns=(0, 0))

    with pytest.raises(OutputExistsError, match=rf"1 input files .*{file.name}; .*--sync"):
        run()
    unchanged = untimed_contents(out) == before
    figures = run(sync=True)

    assert unchanged
    assert sources(out) == [*every_row(0), *(("00001", row) for row in range(rows))]
    assert (figures["rows"], runs(out)) == (FILE_ROWS + rows, [1, 1])
    assert len(list((out / "_receipts").iterdir())) == 2


def test_removed_file_keeps_its_rows_until_sync(
    run: Run, add: Callable[..., Path], out: Path, messages: list[str]
) -> None:
    add(0)
    file = add(1)
    run()
    file.unlink()
    add(2)

    kept = run()
    rows = sources(out)
    dropped = run(sync=True)

    assert any("1 input files" in text and "--sync drops them" in text for text in messages)
    assert (rows, kept["rows"]) == (every_row(0, 1, 2), 21)
    assert (sources(out), dropped["rows"]) == (every_row(0, 2), 14)
    assert f"--sync drops those of removed input files: 1, such as {file}" in messages
    assert runs(out) == [1, 1]


@pytest.mark.parametrize("sync", [False, True])
def test_retry_keeps_the_rows_of_removed_files_until_sync(
    run: Run, add: Callable[..., Path], folder: Path, out: Path, messages: list[str], sync: bool
) -> None:
    file = add(0)
    add(1)
    run()
    file.unlink()

    retried = run(retry_quarantine=True, sync=sync)

    assert sources(out) == (every_row(1) if sync else every_row(0, 1))
    assert retried["rows"] == (7 if sync else 14)
    assert any("1 input files" in text for text in messages) is not sync


def test_replacement_stops_once_another_process_holds_the_output(
    run: Run, add: Callable[..., Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        add(number)
    run()
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
        run(overwrite=True)
    monkeypatch.undo()
    added = len(moved)
    again = run(overwrite=True)

    assert added == 2
    assert (sources(out), again["rows"]) == (every_row(0, 1, 2, 3), 28)


def test_sync_of_many_small_files_replaces_one_part(
    run: Run, add: Callable[..., Path], out: Path
) -> None:
    files = [add(number, rows=3) for number in range(900)]
    run()
    parts = len(list((out / "predictions").iterdir()))
    files[5].unlink()
    add(930, files[7].name, rows=1)

    figures = run(sync=True)

    assert parts < 10
    assert figures["rows"] == 900 * 3 - 3 - 2
    assert len(sources(out)) == len(set(sources(out))) == figures["rows"]


def test_retry_of_the_quarantine_reads_repaired_pictures(
    run: Run, folder: Path, out: Path, tmp_path: Path, sample: Mnist
) -> None:
    type_ = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for number in range(3):
        rows = [{"bytes": sample.test.images[number].tobytes()}, {"path": f"{number}.png"}]
        pq.write_table(pa.table({"image": pa.array(rows, type_)}), folder / f"{number}.parquet")
    root = tmp_path / "pictures"
    root.mkdir()
    (root / "0.png").write_bytes(sample.test.images[3].tobytes())
    settings = {"image_root": str(root)}
    first = run(**settings)
    kept = {path: path.stat().st_mtime_ns for path in (out / "predictions").iterdir()}
    (root / "1.png").write_bytes(sample.test.images[4].tobytes())

    again = run(**settings)
    retried = run(**settings, retry_quarantine=True)

    now = {path: path.stat().st_mtime_ns for path in (out / "predictions").iterdir()}
    figures = [(each["predicted"], each["quarantined"]) for each in (first, again, retried)]
    assert figures == [(4, 2), (4, 2), (5, 1)]
    assert kept.items() < now.items()
    assert len(sources(out)) == 6


def test_retry_with_other_settings_reads_only_the_rows_of_the_quarantine(
    run: Run, add: Callable[..., Path], folder: Path, out: Path, sample: Mnist
) -> None:
    add(0)
    images = [image.tobytes() for image in sample.test.images[:FILE_ROWS]]
    table = pa.table({"scan": images, "image": [b"x"] * FILE_ROWS})
    pq.write_table(table, folder / "00001.parquet")
    first = run()
    kept = pq.read_table(out / "predictions")

    retried = run(retry_quarantine=True, image_column="scan", label_column="none")
    again = run()
    add(2)
    grown = run()

    figures = [(each["predicted"], each["quarantined"]) for each in (first, retried, again, grown)]
    assert figures == [(6, 8), (13, 1), (13, 1), (19, 2)]
    assert first["labelled"] == retried["labelled"] == 6
    assert set(kept.to_pylist()[0]) == set(pq.read_table(out / "predictions").column_names)
    assert all(row in pq.read_table(out / "predictions").to_pylist() for row in kept.to_pylist())
    receipts = json_files.read_manifest(f"{out}/_manifest.json")["receipts"]
    readings = [each["reading"] for each in receipts if each["reading"]]
    assert [(depth, options["image_column"]) for depth, options in readings] == [(1, "scan")] * 2
    with pytest.raises(OutputExistsError, match=r"another job \(other image_column\)"):
        run(image_column="scan")
    for change in ({"format": "csv"}, {"keep": ("label",)}, {"no_probabilities": True}):
        with pytest.raises(OutputExistsError, match="another job"):
            run(retry_quarantine=True, **change)
