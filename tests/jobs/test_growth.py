"""The same command on an input that has grown since the last one."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd.digits.dataset import Mnist
from nanograd.errors import DataError, OutputExistsError, StorageError
from nanograd.images import reader
from nanograd.jobs import predict as predict_parts
from nanograd.jobs.job import Job, run_job
from nanograd.jobs.part import Part, run_local
from nanograd.jobs.predict import PredictWork
from nanograd.jobs.receipts import Receipt
from nanograd.models import model as model_io
from tests.helpers.folders import untimed_contents
from tests.helpers.growth import FILE_ROWS, Run, every_row, runs, sources
from tests.helpers.models import some_model

Planned = Callable[[], tuple[Job, PredictWork]]


def test_new_file_is_the_only_one_read(
    run: Run, add: Callable[..., Path], out: Path, messages: list[str]
) -> None:
    for number in range(10):
        add(number)
    run()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("part-*")}
    add(10)

    figures = run()

    after = {path: path.stat().st_mtime_ns for path in out.rglob("part-*")}
    assert "10 of 11 parts are done already" in messages
    assert before.items() <= after.items()
    assert len(after) == len(before) + 3
    assert sources(out) == every_row(*range(11))
    assert (figures["rows"], figures["files"]) == (77, 11)
    assert runs(out) == [10, 1]
    assert json.loads((out / "_summary.json").read_text())["rows"] == 77
    assert "77" in (out / "report.html").read_text()


def test_output_that_grew_equals_one_made_at_once_but_for_its_runs(
    run: Run, add: Callable[..., Path], out: Path
) -> None:
    for number in range(5):
        add(number)
        run()
    grown = untimed_contents(out)
    grown_runs = runs(out)
    run(overwrite=True)

    again = untimed_contents(out)
    assert (grown_runs, runs(out)) == ([1] * 5, [5])
    assert {name: data for name, data in grown.items() if name != "_manifest.json"} == {
        name: data for name, data in again.items() if name != "_manifest.json"
    }


def test_nothing_to_do_starts_no_ray(
    run: Run, add: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    add(0)
    first = run()
    monkeypatch.setitem(sys.modules, "nanograd.distributed.cluster", None)

    again = run(workers=2)

    assert again["rows"] == first["rows"]
    with pytest.raises(ImportError):
        run(workers=2, overwrite=True)


def test_killed_command_whose_input_grows_is_completed_by_the_next(
    run: Run, add: Callable[..., Path], out: Path, planned: Planned
) -> None:
    for number in range(3):
        add(number)
    run()
    for number in range(3, 6):
        add(number)
    job, work = planned()
    done: list[Receipt] = []

    def fail_after_one(part: Part) -> Receipt:
        if done:
            raise StorageError("the disk is full")
        done.append(work(part))
        return done[0]

    with pytest.raises(StorageError):
        run_job(job, run_local(fail_after_one))
    add(6)
    run()

    assert sources(out) == every_row(*range(7))
    assert runs(out) == [3, 4]


@pytest.mark.parametrize("what", ["model_sha256", "revision"])
def test_other_model_or_revision_is_refused_whatever_the_input(
    run: Run, add: Callable[..., Path], out: Path, model: str, monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:  # fmt: skip
    add(0)
    run()
    add(1)
    before = untimed_contents(out)
    if what == "revision":
        monkeypatch.setattr(predict_parts, "REVISION", predict_parts.REVISION + 1)
    else:
        model_io.save(some_model(loss="mse"), model)

    for settings in ({"sync": True}, {"dry_run": True}):
        with pytest.raises(OutputExistsError, match=rf"\(other {what}\)"):
            run(**settings)

    assert untimed_contents(out) == before


def test_output_changed_while_a_job_was_planned_is_refused(
    run: Run, add: Callable[..., Path], out: Path, folder: Path, planned: Planned
) -> None:
    add(0)
    run()
    add(1)
    job, work = planned()
    (folder / "00001.parquet").unlink()
    add(2)
    run()
    before = untimed_contents(out)

    with pytest.raises(OutputExistsError, match="changed by another command"):
        run_job(job, run_local(work))

    assert untimed_contents(out) == before


@pytest.mark.parametrize("when", ["before", "in"])
@pytest.mark.parametrize("rows", [2, FILE_ROWS, 2 * FILE_ROWS])
def test_file_rewritten_after_planning_ends_the_job(
    run: Run, add: Callable[..., Path], planned: Planned, monkeypatch: pytest.MonkeyPatch,
    when: str, rows: int,
) -> None:  # fmt: skip
    file = add(0)
    job, work = planned()
    read_rows = reader.read_rows

    def rewrite(*what: Any) -> Iterator[Any]:
        yield from [next(read_rows(*what))] if what else []
        add(50, file.name, rows)
        os.utime(file, ns=(0, 0))

    with monkeypatch.context() as patch:
        if when == "in":
            patch.setattr(reader, "read_rows", rewrite)
        else:
            list(rewrite())
        with pytest.raises(DataError, match=rf"{file.name} was changed after the job began"):
            run_job(job, run_local(work))

    assert run()["rows"] == rows


@pytest.mark.parametrize("limit", [1, 6, 7, 8, 20, 100])
def test_limit_reads_the_first_rows(
    run: Run, add: Callable[..., Path], out: Path, limit: int
) -> None:
    for number in range(3):
        add(number)

    figures = run(limit=limit)

    assert figures["rows"] == min(limit, 21)
    assert (
        sources(out) == every_row(0, 1, 2)[:limit] if limit > 6 else figures["predicted"] == limit
    )
    with pytest.raises(OutputExistsError, match=r"other limit"):
        run()


def test_dry_run_writes_nothing_and_knows_what_is_left(
    run: Run, add: Callable[..., Path], out: Path
) -> None:
    add(0)
    add(1)
    fresh = run(dry_run=True)
    nothing = not out.exists()
    run()
    before = untimed_contents(out)
    complete = run(dry_run=True)
    add(2)
    grown = run(dry_run=True)

    assert nothing
    assert untimed_contents(out) == before
    names = ("files", "new_files", "parts", "parts_to_do", "rows_to_do")
    assert [fresh[name] for name in names] == [2, 2, 2, 2, 14]
    assert [complete[name] for name in names] == [2, 0, 2, 0, 0]
    assert [grown[name] for name in names] == [3, 1, 3, 1, 7]
    assert grown["columns"] == {
        "images in image (binary; by its name), labels in label (uint8; by its name)": 1
    }


def test_dry_run_says_why_columns_are_chosen(run: Run, folder: Path, sample: Mnist) -> None:
    images = [image.tobytes() for image in sample.test.images[:3]]
    about = {"info": {"features": {"raw": {"_type": "Image"}}}}
    tables = {
        "a": pa.table({"raw": images, "image": images}).replace_schema_metadata(
            {"huggingface": json.dumps(about)}
        ),
        "b": pa.table({"scan": images, "digit": [1, 2, 3]}),
        "c": pa.table({f"pixel{number}": [0, 1, 255] for number in range(784)}),
        "d": pa.table({"text": ["x"]}),
    }
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")

    columns = run(dry_run=True)["columns"]

    assert list(columns.values()) == [1] * 4
    named = list(columns)
    assert named[0].startswith("images in raw (binary; declared by Hugging Face's metadata), no la")
    assert named[1].startswith("images in scan (binary; the only column that can hold images)")
    assert named[2].startswith("images in pixel0 to pixel783 (784 columns of pixels)")
    assert named[3].startswith("no image column is recognised among text")
