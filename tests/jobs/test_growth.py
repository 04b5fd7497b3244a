"""The same command on an input that has grown since the last one."""

import json
import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from nanograd.errors import DataError, OutputExistsError, StorageError
from nanograd.images import reader
from nanograd.jobs import predict as predict_parts
from nanograd.jobs.job import run_job
from nanograd.jobs.part import Part, run_local
from nanograd.jobs.receipts import Receipt
from nanograd.models import model as model_io
from tests.helpers.folders import untimed_contents
from tests.helpers.growth import FILE_ROWS, every_row, runs, sources
from tests.helpers.image_columns import raw, with_features
from tests.helpers.models import some_model


def test_new_file_is_the_only_one_read(case):
    case.fill(10)
    case.run()
    before = {path: path.stat().st_mtime_ns for path in case.out.rglob("part-*")}
    case.add(10)

    figures = case.run()

    after = {path: path.stat().st_mtime_ns for path in case.out.rglob("part-*")}
    assert "10 of 11 parts are done already" in case.messages
    assert before.items() <= after.items()
    assert len(after) == len(before) + 3
    assert sources(case.out) == every_row(*range(11))
    assert (figures["rows"], figures["files"]) == (77, 11)
    assert runs(case.out) == [10, 1]
    assert json.loads((case.out / "_summary.json").read_text())["rows"] == 77
    assert "77" in (case.out / "report.html").read_text()
    # It equals an output that is made at once, but for its runs.
    grown = untimed_contents(case.out)
    case.run(overwrite=True)
    whole = untimed_contents(case.out)
    assert runs(case.out) == [11]
    assert grown.pop("_manifest.json") != whole.pop("_manifest.json")
    assert grown == whole


def test_new_folders_may_define_other_columns_unless_these_are_kept(case):
    case.add(0)
    case.run()
    case.add(1, "batch=2/1.parquet")
    case.run()
    case.add(2, "batch=two/2.parquet")

    assert case.run()["rows"] == 3 * FILE_ROWS
    case.refuse(OutputExistsError, "other keep: batch", keep=("batch",))


def test_stopped_command_whose_input_grows_is_completed_by_the_next(case):
    case.fill(3)
    case.run()
    for number in range(3, 6):
        case.add(number)
    job, work = case.plan()
    done: list[Receipt] = []

    def fail_after_one(part: Part) -> Receipt:
        if done:
            raise StorageError("the disk is full")
        done.append(work(part))
        return done[0]

    with pytest.raises(StorageError):
        run_job(job, run_local(fail_after_one))
    case.add(6)
    case.run()

    assert sources(case.out) == every_row(*range(7))
    assert runs(case.out) == [3, 4]


@pytest.mark.parametrize("what", ["model", "revision"])
def test_other_model_or_revision_is_refused_whatever_the_input(case, monkeypatch, what):
    case.add(0)
    case.run()
    case.add(1)
    if what == "revision":
        monkeypatch.setattr(predict_parts, "REVISION", predict_parts.REVISION + 1)
    else:
        model_io.save(some_model(), case.model)

    for settings in ({"sync": True}, {"dry_run": True}):
        case.refuse(OutputExistsError, rf"\(other {what.removesuffix('_sha256')}\)", **settings)


def test_output_changed_while_a_job_was_planned_is_refused(case):
    case.add(0)
    case.run()
    added = case.add(1)
    job, work = case.plan()
    added.unlink()
    case.add(2)
    case.run()
    before = untimed_contents(case.out)

    with pytest.raises(OutputExistsError, match="changed by another command"):
        run_job(job, run_local(work))

    assert untimed_contents(case.out) == before


@pytest.mark.parametrize("when", ["before", "in"])
@pytest.mark.parametrize("rows", [2, FILE_ROWS])
def test_file_rewritten_after_planning_ends_the_job(case, monkeypatch, when, rows):
    file = case.add(0)
    job, work = case.plan()
    read_rows = reader.read_rows

    def rewrite(*what: Any) -> Iterator[Any]:
        yield from [next(read_rows(*what))] if what else []
        case.add(50, file.name, rows)
        os.utime(file, ns=(0, 0))

    with monkeypatch.context() as patch:
        if when == "in":
            patch.setattr(reader, "read_rows", rewrite)
        else:
            list(rewrite())
        with pytest.raises(DataError, match=rf"{file.name} was changed after the job began"):
            run_job(job, run_local(work))

    assert case.run()["rows"] == rows


@pytest.mark.parametrize("limit", [1, 7, 8, 100])
def test_limit_reads_the_first_rows(case, limit):
    case.fill(3)

    figures = case.run(limit=limit)

    assert figures["rows"] == min(limit, 21)
    assert (
        sources(case.out) == every_row(0, 1, 2)[:limit]
        if limit > 6
        else figures["predicted"] == limit
    )
    with pytest.raises(OutputExistsError, match=r"other limit"):
        case.run()


def test_dry_run_writes_nothing_and_knows_what_is_left(case):
    case.fill(2)
    fresh = case.run(dry_run=True)
    nothing = not case.out.exists()
    case.run()
    before = untimed_contents(case.out)
    complete = case.run(dry_run=True)
    case.add(2)
    grown = case.run(dry_run=True)

    assert nothing
    assert untimed_contents(case.out) == before
    names = ("files", "new_files", "parts", "parts_to_do", "rows_to_do")
    assert [fresh[name] for name in names] == [2, 2, 2, 2, 14]
    assert [complete[name] for name in names] == [2, 0, 2, 0, 0]
    assert [grown[name] for name in names] == [3, 1, 3, 1, 7]
    assert grown["columns"] == {
        "images in image (binary; by its name), labels in label (uint8; by its name)": 1
    }


def test_dry_run_says_why_columns_are_chosen(case, images):
    declared = pa.table({"raw": raw(images), "image": raw(images)})
    case.write("a.parquet", with_features(declared, raw={"_type": "Image"}))
    case.write("b.parquet", {"scan": raw(images[:3]), "digit": [1, 2, 3]})
    case.write("c.parquet", {f"pixel{number}": [0, 1, 255] for number in range(784)})
    case.write("d.parquet", {"text": ["x"]})

    columns = case.run(dry_run=True)["columns"]

    assert list(columns.values()) == [1] * 4
    for named, words in zip(
        columns,
        ["in raw (binary; declared", "in scan (binary; the only", "pixel0 to pixel783", "text"],
        strict=True,
    ):
        assert words in named
