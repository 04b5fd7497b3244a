import os
import re
import tempfile
from pathlib import Path
from zipfile import ZipFile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import nanograd
from nanograd.errors import DataError, StorageError, UsageError
from nanograd.images.inputs import TABLES, expand, expand_all
from nanograd.images.scan import check_version
from nanograd.images.writers import write_pictures
from nanograd.runtime.events import Event
from tests.helpers.folders import as_nobody

SUFFIXES = (".png", ".jpg")
TREE = ["b.png", "a.PNG", "10.jpg", "9.jpg", "sub/c.png", "sub/deeper/d.jpg"]
HIDDEN = ["_e.png", ".f.png", "_sub/g.png", ".sub/h.png", "sub/_deeper/i.png"]
OTHER = ["notes.txt", "png", "sub/a.png.part"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with pictures, hidden pictures and other files, in any order."""
    for number, name in enumerate([*OTHER, *HIDDEN, *TREE]):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x" * number)
    return tmp_path / "in"


def names(tree: Path, *inputs: str) -> list[str]:
    return [str(Path(each.place).relative_to(tree)) for each in expand(inputs, SUFFIXES)]


def test_file_named_in_several_ways_is_taken_once_with_its_version(tree, monkeypatch):
    monkeypatch.chdir(tree)
    odd = tree / "läufe #1 50%.png"
    odd.touch()

    found = names(tree, str(tree), ".", "b.png", "./b.png", "*.jpg", tree.as_uri(), str(tree) + "/")
    [file] = expand([odd.as_uri()], SUFFIXES)

    assert found == sorted([*TREE, odd.name])
    status = odd.stat()
    assert file[:3] == (str(odd), status.st_size, status.st_mtime_ns)
    assert file[3:] == (status.st_ctime_ns, status.st_ino)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ([""], sorted(TREE)),  # the visible pictures of a folder at any depth
        *(([name], [name]) for name in ("notes.txt", "_e.png", ".f.png", "sub/_deeper/i.png")),
        (["_sub", ".sub"], [".sub/h.png", "_sub/g.png"]),  # named directly
        (["*.jpg"], ["10.jpg", "9.jpg"]),
        (["[ab].*"], ["a.PNG", "b.png"]),
        (["su?"], ["sub/c.png", "sub/deeper/d.jpg"]),
        (["**/d.*"], ["sub/deeper/d.jpg"]),
        (["*/"], ["_sub/g.png", "sub/c.png", "sub/deeper/d.jpg"]),  # only folders
    ],
)
def test_folders_files_and_globs_give_their_pictures_in_order(tree, inputs, expected):
    assert names(tree, *(f"{tree}/{name}" for name in inputs)) == expected


def test_file_that_another_match_names_is_not_said_to_be_skipped(tree):
    events: list[Event] = []

    found = expand([f"{tree}/**"], SUFFIXES, listener=events.append)

    assert {f"{tree}/{name}" for name in (*TREE, *OTHER)} <= {each.place for each in found}
    assert not events


@pytest.mark.parametrize(
    "name",
    [
        *("missing", "missing/*.png", "in/*.webp", "in/b.png/below"),
        *("in/gone.png", "in/g*.png", "in/pipe.png", "in/pi*.png", "in/long.png", "in/lo*.png"),
        *(f"in/{'x' * 300}", "in/loop.png"),
    ],
)
def test_missing_input_dangling_link_or_pipe_is_named_even_beside_good_ones(tree, name):
    (tree / "gone.png").symlink_to(tree / "nowhere.png")
    (tree / "long.png").symlink_to("x" * 300)
    (tree / "loop.png").symlink_to("loop.png")
    os.mkfifo(tree / "pipe.png")
    place = str(tree.parent / name)

    with pytest.raises(
        DataError, match=f"^{re.escape(place)}: th(ere|is) is (no such file|a pipe)"
    ):
        expand([str(tree), place], SUFFIXES)


def test_links_are_followed_and_lead_to_each_file_once(tree, tmp_path):
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "e.png").touch()
    (tree / "linked").symlink_to(tmp_path / "elsewhere")
    (tree / "again").symlink_to(tmp_path / "elsewhere" / "deep")
    (tree / "a-link.png").symlink_to(tree / "b.png")
    (tree / "loop").symlink_to(tree)
    (tmp_path / "elsewhere" / "back").symlink_to(tree / "sub")
    (tree / "gone.png").symlink_to(tree / "nowhere.png")
    (tree / "loop.png").symlink_to("loop.png")
    events: list[Event] = []

    found = names(tree, str(tree), str(tree / "loop" / "sub"), str(tree / "**" / "[b-d].png"))
    pictures = expand([str(tree), f"{tree}/[bgl]*.png"], listener=events.append)

    assert found == sorted([*TREE, "again/e.png"])
    assert len(pictures) == len(found)
    assert "not read: 3 files of another kind" in str(events[0])
    assert "not read: 2 paths to a broken link" in str(events[1])
    # A file takes precedence over a link beside it, also below a linked folder.
    (tmp_path / "data").symlink_to(tree)
    below = {Path(file.place).name for file in expand([str(tmp_path / "data")], SUFFIXES)}
    assert "b.png" in below
    assert "a-link.png" not in below


@pytest.mark.parametrize("mode", [0, 0o444, 0o111])
@pytest.mark.parametrize("named", ["", "sub", "sub/*.png", "s*/c.png", "**/c.png", "sub/c.png"])
def test_folder_without_permission_is_named_and_not_taken_for_missing(named, mode):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = Path(folder, "sub", "c.png")
        file.parent.mkdir()
        file.touch()
        file.parent.chmod(mode)
        link = Path(folder, "x", "d.png")
        link.parent.mkdir()
        link.symlink_to(file)

        with as_nobody():
            if mode == 0o111 and named == "sub/c.png":
                assert [each.place for each in expand([str(file)])] == [str(file)]
            else:
                with pytest.raises(StorageError, match=r"/sub(/[c*].png)?: Permission denied"):
                    expand([f"{folder}/{named}"], (*SUFFIXES, *TABLES))
            if mode != 0o111:
                with pytest.raises(StorageError, match=r"/d.png: Permission denied"):
                    expand([str(link.parent)])
                with pytest.raises(StorageError, match="Permission denied"):
                    check_version(str(file), (0, 0, 0, 0))  # of a job that was planned before


LAKES = {
    "Delta": "_delta_log/00000000000000000000.json",
    "Iceberg": "metadata/00000-a.metadata.json",
    "Hudi": ".hoodie/hoodie.properties",
}


@pytest.mark.parametrize(
    "place",
    ["", "*", "in", "in/x.parquet", "in/*.parquet", "in/data", "in/data/x.parquet", "in/d*/*"],
)
@pytest.mark.parametrize("kind", LAKES)
def test_table_with_a_log_of_its_own_is_refused(tmp_path, kind, place):
    plain = "plain/metadata/notes.json", "plain/metadata/x.parquet"
    table = f"in/{LAKES[kind]}", "in/x.parquet", "in/data/x.parquet", "in/data/day=1/x.parquet"
    for name in (*plain, *table):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    assert len(expand_all([f"{tmp_path}/plain"], "/out")[0]) == 1
    with pytest.raises(DataError, match=rf"/in is an? {kind} table"):
        expand_all([f"{tmp_path}/{place}"], "/out")


@pytest.mark.parametrize(
    ("place", "output", "refused"),
    [
        ("in/", "in", True),
        ("in", "link/", True),
        ("in/**", "in/out", True),
        ("in/**/*.parquet", "link/out", True),
        ("in", "in/out", False),
        (".", "in/../out", False),
        ("*", "in/out", False),
        ("link", "in/out", False),
        ("in", "in2", False),
        ("in/*.parquet", "in/out", False),
        ("in/x.parquet", "in/out", False),
    ],
)
def test_output_that_an_input_names_is_refused(tmp_path, monkeypatch, place, output, refused):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.parquet").touch()
    (tmp_path / "link").symlink_to("in")

    def run() -> int:
        return len(expand_all([place], f"{tmp_path}/{output}")[0])

    if refused:
        with pytest.raises(UsageError, match=r"the input.* names the output.*another --output"):
            run()
    else:
        assert run() == 1


KINDS = ["1.jpg", "list.csv", "raw", "scans.zip", "sub/2.PNG", "x.parquet"]
SCANS = ["scans.zip/7/a.png"]


@pytest.mark.parametrize(
    ("inputs", "root", "tables", "pictures"),
    [
        ([""], None, ["x.parquet"], ["1.jpg", *SCANS, "sub/2.PNG"]),
        ([""], "", ["x.parquet"], []),  # rows may refer to the pictures
        (["", "1.jpg"], "", ["x.parquet"], ["1.jpg"]),
        (["*"], "", ["x.parquet"], ["1.jpg", "raw", *SCANS]),
        (["", "sub"], "1", ["x.parquet"], ["sub/2.PNG"]),
        (["x.parquet", "sub"], "1", ["x.parquet"], ["sub/2.PNG"]),
        (["x.parquet", "sub"], "sub", ["x.parquet"], []),
        (["x.parquet", "sub/2.PNG"], "sub", ["x.parquet"], ["sub/2.PNG"]),
        (["sub", "scans.zip", "raw"], "", [], ["raw", *SCANS, "sub/2.PNG"]),
        (["", "list.csv"], None, ["list.csv", "x.parquet"], ["1.jpg", *SCANS, "sub/2.PNG"]),
        (["list.csv"], None, ["list.csv"], []),
        (["lists", "x.parquet"], None, ["lists/a.csv", "x.parquet"], []),
        (["lists", "sub"], "", ["lists/a.csv"], []),
        (["lists[1]", "1.jpg"], None, ["lists[1]/a.csv"], ["1.jpg"]),  # no glob, as it exists
        (["damaged.ZIP", "1.jpg"], None, ["damaged.ZIP"], ["1.jpg"]),
    ],
)
def test_tables_and_pictures_of_mixed_inputs_are_listed_apart(
    tmp_path, inputs, root, tables, pictures
):
    lists = [f"{name}/a.csv" for name in inputs if name.startswith("lists")]
    for name in (*KINDS, "damaged.ZIP", *lists):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with ZipFile(tmp_path / "scans.zip", "w") as archive:
        for name in ("7/a.png", "_hidden/b.png", "notes.txt", "rows.parquet"):
            archive.writestr(name, b"x")
    if "damaged.ZIP" not in inputs:
        (tmp_path / "damaged.ZIP").unlink()
    events: list[Event] = []

    found = expand_all(
        [f"{tmp_path}/{name}" for name in inputs],
        "/elsewhere",
        image_root=root if root is None else str(tmp_path / root),
        listener=events.append,
    )

    names = [[str(Path(file.place).relative_to(tmp_path)) for file in files] for files in found]
    assert names == [sorted(tables), sorted(pictures)]
    is_left_out = set(inputs) & {"", "*"} and "list.csv" not in inputs
    assert bool([event for event in events if "1 CSV file" in str(event)]) is bool(is_left_out)


@pytest.mark.parametrize("named", ["b.csv", "b*.CSV.gz", "[ab].csv"])
def test_only_the_csv_files_that_are_named_are_read_beside_other_files(tmp_path, named):
    for name in ("a.csv", "b.csv", "b.CSV.gz", "x.parquet"):
        (tmp_path / name).touch()
    expected = {"b*.CSV.gz": ["b.CSV.gz"], "[ab].csv": ["a.csv", "b.csv"]}.get(named, [named])

    tables, _ = expand_all([str(tmp_path), f"{tmp_path}/{named}"], "/elsewhere")

    assert [Path(file.place).name for file in tables] == sorted([*expected, "x.parquet"])


def test_output_beside_pictures_is_never_input(tmp_path):
    for name in ("1.jpg", "out/predictions/part.parquet", "out/plots/digits.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    tables, pictures = expand_all([str(tmp_path)], f"{tmp_path}/out")

    assert (tables, [file.place for file in pictures]) == ([], [f"{tmp_path}/1.jpg"])
    with pytest.raises(UsageError, match="names the output"):
        expand_all([f"{tmp_path}/out"], f"{tmp_path}/out")
    with pytest.raises(UsageError, match="the whole input is in the output"):
        expand_all([f"{tmp_path}/out/plots"], f"{tmp_path}/out")


def test_outputs_of_other_commands_are_no_input_of_a_folder(sample, tmp_path):
    folder, events = tmp_path / "in", list[Event]()
    write_pictures(sample.train.take(slice(0, 40)), str(folder))
    small = {"hidden": 4, "epochs": 1, "warmup": 1, "plots": True}
    first = nanograd.train(data=folder, output=folder / "run", **small)
    nanograd.predict(folder, output=folder / "read", plots=True)

    result = nanograd.predict(folder, output=tmp_path / "read", listener=events.append)
    again = nanograd.train(data=folder, output=tmp_path / "run", **small)

    assert (result.rows, result.files) == (40, 40)
    assert any(
        f"not read: 2 folders of nanograd's output, such as {folder}/read" in str(each)
        for each in events
    )
    assert again.params_sha256 == first.params_sha256
    named = [f"{folder}/read/predictions", f"{folder}/run/plots"]
    assert all(any(expand_all([each], "/out")) for each in named)


def test_bracket_in_a_name_is_no_wildcard_or_the_message_says_how_to_write_it(tmp_path):
    (tmp_path / "day[1]").mkdir()
    (tmp_path / "day[1]" / "a.png").touch()

    for place in ("day[1]", "day[1]/a.png", "day[[]1]/*.png"):
        assert names(tmp_path, f"{tmp_path}/{place}") == ["day[1]/a.png"]
    with pytest.raises(DataError, match=r"no such file .* write \[\[\] for a \[ in a name$"):
        expand([f"{tmp_path}/day[1]/*.png"])


ROWS_NAMES = ["000000_0", "b.parq", "part-00000", "läufe.data", "sub/c.snappy", "d.json"]


def test_parquet_is_known_by_its_bytes_and_what_is_skipped_is_named(tmp_path):
    rows = pa.table({"image": [bytes(784)]})
    for name in [*ROWS_NAMES, "_hidden", "sub/.hidden", "a.parquet"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(rows, tmp_path / name)
    for name, data in {"b.txt": b"PAR", "c": b"", "_SUCCESS": b"", "z.orc": b"ORC"}.items():
        (tmp_path / name).write_bytes(data)
    for link, target in {"gone.parquet": "nowhere", "gone.png": "nowhere", "sub/up": ".."}.items():
        (tmp_path / link).symlink_to(target)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "long").symlink_to("x" * 300)
    os.mkfifo(tmp_path / "pipe.parquet")
    events: list[Event] = []

    found, _ = expand_all([str(tmp_path), f"{tmp_path}/sub"], "/out", listener=events.append)

    names = [str(Path(file.place).relative_to(tmp_path)) for file in found]
    assert names == sorted([*ROWS_NAMES, "a.parquet"])
    direct = [expand_all([f"{tmp_path}/{name}"], "/out")[0] for name in ROWS_NAMES]
    assert [len(files) for files in direct] == [1] * len(ROWS_NAMES)
    others, broken = map(str, events)
    assert f"not read: 3 files of another kind, such as {tmp_path}/b.txt" in others
    assert f"not read: 5 paths to a broken link or a pipe, such as {tmp_path}/g" in broken
