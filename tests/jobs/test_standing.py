"""What stands in an output is held against the receipts before it is called complete."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import nanograd
from nanograd.errors import DataError, OutputExistsError, StorageError
from nanograd.images.writers import write_pictures
from nanograd.jobs import predict as predict_parts
from nanograd.jobs.job import run_job
from nanograd.jobs.part import Part, run_local
from nanograd.jobs.receipts import Receipt
from nanograd.models import model as model_io
from nanograd.runtime import json_files, storage
from tests.helpers.folders import as_nobody, untimed_contents
from tests.helpers.growth import FILE_ROWS, every_row, sources, unlisted
from tests.helpers.ingests import ingest
from tests.jobs.conftest import Case


def first(out: Path, folder: str) -> Path:
    return min(file for file in (out / folder).rglob("part-*"))


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


TABLES = ("predictions", "quarantine", "_review")
THEN: dict[str, dict[str, Any]] = {
    "again": {}, "grow": {}, "retry": {"retry_quarantine": True}, "sync": {"sync": True}
}  # fmt: skip


@pytest.fixture
def grown(case: Case) -> dict[str, Any]:
    case.fill(3)
    return case.run()


DAMAGES: list[Any] = [
    *[(then, delete, table, {}) for then in THEN for table in TABLES],
    *[("again", damage, table, {}) for damage in (cut, change) for table in TABLES],
    *[(then, change, "predictions", {"partition_by": ("label",)}) for then in THEN],
    *[(then, cut, "quarantine", {"format": "csv"}) for then in THEN],
]


@pytest.mark.parametrize("damage", [delete, cut, change])
@pytest.mark.parametrize("name", ["_summary.json", "quarantine"])
@pytest.mark.parametrize("images", [[], [b"no picture"] * 3])
def test_summary_and_quarantine_without_a_prediction_are_made_again(case, images, name, damage):
    case.write("good.parquet", {"image": [each.tobytes() for _, each in case.some(3)]})
    case.write("bad.parquet", {"image": pa.array(images, pa.binary())})
    case.run()
    before = untimed_contents(case.out)
    damage(first(case.out, name) if name == "quarantine" else case.out / name)

    case.run(verify=damage is change)

    again = untimed_contents(case.out)
    is_rerun = again.pop("_manifest.json") != before.pop("_manifest.json")  # its runs
    assert is_rerun == (name == "quarantine" and images != [])
    assert again == before


@pytest.mark.parametrize(("then", "damage", "table", "settings"), DAMAGES)
def test_lost_or_cut_file_is_made_again(case, then, damage, table, settings):
    case.fill(3)
    case.run(**settings)
    before = untimed_contents(case.out)
    damage(first(case.out, table))
    if then == "grow":
        case.add(3)
    if damage is change:  # it keeps size and time
        case.run(**settings)
        assert not any("damaged" in text for text in case.messages)

    figures = case.run(**settings, **THEN[then], verify=damage is change)

    numbers = range(4 if then == "grow" else 3)
    assert figures["rows"] == FILE_ROWS * len(numbers)
    assert any("missing or damaged" in text for text in case.messages)
    again = untimed_contents(case.out)
    if then == "retry":  # rows of quarantine are in other files, with the same content
        before = {name: data for name, data in before.items() if name.startswith("predictions/")}
    if then != "grow":
        before.pop("_manifest.json", None)  # its runs
        assert before.items() <= again.items()
    assert (case.out / "_SUCCESS").exists()
    assert not (case.out / "_next").exists()
    if not settings:
        assert sources(case.out) == every_row(*numbers)


def test_complete_output_without_write_permission_repeats_its_result(sample):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        case = Case(Path(folder), Path(folder, "out"), sample)
        case.fill(2)
        figures, before = case.run(), untimed_contents(case.out)
        case.out.chmod(0o555)

        with as_nobody():
            again = case.run()
            assert untimed_contents(case.out) == before
        case.add(2)  # needs a writable output
        with as_nobody(), pytest.raises(StorageError, match=f"cannot write {case.out}: "):
            case.run()

        case.out.chmod(0o755)
    assert again["reasons"] == figures["reasons"]
    assert (again["rows"], again["predicted"]) == (14, 12)


def test_manifest_in_the_working_directory_is_not_read(case, monkeypatch):
    case.fill(1)
    (case.folder.parent / "_manifest.json").write_text("of another program")
    monkeypatch.chdir(case.folder.parent)

    assert case.run()["rows"] == FILE_ROWS


@pytest.mark.parametrize("is_removed", [False, True])
def test_output_without_its_manifest_is_made_again_by_overwrite(case, is_removed):
    case.fill(3)
    case.run()
    before, manifest = untimed_contents(case.out), case.out / "_manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:100])
    if is_removed:
        manifest.unlink()

    with pytest.raises((DataError, OutputExistsError), match=r"restore it or replace.*--overwrite"):
        case.run()
    case.folder.joinpath("00000.parquet").unlink()  # so its part has no new version
    case.run(overwrite=True)

    after = untimed_contents(case.out)
    assert sources(case.out) == every_row(1, 2)
    assert {name for name in before if before[name] == after.get(name)} >= {"_SUCCESS"}


@pytest.mark.parametrize(
    ("name", "then"),
    [
        ("predictions/extra.parquet", "again"),
        ("predictions/part-0123456789abcdef.parquet", "grow"),
        ("predictions/a/b.parquet", "retry"),
        ("quarantine/notes.txt", "grow"),
        ("_review/x.parquet", "again"),
    ],
)
def test_foreign_file_is_named_until_it_is_gone(case, grown, name, then):
    harmless = ("notes.txt", "predictions/.nfs0001", "plots/a.png")  # no reader takes them for rows
    for each in (name, *harmless):
        storage.commit(f"{case.out}/{each}", b"dear")
    if then == "grow":
        case.add(3)

    for _ in range(2):
        words = rf"1 file .*did not write, such as '{name}'"
        case.refuse(OutputExistsError, words, **THEN[then])
    (case.out / name).unlink()
    figures = case.run(**THEN[then])

    assert figures["rows"] == FILE_ROWS * (4 if then == "grow" else 3)
    assert (case.out / "_SUCCESS").exists()
    assert all((case.out / each).read_bytes() == b"dear" for each in harmless)


def test_lost_file_whose_input_is_gone_is_an_error_until_sync(case, grown):
    lost = first(case.out, "predictions")
    receipts = json_files.read_manifest(f"{case.out}/_manifest.json")["receipts"]
    [source] = [
        each["inputs"][0] for each in receipts if f"predictions/{lost.name}" in each["files"]
    ]
    lost.unlink()
    Path(source).unlink()

    with pytest.raises(DataError, match=r"missing or damaged.*--sync"):
        case.run()
    figures = case.run(sync=True)

    assert figures["rows"] == 2 * FILE_ROWS
    assert (case.out / "_SUCCESS").exists()


def damaging(work: Callable[[Part], Receipt], act: Callable[[], None], after: int) -> Any:
    done: list[Receipt] = []

    def run_part(part: Part) -> Receipt:
        done.append(work(part))
        if len(done) == after:
            act()
        return done[-1]

    return run_local(run_part)


@pytest.mark.parametrize(("when", "where"), [("first", ""), ("growth", ""), ("growth", "_next/")])
@pytest.mark.parametrize("damage", [delete, cut])
def test_file_lost_during_a_run_is_74_and_the_next_command_repeats_its_part(
    case, when, where, damage
):
    case.fill(3)
    if when == "growth":
        case.run()
        for number in range(3, 6):
            case.add(number)
    job, work = case.plan()

    with pytest.raises(StorageError, match=r"1 file .*removed or cut.*same command again"):
        run_job(job, damaging(work, lambda: damage(first(case.out, f"{where}predictions")), 2))
    complete = (case.out / "_SUCCESS").exists()
    listed = not complete or not unlisted(case.out)
    figures = case.run()

    assert listed
    assert not (complete and where == "")
    assert figures["rows"] == FILE_ROWS * (3 if when == "first" else 6)
    assert sources(case.out) == every_row(*range(3 if when == "first" else 6))
    assert (case.out / "_SUCCESS").exists()


def test_ingested_file_that_is_lost_is_made_again_and_a_foreign_one_named(tmp_path, sample):
    write_pictures(sample.test.take(slice(0, 30)), str(tmp_path / "png"))
    rows = tmp_path / "rows"
    ingest(rows, tmp_path / "png", part_rows=10)
    before = untimed_contents(rows)
    min(rows.glob("part-*")).unlink()

    figures = ingest(rows, tmp_path / "png", part_rows=10)

    assert figures["rows"] == 30
    del before["_manifest.json"]
    assert before.items() <= untimed_contents(rows).items()
    (rows / "other.parquet").write_bytes(b"")
    with pytest.raises(OutputExistsError, match=r"other\.parquet"):
        ingest(rows, tmp_path / "png", part_rows=10)


@pytest.mark.parametrize("settings", [{}, {"partition_by": ("label",)}, {"rows_per_file": 2}])
def test_parquet_file_that_is_copied_elsewhere_says_what_made_it(case, settings):
    case.add(0)
    case.run(**settings)

    for file in (path for path in case.out.rglob("*.parquet") if path.parent.name != "_review"):
        made = pq.read_metadata(file).metadata
        assert made[b"nanograd.model_sha256"].decode() == model_io.load(case.model).sha256()
        assert made[b"nanograd.version"].decode() == nanograd.__version__
        assert made[b"nanograd.revision"].decode() == str(predict_parts.REVISION)
