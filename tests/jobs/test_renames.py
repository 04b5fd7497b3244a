"""Input files under another name, or with another content of the same size and time."""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd.errors import OutputExistsError
from nanograd.images.writers import write_pictures
from tests.helpers.growth import FILE_ROWS, every_row, sources
from tests.helpers.ingests import ingest
from tests.jobs.conftest import Case


def other_content(file: Path) -> None:
    """Write other rows; size and time stay, as with `cp -p` or rsync."""
    status, table = file.stat(), pq.read_table(file)
    order = np.roll(np.arange(len(table)), 1)
    other = file.with_name("other.tmp")
    write(table.take(pa.array(order)), other)
    shutil.copy(other, file)
    other.unlink()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size


def write(table: pa.Table, file: Path) -> None:
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, file, **plain)


@pytest.fixture
def files(case: Case) -> list[Path]:
    found = case.fill(3)
    for file in found:
        table = pq.read_table(file)
        images = [image.ljust(784) for image in table["image"].to_pylist()]
        write(table.set_column(0, "image", [images]), file)
    assert len({file.stat().st_size for file in found}) == 1
    return found


def test_renamed_file_is_named_and_replaced_by_sync(case, files, out):
    case.run()
    new = files[1].rename(files[1].with_name("zz.parquet"))

    for _ in range(2):
        case.refuse(OutputExistsError, rf"1 input file .*{new}, which was {files[1]}")
    files[0].unlink()
    case.refuse(OutputExistsError, "replaces them, and drops those of 1 removed file")
    figures = case.run(sync=True)

    assert figures["rows"] == 2 * FILE_ROWS
    assert {name for name, _ in sources(out)} == {"00002", "zz"}


@pytest.mark.parametrize("original", ["gone", "there"])
def test_new_file_of_the_size_of_another_is_read(case, files, original):
    case.run()
    if original == "gone":
        other_content(files[1])
        files[1].rename(files[1].with_name("zz.parquet"))
    else:
        shutil.copy2(files[1], files[1].with_name("zz.parquet"))

    assert case.run()["rows"] == 4 * FILE_ROWS


def test_other_content_of_the_same_size_and_time_is_a_change(case, files, out):
    case.run()
    before = case.table().to_pylist()
    other_content(files[1])

    case.refuse(OutputExistsError, rf"1 input file .*{files[1].name}.*--sync")
    figures = case.run(sync=True)

    assert figures["rows"] == 3 * FILE_ROWS
    assert sources(out) == every_row(0, 1, 2)
    assert case.table().to_pylist() != before


def link(file: Path) -> None:
    file.with_name("_link").hardlink_to(file)


def copy(file: Path) -> None:
    """Replace a file by its copy, as from a backup."""
    other = file.with_name("other.tmp")
    shutil.copy2(file, other)
    other.replace(file)


def touch(file: Path) -> None:
    """Give a file another time, as a copy without its times does."""
    os.utime(file, (1, 1))


@pytest.mark.parametrize("change", [link, copy, touch, lambda file: file.chmod(0o600)])
def test_same_content_is_no_change(case, files, change):
    case.run()
    before = files[1].stat()
    change(files[1])
    after = files[1].stat()

    case.run()

    assert (before.st_ctime_ns, before.st_ino) != (after.st_ctime_ns, after.st_ino)
    assert any("nothing to do" in text for text in case.messages)


def test_large_file_that_is_cut_is_known_by_its_content(case, sample):
    images = ([image.tobytes() for image in sample.test.images] * 20)[:6000]
    file = case.write("large.parquet", {"image": images}, row_group_size=1000)
    first = case.run()
    copy(file)
    again = case.run()

    assert first["rows"] == again["rows"] == 6000
    assert len(list((case.out / "predictions").iterdir())) > 1
    file.rename(file.with_name("other.parquet"))
    case.refuse(OutputExistsError, "another name")


@pytest.mark.parametrize("packed", [False, True])
def test_renamed_pictures_are_not_ingested_twice(tmp_path, sample, packed):
    folder = tmp_path / "in" / "png"
    write_pictures(sample.test.take(slice(0, 30)), str(folder))
    if packed:
        shutil.make_archive(str(tmp_path / "in" / "one"), "zip", folder)
        shutil.rmtree(folder)
    ingest(tmp_path / "rows", tmp_path / "in")
    copied = tmp_path / "in" / ("one.zip" if packed else "png")
    new = copied.rename(copied.with_name(f"two{copied.suffix}"))

    with pytest.raises(OutputExistsError, match=rf"30 input files .*{new}"):
        ingest(tmp_path / "rows", tmp_path / "in")

    assert ingest(tmp_path / "rows", tmp_path / "in", sync=True)["rows"] == 30
