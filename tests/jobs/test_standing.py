"""What stands in an output is held against the receipts before it is called complete."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import nanograd
from nanograd import commands
from nanograd.digits.dataset import Mnist
from nanograd.errors import DataError, OutputExistsError, StorageError
from nanograd.images.writers import write_pictures
from nanograd.jobs import predict as predict_parts
from nanograd.jobs.job import Job, run_job
from nanograd.jobs.part import Part, run_local
from nanograd.jobs.predict import PredictWork
from nanograd.jobs.receipts import Receipt
from nanograd.models import model as model_io
from nanograd.runtime import json_files, storage
from nanograd.settings.specs import IngestSpec
from tests.helpers.folders import untimed_contents
from tests.helpers.growth import FILE_ROWS, Run, every_row, sources


def first(out: Path, folder: str) -> Path:
    return min(file for file in (out / folder).rglob("part-*"))


Planned = Callable[[], tuple[Job, PredictWork]]


def delete(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def change(file: Path) -> None:
    """Change a byte and keep size and time."""
    status, data = file.stat(), bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def unlisted(out: Path) -> set[str]:
    """Files of rows that the manifest does not list."""
    receipts = json_files.read_manifest(f"{out}/_manifest.json")["receipts"]
    listed = {name for receipt in receipts for name in receipt["files"]}
    found = {str(file.relative_to(out)) for file in out.glob("[pq]*/**/*") if file.is_file()}
    return found - listed


@pytest.fixture
def grown(run: Run, add: Callable[..., Path]) -> dict[str, Any]:
    """A complete output of three files."""
    for number in range(3):
        add(number)
    return run()


@pytest.mark.parametrize("then", ["again", "grow", "retry", "sync"])
@pytest.mark.parametrize("damage", [delete, cut, change])
@pytest.mark.parametrize("table", ["predictions", "quarantine", "_review"])
@pytest.mark.parametrize("settings", [{}, {"partition_by": ("label",)}, {"format": "csv"}])
def test_lost_or_cut_file_is_made_again(
    run: Run, add: Callable[..., Path], out: Path, messages: list[str],
    then: str, damage: Callable[[Path], None], table: str, settings: dict[str, Any],
) -> None:  # fmt: skip
    for number in range(3):
        add(number)
    run(**settings)
    before = untimed_contents(out)
    damage(first(out, table))
    flags = {"retry": {"retry_quarantine": True}, "sync": {"sync": True}}.get(then, {})
    if damage is change:
        flags = {**flags, "verify": True}
    if then == "grow":
        add(3)

    figures = run(**settings, **flags)

    numbers = range(4 if then == "grow" else 3)
    assert figures["rows"] == FILE_ROWS * len(numbers)
    assert any("missing or damaged" in text for text in messages)
    again = untimed_contents(out)
    if then == "retry":  # rows of quarantine are in other files, with the same content
        before = {name: data for name, data in before.items() if name.startswith("predictions/")}
    if then != "grow":
        before.pop("_manifest.json", None)  # its runs
        assert before.items() <= again.items()
    assert (out / "_SUCCESS").exists()
    assert not (out / "_next").exists()
    if not settings:
        assert sources(out) == every_row(*numbers)


def test_same_size_is_found_only_with_verify(
    run: Run, grown: dict[str, Any], out: Path, messages: list[str]
) -> None:
    change(first(out, "predictions"))
    run()
    trusted = [text for text in messages if "damaged" in text]

    run(verify=True)

    assert trusted == []
    assert any("1 files of" in text and "damaged" in text for text in messages)


@pytest.mark.parametrize("then", ["again", "grow", "retry"])
@pytest.mark.parametrize(
    "name",
    [
        "predictions/extra.parquet",
        "predictions/part-0123456789abcdef.parquet",
        "predictions/a/b.parquet",
        "quarantine/notes.txt",
        "_review/x.parquet",
    ],
)
def test_foreign_file_is_named_until_it_is_gone(
    run: Run, add: Callable[..., Path], grown: dict[str, Any], out: Path, name: str, then: str
) -> None:
    storage.commit(f"{out}/{name}", b"dear")
    if then == "grow":
        add(3)
    before = untimed_contents(out)

    for _ in range(2):
        with pytest.raises(OutputExistsError, match=rf"1 files.*did not write, such as '{name}'"):
            run(retry_quarantine=then == "retry")
    unchanged = untimed_contents(out) == before
    (out / name).unlink()
    figures = run(retry_quarantine=then == "retry")

    assert unchanged
    assert figures["rows"] == FILE_ROWS * (4 if then == "grow" else 3)
    assert (out / "_SUCCESS").exists()


@pytest.mark.parametrize("name", ["notes.txt", "predictions/.nfs0001", "plots/a.png"])
def test_file_that_no_reader_takes_for_rows_does_not_matter(
    run: Run, add: Callable[..., Path], grown: dict[str, Any], out: Path, name: str
) -> None:
    storage.commit(f"{out}/{name}", b"dear")
    add(3)

    figures = run()

    assert figures["rows"] == 4 * FILE_ROWS
    assert (out / name).read_bytes() == b"dear"


def test_lost_file_whose_input_is_gone_is_an_error_until_sync(
    run: Run, grown: dict[str, Any], folder: Path, out: Path
) -> None:
    lost = first(out, "predictions")
    receipts = json_files.read_manifest(f"{out}/_manifest.json")["receipts"]
    [source] = [
        each["inputs"][0] for each in receipts if f"predictions/{lost.name}" in each["files"]
    ]
    lost.unlink()
    Path(source).unlink()

    with pytest.raises(DataError, match=r"missing or damaged.*--sync"):
        run()
    figures = run(sync=True)

    assert figures["rows"] == 2 * FILE_ROWS
    assert (out / "_SUCCESS").exists()


def damaging(work: Callable[[Part], Receipt], act: Callable[[], None], after: int) -> Any:
    done: list[Receipt] = []

    def run_part(part: Part) -> Receipt:
        done.append(work(part))
        if len(done) == after:
            act()
        return done[-1]

    return run_local(run_part)


@pytest.mark.parametrize("when", ["first", "growth"])
@pytest.mark.parametrize("where", ["", "_next/"])
@pytest.mark.parametrize("damage", [delete, cut])
def test_file_lost_during_a_run_is_74_and_the_next_command_repeats_its_part(
    run: Run, add: Callable[..., Path], planned: Planned, out: Path,
    when: str, where: str, damage: Callable[[Path], None],
) -> None:  # fmt: skip
    if when == "first" and where:
        pytest.skip("the first command works at the top")
    for number in range(3):
        add(number)
    if when == "growth":
        run()
        for number in range(3, 6):
            add(number)
    job, work = planned()

    with pytest.raises(StorageError, match=r"1 files were removed or cut.*same command again"):
        run_job(job, damaging(work, lambda: damage(first(out, f"{where}predictions")), 2))
    complete = (out / "_SUCCESS").exists()
    listed = not complete or not unlisted(out)
    figures = run()

    assert listed
    assert not (complete and where == "")
    assert figures["rows"] == FILE_ROWS * (3 if when == "first" else 6)
    assert sources(out) == every_row(*range(3 if when == "first" else 6))
    assert (out / "_SUCCESS").exists()


@pytest.mark.parametrize("damage", [delete, cut])
def test_part_of_a_killed_command_whose_file_is_lost_is_done_again(
    run: Run, add: Callable[..., Path], planned: Planned, out: Path,
    damage: Callable[[Path], None],
) -> None:  # fmt: skip
    for number in range(3):
        add(number)
    job, work = planned()

    def kill() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(job, damaging(work, kill, 2))
    damage(first(out, "predictions"))

    assert run()["rows"] == 3 * FILE_ROWS
    assert sources(out) == every_row(0, 1, 2)


def test_ingested_file_that_is_lost_is_made_again_and_a_foreign_one_named(
    tmp_path: Path, sample: Mnist
) -> None:
    write_pictures(sample.test.take(slice(0, 30)), str(tmp_path / "png"))
    config = IngestSpec(output=str(tmp_path / "rows"), workers=0, part_rows=10)
    commands.ingest([str(tmp_path / "png")], spec=config)
    before = untimed_contents(tmp_path / "rows")
    lost = min((tmp_path / "rows").glob("part-*"))
    lost.unlink()

    figures = commands.ingest([str(tmp_path / "png")], spec=config).to_json()

    assert figures["rows"] == 30
    del before["_manifest.json"]
    assert before.items() <= untimed_contents(tmp_path / "rows").items()
    (tmp_path / "rows" / "other.parquet").write_bytes(b"")
    with pytest.raises(OutputExistsError, match=r"other\.parquet"):
        commands.ingest([str(tmp_path / "png")], spec=config)


@pytest.mark.parametrize("settings", [{}, {"partition_by": ("label",)}, {"rows_per_file": 2}])
def test_parquet_file_that_is_copied_elsewhere_says_what_made_it(
    run: Run, add: Callable[..., Path], out: Path, model: str, settings: dict[str, Any]
) -> None:
    add(0)
    run(**settings)

    for file in (path for path in out.rglob("*.parquet") if path.parent.name != "_review"):
        made = pq.read_metadata(file).metadata
        assert made[b"nanograd.model_sha256"].decode() == model_io.load(model).sha256()
        assert made[b"nanograd.version"].decode() == nanograd.__version__
        assert made[b"nanograd.revision"].decode() == str(predict_parts.REVISION)
