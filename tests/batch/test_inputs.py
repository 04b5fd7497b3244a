import os
from pathlib import Path

import pytest

from nanograd.batch.inputs import expand
from nanograd.errors import DataError
from tests.helpers.ingests import planned

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


def test_folder_gives_its_visible_pictures_at_any_depth_in_order(tree: Path) -> None:
    assert names(tree, str(tree)) == sorted(TREE)


def test_found_file_has_its_absolute_place_size_and_time(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree.parent)

    [found] = expand(["in/b.png"], SUFFIXES)

    status = (tree / "b.png").stat()
    assert found == (str(tree / "b.png"), status.st_size, status.st_mtime_ns)


@pytest.mark.parametrize("name", ["notes.txt", "_e.png", ".f.png", "sub/_deeper/i.png"])
def test_file_named_directly_is_taken_whatever_its_name(tree: Path, name: str) -> None:
    assert names(tree, str(tree / name)) == [name]


def test_folder_named_directly_is_entered_whatever_its_name(tree: Path) -> None:
    assert names(tree, str(tree / "_sub"), str(tree / ".sub")) == [".sub/h.png", "_sub/g.png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["10.jpg", "9.jpg"]),
        ("[ab].*", ["a.PNG", "b.png"]),
        ("su?", ["sub/c.png", "sub/deeper/d.jpg"]),
        ("**/d.*", ["sub/deeper/d.jpg"]),
    ],
)
def test_glob_gives_files_and_folders_that_match(
    tree: Path, pattern: str, expected: list[str]
) -> None:
    assert names(tree, str(tree / pattern)) == expected


def test_file_whose_name_looks_like_a_glob_is_itself(tree: Path) -> None:
    (tree / "b[1].png").write_bytes(b"")

    assert names(tree, str(tree / "b[1].png")) == ["b[1].png"]


def test_file_named_in_several_ways_is_taken_once(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)

    found = names(tree, str(tree), ".", "b.png", "./b.png", "*.jpg", tree.as_uri(), str(tree) + "/")

    assert found == sorted(TREE)


@pytest.mark.parametrize(
    "name",
    [
        *("missing", "missing/*.png", "in/*.webp", "in/b.png/below"),
        *("in/gone.png", "in/g*.png", "in/pipe.png", "in/pi*.png"),
    ],
)
def test_missing_input_dangling_link_or_pipe_is_named_even_beside_good_ones(
    tree: Path, name: str
) -> None:
    (tree / "gone.png").symlink_to(tree / "nowhere.png")
    os.mkfifo(tree / "pipe.png")
    place = str(tree.parent / name)

    with pytest.raises(DataError, match="there is no such file or folder; check the path") as error:
        expand([str(tree), place], SUFFIXES)

    assert str(error.value).startswith(place)


def test_dangling_link_is_skipped_among_others(tree: Path) -> None:
    (tree / "gone.png").symlink_to(tree / "nowhere.png")

    assert names(tree, str(tree / "[a-z]*.png")) == ["b.png"]


def part_ids(tree: Path) -> list[str]:
    job, _ = planned(tree / "out", tree, part_rows=1)
    return [part.id for part in job.parts]


def test_changed_file_of_the_same_size_changes_its_part_id_alone(tree: Path) -> None:
    before, file = part_ids(tree), tree / sorted(TREE)[3]
    mtime_ns = file.stat().st_mtime_ns
    file.write_bytes(b"y" * file.stat().st_size)
    os.utime(file, ns=(mtime_ns + 1000, mtime_ns + 1000))

    after = part_ids(tree)

    assert len(set(before)) == len(TREE)
    assert [old == new for old, new in zip(before, after, strict=True)] == [
        place != 3 for place in range(len(TREE))
    ]
