import shutil
import tracemalloc
from pathlib import Path
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanograd import batch
from nanograd.digits.dataset import Mnist
from nanograd.errors import DataError, UnreadableError
from nanograd.images.inputs import expand
from nanograd.images.writers import write_pictures
from nanograd.pictures import decode
from nanograd.pictures.archives import Archives
from nanograd.runtime.events import Event
from nanograd.settings.specs import InspectSpec, PictureOptions
from tests.helpers.ingests import ingest, read_quarantine, read_rows


@pytest.fixture
def png(tmp_path: Path, sample: Mnist) -> Path:
    write_pictures(sample.test.take(slice(0, 7)), str(tmp_path / "png"))
    return tmp_path / "png"


@pytest.fixture
def picture(png: Path) -> bytes:
    return next(iter(contents(png).values()))


def pack(file: Path, members: dict[str, bytes], method: int = ZIP_DEFLATED) -> Path:
    with ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(ZipInfo(name), data, method)
    return file


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")
    }


def rows(output: Path, below: Path) -> list[tuple[str, int | None, bytes]]:
    return [
        (row["image"]["path"].removeprefix(f"{below}/"), row["label"], row["image"]["bytes"])
        for row in read_rows(output)
    ]


def reasons(output: Path) -> dict[str, str]:
    found = read_quarantine(output)
    return {row["source_file"].partition(".zip/")[2]: row["reason"] for row in found}


def test_archive_gives_the_rows_of_its_folder(tmp_path, png):
    archive = pack(tmp_path / "Digits.ZIP", contents(png))

    of_archive = ingest(tmp_path / "a", archive, part_rows=3)
    of_folder = ingest(tmp_path / "b", png)
    drawn = batch.inspect(
        [str(archive)], spec=InspectSpec(output=str(tmp_path / "sheet.png"))
    ).to_json()

    assert rows(tmp_path / "a", archive) == rows(tmp_path / "b", png)
    assert of_archive["labelled"] == of_folder["labelled"] == 7
    assert of_archive["quarantined"] == 0
    assert (drawn["pictures"], drawn["read"]) == (7, 7)


def test_archives_are_found_beside_and_around_folders_named_like_one(tmp_path, png):
    members = list(contents(png).items())
    place = tmp_path / "in" / "folder.zip"
    place.mkdir(parents=True)
    pack(place / "more.zip", {f"7.zip/{name}": data for name, data in members[:2]})
    (place / "3_01.png").write_bytes(members[2][1])

    figures = ingest(tmp_path / "rows", tmp_path / "in")

    paths = [path for path, _, _ in rows(tmp_path / "rows", tmp_path / "in")]
    more = [f"folder.zip/more.zip/7.zip/{name}" for name, _ in members[:2]]
    assert paths == sorted(["folder.zip/3_01.png", *more])
    assert (figures["ingested"], figures["labelled"]) == (3, 3)


def test_list_names_members_and_files_that_are_no_pictures_are_skipped(tmp_path, picture):
    inner = pack(tmp_path / "inner.zip", {"7/x.png": picture}).read_bytes()
    members = {"a/x.png": picture, "a/y.png": picture, "__MACOSX/a/._x.png": b"", "in.zip": inner}
    archive = pack(tmp_path / "in.zip", {**members, "read.me": b""})
    (tmp_path / "labels.csv").write_text("file,label\na/x.png,7\nin.zip/a/y.png,3\n")

    ingest(tmp_path / "rows", archive, label_from=str(tmp_path / "labels.csv"))

    assert [label for _, label, _ in rows(tmp_path / "rows", archive)] == [7, 3]
    warnings = list[Event]()
    files = expand([str(archive)], listener=warnings.append)
    assert [file.place for file in files] == [f"{archive}/a/x.png", f"{archive}/a/y.png"]
    assert [str(each) for each in warnings] == [
        f"not read: 2 files of another kind, such as {archive}/in.zip",
    ]
    with pytest.raises(DataError, match=r"no \.png or \.jpg files in .*in\.zip"):
        ingest(tmp_path / "none", pack(tmp_path / "in.zip", {"read.me": b"no picture"}))


def test_members_of_one_name_are_read_once_if_they_are_equal_and_else_quarantined(tmp_path, png):
    one, other = list(contents(png).values())[:2]
    archive = pack(tmp_path / "in.zip", {"7/x.png": one, "7/y.png": one, "7/z.png": one})
    with ZipFile(archive, "a") as more, pytest.warns(UserWarning, match="Duplicate name"):
        more.writestr("7/x.png", one)
        more.writestr("7/y.png", other)

    figures = ingest(tmp_path / "rows", archive)

    assert reasons(tmp_path / "rows") == {"7/y.png": "broken_member"}
    assert (figures["rows"], figures["ingested"]) == (3, 2)


def test_missing_member_is_missing_and_not_damaged(tmp_path, picture):
    archive = pack(tmp_path / "a.zip", {"7.png": picture})

    with pytest.raises(UnreadableError, match=r"^no_file: .*a\.zip/8\.png: there is no such file"):
        decode.read(f"{archive}/8.png", PictureOptions(), Archives().read)


def test_broken_members_are_quarantined_and_the_others_read(tmp_path, png):
    pictures = [data for _, data in sorted(contents(png).items())]
    names = ("1/whole.png", "2/flipped.png", "3/cut.png", "4/empty.png", "6/secret.png")
    data = [pictures[0], pictures[1], pictures[2][:50], b"", b"secret"]
    archive = pack(tmp_path / "in.zip", dict(zip(names, data, strict=True)), method=0)
    outside = ["../7/x.png", "/7/x.png", "7/../../x.png", "C:\\x.png"]
    with ZipFile(archive, "a") as more:
        more.writestr("5/packed.png", pictures[3], ZIP_BZIP2)
        for name in outside:
            more.writestr(ZipInfo(name), pictures[0])
    whole = bytearray(archive.read_bytes())
    whole[whole.index(pictures[1]) + len(pictures[1]) // 2] ^= 1
    # Its header, and its entry in the table of contents, say that it is encrypted.
    whole[whole.index(b"6/secret.png") - 30 + 6] |= 1
    whole[whole.rindex(b"6/secret.png") - 46 + 8] |= 1
    archive.write_bytes(whole)
    before = sorted(tmp_path.rglob("*"))

    figures = ingest(tmp_path / "rows", archive)

    assert reasons(tmp_path / "rows") == {
        **dict.fromkeys(outside, "bad_name"),
        "2/flipped.png": "broken_member",
        "3/cut.png": "broken_image",
        "4/empty.png": "empty",
        "5/packed.png": "broken_member",
        "6/secret.png": "encrypted",
    }
    assert (figures["rows"], figures["ingested"]) == (10, 1)
    shutil.rmtree(tmp_path / "rows")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("size", "reason", "most"), [(20_000_000, "too_large", 100_000), (1000, "broken", 1_000_000)]
)
def test_bomb_is_refused_before_it_is_unpacked_or_cut_off_at_its_false_size(
    tmp_path, size, reason, most
):
    archive = pack(tmp_path / "in.zip", {"7/x.png": bytes(20_000_000)})
    whole, true = archive.read_bytes(), (20_000_000).to_bytes(4, "little")
    archive.write_bytes(whole.replace(true, size.to_bytes(4, "little")))

    with Archives() as archives:
        tracemalloc.start()
        with pytest.raises(UnreadableError, match=reason):
            archives.read(f"{archive}/7/x.png", 1_000_001)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert peak < most


def test_damaged_archive_is_one_line_of_quarantine_and_no_row(tmp_path, png):
    archive = pack(tmp_path / "in.zip", contents(png))
    archive.write_bytes(archive.read_bytes()[:-30])
    whole, cut = pack(tmp_path / "empty.zip", {}), tmp_path / "cut.zip"
    cut.write_bytes(whole.read_bytes()[:-1])
    files = (archive, cut, whole, png)

    with pytest.raises(DataError, match=r"2 of 2 files cannot be read .* the same command again$"):
        ingest(tmp_path / "rows", archive, cut, whole, max_broken_files=2)
    with pytest.raises(DataError, match=rf"2 of 9 files cannot be read.*{cut}.*-files 2"):
        ingest(tmp_path / "rows", *files)
    assert not (tmp_path / "rows" / "_SUCCESS").exists()
    figures = ingest(tmp_path / "rows", *files, max_broken_files=2)

    rows = [(row["source_file"], row["reason"]) for row in read_quarantine(tmp_path / "rows")]
    assert sorted(rows) == [(str(cut), "broken_archive"), (str(archive), "broken_archive")]
    assert (figures["rows"], figures["ingested"], figures["broken_files"]) == (7, 7, 2)
    assert (figures["quarantined"], figures["reasons"]) == (0, {})


@settings(max_examples=150)
@example(seed=3257536, number=7, cut=False)  # the name of a member is empty
@given(seed=st.integers(0, 2**32 - 1), number=st.integers(1, 12), cut=st.booleans())
def test_damage_anywhere_raises_only_refusals(tmp_path_factory, seed, number, cut):
    draws = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("damage")
    members = {f"{digit}/x.png": draws.bytes(int(draws.integers(1, 90))) for digit in range(5)}
    archive = pack(folder / "in.zip", members, method=int(draws.choice([0, ZIP_DEFLATED])))
    data = bytearray(archive.read_bytes())
    for at in draws.integers(len(data), size=number):
        data[at] = draws.integers(256)
    archive.write_bytes(data[: len(data) // 2] if cut else data)

    try:
        found = expand([str(archive)])
    except DataError:  # none of the damaged names is a picture's
        return
    allowed = {"broken_archive", "broken_member", "bad_name", "encrypted", "too_large"}
    with Archives() as archives:
        for file in found:
            try:
                assert len(archives.read(file.place, 101)) <= 100
            except UnreadableError as error:
                assert error.reason in allowed
