"""Limits of what may be lost: files, rows, and all of them, in what a command adds."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nanograd.errors import DataError
from tests.helpers.folders import as_nobody, untimed_contents
from tests.helpers.growth import FILE_ROWS, every_row, sources
from tests.helpers.image_columns import PICTURE
from tests.helpers.ingests import ingest, read_quarantine
from tests.jobs.conftest import Case

GOOD = FILE_ROWS - 1


def cut(file: Path) -> bytes:
    """Cut a file short; return what it was."""
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    return whole


@pytest.mark.parametrize("grows", [False, True])
def test_lost_files_end_the_job_once_the_rest_is_done(case, grows):
    if grows:
        case.add(20)
        case.run()
    before = untimed_contents(case.out)
    files = case.fill(10)
    whole = [cut(file) for file in files[::2]]

    for _ in range(2):
        with pytest.raises(DataError, match=rf"5 of 10 files .*{files[0]}.*--max-broken-files 5"):
            case.run(max_error_rate=0.5, max_broken_files=4)
    stage = case.out / "_next" if grows else case.out
    done = pq.read_table(stage / "predictions").num_rows
    lost = pq.read_table(stage / "quarantine")["source_row"].null_count
    complete = untimed_contents(case.out)
    for file, data in zip(files[::2], whole, strict=True):
        file.write_bytes(data)
    figures = case.run()

    assert (done, lost) == (5 * GOOD, 5)
    assert before.items() <= complete.items()
    assert ("_SUCCESS" in complete) == grows
    assert figures["rows"] == FILE_ROWS * (11 if grows else 10)
    assert sources(case.out) == every_row(*range(10), *([20] if grows else []))
    assert (case.out / "_SUCCESS").exists()


@contextmanager
def without_permission(*files: Path) -> Iterator[None]:
    """Let this process, even as root, not read some files inside a with block."""
    for file in files:
        file.chmod(0)
    with as_nobody():
        yield
    for file in files:
        file.chmod(0o644)


def test_files_without_permission_end_the_job_once_the_rest_is_done(sample):
    with tempfile.TemporaryDirectory() as folder:
        case = Case(Path(folder), Path(folder, "out"), sample)
        for place in (Path(folder), case.folder):
            place.chmod(0o777)
        pixels = ",".join(f"pixel{number}" for number in range(784))
        csv = case.write("b.csv", f"{pixels}\n{','.join(['1'] * 784)}\n".encode())
        files = [case.add(0), csv, case.folder / "scans.zip"]
        case.add(1)
        with ZipFile(files[-1], "w") as archive:
            archive.writestr("7.png", b"no picture")
        inputs, rows = [case.folder, csv], case.folder.parent / "rows"
        figures = case.run(*inputs, output=f"{folder}/before")

        with without_permission(*files):
            with pytest.raises(DataError, match=r"3 of 4 files cannot be read .*no_permission"):
                case.run(*inputs)
            with pytest.raises(DataError, match=rf"1 of 1 files .*the first: {files[-1]}"):
                ingest(rows, case.folder)
        lost = [(*each, "no_permission") for each in ((file.name, None) for file in files)]
        assert [each for each in case.quarantine() if each[1] is None] == lost
        assert [row["reason"] for row in read_quarantine(rows)] == ["no_permission"]
        again = case.run(*inputs)
        assert [again[name] for name in ("rows", "reasons")] == [
            figures[name] for name in ("rows", "reasons")
        ]
        # A picture that loses its permission keeps its row.
        picture = case.folder / "7_0.png"
        Image.fromarray(sample.test.images[0].reshape(28, 28)).save(picture)
        grown = case.run(*inputs)
        with without_permission(picture):
            kept = [case.run(*inputs, sync=each) for each in (False, True)]
        assert [each["predicted"] for each in kept] == [grown["predicted"]] * 2


def test_accepted_loss_is_counted_apart_from_rows(case):
    file = case.add(0)
    whole = cut(file)
    case.add(1)

    figures = case.run(max_broken_files=1)
    report = (case.out / "report.html").read_text()
    case.add(2)
    again = case.run()  # what was accepted is not counted again
    cut(case.add(3))
    with pytest.raises(DataError, match="1 of 1 files"):
        case.run()
    with pytest.raises(DataError, match="2 of 4 files"):  # also the file that it reads again
        case.run(max_broken_files=1, retry_quarantine=True)
    file.write_bytes(whole)
    repaired = case.run(max_broken_files=1, retry_quarantine=True)

    assert figures["rows"] == figures["predicted"] + figures["quarantined"] == FILE_ROWS
    assert sum(figures["reasons"].values()) == figures["quarantined"] == 1
    assert (figures["broken_files"], figures["files"]) == (1, 2)
    assert [(each["files"], each["rows"]) for each in figures["details"]] == [(1, 0), (0, 1)]
    assert "1 of the input files cannot be read" in report
    assert (again["rows"], again["quarantined"], again["broken_files"]) == (2 * FILE_ROWS, 2, 1)
    assert (repaired["rows"], repaired["broken_files"]) == (3 * FILE_ROWS, 1)
    assert [row for row in sources(case.out) if row[1] is not None] == every_row(0, 1, 2)


@pytest.mark.parametrize("share", [0.05, 1.0])
def test_limit_of_rows_is_not_diluted_by_what_stands(case, share):
    """A night of rows that cannot be read, after many that can."""
    for number in range(10):
        file = case.add(number, rows=90)
        pq.write_table(pq.read_table(file).slice(0, 89), file)
    case.run()
    night = case.add(11, rows=30)
    table = pq.read_table(night)
    bad = 10 if share < 1 else 30
    images = [b"no picture"] * bad + table["image"].to_pylist()[: 30 - bad]
    pq.write_table(table.set_column(0, "image", [images]), night)

    before = untimed_contents(case.out)
    staged = rf"{bad} of 30 rows are unusable.* see .*/_next/quarantine"
    with pytest.raises(DataError, match=staged):
        case.run(max_error_rate=share)
    assert len(pq.read_table(case.out / "_next/quarantine")) == bad
    after = untimed_contents(case.out)

    assert before.items() <= after.items()
    if share < 1:
        assert case.run(max_error_rate=0.5)["quarantined"] == bad


@pytest.mark.parametrize("lost", ["broken", "of another schema"])
def test_retry_of_a_file_that_is_still_unusable_ends_with_an_error(case, lost):
    whole = pq.read_table(case.add(0)).slice(0, GOOD)
    case.write("00000.parquet", whole)  # no row of it is quarantined
    file = case.write("1.parquet", {"id": [1, 2]})
    if lost == "broken":
        cut(file)
    before = case.run(max_broken_files=1)

    for _ in range(2):
        with pytest.raises(DataError, match=f"of . (files|rows) .*{file.name}"):
            case.run(retry_quarantine=True, max_error_rate=0.5)

    assert case.run()["reasons"] == before["reasons"]


def test_rows_read_again_are_not_blamed_for_new_rows_that_fail(case):
    case.add(0)
    case.run()
    new = case.write("z.parquet", {"image": [b"no picture"] * 2})

    with pytest.raises(DataError, match=rf"2 of 2 rows are unusable.*{new.name}"):
        case.run(retry_quarantine=True)


@pytest.mark.parametrize(("root", "words"), [(None, "no_bytes: the row has a"), (".", "no_file: ")])
def test_most_frequent_reason_is_named_whatever_the_paths_of_the_rows(case, root, words):
    paths = [{"path": f"{number}.png"} for number in range(12)]
    case.write("rows.parquet", {"image": pa.array([{}, *paths, {}], PICTURE)})

    with pytest.raises(DataError, match=rf"14 of 14 rows .*most often {words}.*first: 0.png"):
        case.run(image_root=root)


def test_command_without_a_usable_row_works_once_pictures_or_settings_are_right(case, tmp_path):
    case.write("rows.parquet", {"image": pa.array([{"path": "7.png"}] * 2, PICTURE)})
    wrong = {"image_root": str(tmp_path / "root"), "normalise": "never"}

    Path(wrong["image_root"]).mkdir()
    for _ in range(2):
        with pytest.raises(DataError, match=r"2 of 2 rows are unusable .*no_file"):
            case.run(**wrong)
    picture = Image.fromarray(case.digits.images[0].reshape(28, 28)).resize((56, 56))
    picture.save(tmp_path / "root" / "7.png")
    with pytest.raises(DataError, match=r"wrong_shape.*change the settings and add --overwrite"):
        case.run(**wrong)
    right = case.run(**{**wrong, "normalise": "auto"}, overwrite=True)

    assert (right["rows"], right["predicted"]) == (2, 2)
