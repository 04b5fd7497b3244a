import re
from itertools import product
from pathlib import Path

import pytest

from nanograd.errors import DataError, UsageError
from nanograd.images.labels import Label, find_labels, label_of, parse_label_source, read_list
from nanograd.runtime.events import Event, ignore

FILES = [f"/in/{name}" for name in ("a/img_1_7.png", "a/img_12_3.PNG", "b/img_2.png", "b/8.png")]

LABELS = [
    # name, folder or name (auto), folder, name
    ("7/img_3.png", 7, 7, None),
    ("7/x-is-3.png", 7, 7, 3),
    ("12/3.png", 3, None, 3),
    ("a7/img.png", None, None, None),
    ("img_3.png", None, None, None),
    ("7_0012.png", 7, None, 7),
    ("7.png", 7, None, 7),
    ("7-b.png", 7, None, 7),
    ("7 (2).png", 7, None, 7),
    ("7(2).png", 7, None, 7),
    ("12.png", None, None, None),
    ("7b.png", None, None, None),
    ("x-is-7.png", 7, None, 7),
    ("x-is-12.png", None, None, None),
    ("this-7.png", None, None, None),
    ("Digit7.jpg", 7, None, 7),
    ("label_7-b.png", 7, None, 7),
    ("scan class 4.png", 4, None, 4),
    ("2024-05-07.png", None, None, None),
    ("s3://bucket/7/img_3.png", 7, 7, None),
    ("7/sub/img.png", None, None, None),
]


@pytest.mark.parametrize(("file", "auto", "folder", "name"), LABELS)
def test_label_follows_from_folder_or_name(
    file: str, auto: int | None, folder: int | None, name: int | None
) -> None:
    found = [label_of(file, label_from) for label_from in ("auto", "folder", "name", "none")]

    assert found == [auto, folder, name, None]


def found(source: str, *, inputs: tuple[str, ...] = ("/in",)) -> tuple[list[Label], list[str]]:
    """Return the labels of FILES, and the messages."""
    events: list[Event] = []
    labels = find_labels(FILES, inputs, parse_label_source(source), events.append)
    return labels, [str(event) for event in events]


def write(folder: Path, text: str) -> str:
    (folder / "my.csv").write_text(text)
    return str(folder / "my.csv")


@pytest.mark.parametrize(
    ("pattern", "labels"),
    [
        ("img_*_{label}.png", [7, 3, None, None]),
        ("*_{label}.*", [7, 3, 2, None]),
        ("*{label}.png", [7, 3, 2, 8]),
        ("img_1{label}_*", [None, 2, None, None]),
        ("{label}.png", [None, None, None, 8]),
        ("b/*{label}.png", [None, None, 2, 8]),
        ("img_?_{label}.png", [7, None, None, None]),
        (r"_(\d)\.", [7, 3, 2, None]),
        (r"(?i)img_(\d+)", [1, None, 2, None]),
        (r"(?:a|b)/(?:img_)?(?P<label>\d)", [1, 1, 2, 8]),
    ],
)
def test_pattern_labels_what_it_matches(pattern: str, labels: list[Label]) -> None:
    assert found(pattern)[0] == labels


@pytest.mark.parametrize("name", ["img_12.png", "12_x.png"])
def test_digit_beside_a_wildcard_is_not_part_of_a_number(name: str) -> None:
    assert all(
        find_labels([f"/{name}", "/7.png"], ["/"], parse_label_source(template), ignore)[0] is None
        for template in ("*{label}.png", "{label}*")
    )


def test_pattern_reports_the_number_without_a_label() -> None:
    assert found("img_*_{label}.png")[1] == ["2 of 4 pictures have no label from img_*_{label}.png"]


def test_pattern_without_a_match_is_a_usage_error_with_an_example() -> None:
    with pytest.raises(UsageError, match=r"finds no digit in the names of 4 pictures, such as /in"):
        found("scan{label}.png")


@pytest.mark.parametrize("text", ["me", "img_*.png", "(a", "(a)(b)", "{label}{label}", ""])
def test_invalid_source_of_labels_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"--label-from {text!r}")):
        parse_label_source(text)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_list_labels_pictures_relative_to_the_input(
    tmp_path: Path, separator: str, start: str
) -> None:
    rows = [("Writer", "File", "Label"), ("me", "a/img_1_7.png", "4"), ("me", "./b/8.png", "9.0")]
    rows += [('"me\nand ""you"""', "b/img_2.png", "")]
    place = write(tmp_path, start + "".join(separator.join(row) + "\r\n" for row in rows))

    labels, messages = found(place)

    assert labels == [4, None, None, 9]
    assert messages == [f"2 of 4 pictures have no label from {place}"]


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        *product(
            ["/in/b/8.png", "file:///in/b/8.png"],
            [("/in",), ("/in/a", "/in/b/*.png"), tuple(FILES)],
        ),
        *product(["b/8.png"], [("/in/b",), ("/in/b/",), ("/in",), ("/in/a",)]),
        *product(["8.png"], [("/in/b/*.png",), ("/in/b/8.png",)]),
    ],
)
def test_list_names_pictures_absolutely_or_relative_to_the_input_or_its_parent(
    tmp_path: Path, name: str, inputs: tuple[str, ...]
) -> None:
    labels, _ = found(write(tmp_path, f"file,label\n{name},0\n"), inputs=inputs)

    assert labels == [None, None, None, 0]


def test_list_names_pictures_relative_to_its_own_folder(tmp_path: Path) -> None:
    place = write(tmp_path, "file_name,digit\n7.png,1\nsub/../7.png,1\n")
    picture = str(tmp_path / "7.png")

    assert find_labels([picture], ["/elsewhere"], parse_label_source(place), ignore) == [1]


@pytest.mark.parametrize("name", ["7.png", "./7.png", "../in/7.png", "/top/in/7.png"])
def test_dots_in_a_path_are_resolved(tmp_path: Path, name: str) -> None:
    place = write(tmp_path, f"file,label\n{name},1\n")

    labels = find_labels(
        ["/top/work/../in/7.png"], ["/top/work/../in"], parse_label_source(place), ignore
    )

    assert labels == [1]


@pytest.mark.parametrize("name", ["./7/a.png", "s3://bucket/scans/7/a.png"])
def test_pictures_in_a_store_are_named_as_uris_or_relative_to_the_input(
    tmp_path: Path, name: str
) -> None:
    place, picture = write(tmp_path, f"file,label\n{name},1\n"), "s3://bucket/scans/7/a.png"

    source = parse_label_source(place)
    assert find_labels([picture], ["s3://bucket/scans"], source, ignore) == [1]


def test_lines_without_a_picture_are_counted_and_the_first_named(tmp_path: Path) -> None:
    place = write(tmp_path, "file,label\nb/8.png,8\ngone.png,1\n\nalso.png,2\n")

    _, messages = found(place)

    assert (
        messages[0]
        == f"2 lines of {place} without a picture in the input, the first is 3: gone.png"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "its first line must name the columns file and label"),
        ("b/8.png,8\n", "its first line must name the columns file and label"),
        ("file,label\nb/8.png,8\nb/img_2.png,two\n", "line 3: the label is 'two'"),
        ("file,label\nb/8.png,10\n", "line 2: the label is '10'"),
        ("file,label\nb/8.png,-1\n", "line 2: the label is '-1'"),
        ("file,label\nb/8.png,8\nb/8.png,7\n", "line 3: b/8.png has another label in line 2"),
        ("file,label\ngone.png,8\n", "names none of the pictures"),
        ('file,label\n"b/8.png,8\n', "line 2: this is not valid CSV"),
    ],
)
def test_mistake_in_a_list_is_a_data_error_that_names_the_line(
    tmp_path: Path, text: str, words: str
) -> None:
    place = write(tmp_path, text)

    with pytest.raises(DataError, match=re.escape(words)) as error:
        found(place)

    assert str(error.value).startswith(place)


def test_ambiguous_name_is_a_data_error(tmp_path: Path) -> None:
    place = write(tmp_path, "file,label\n8.png,8\n")

    with pytest.raises(DataError, match=r"line 2: 8\.png may be /a/8\.png or /b/8\.png"):
        find_labels(["/a/8.png", "/b/8.png"], ["/a", "/b"], parse_label_source(place), ignore)


def test_list_that_is_not_utf8_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_bytes("file,label\né.png,1".encode("latin-1"))

    with pytest.raises(DataError, match=r"my\.csv is not UTF-8"):
        list(read_list(str(tmp_path / "my.csv")))


def test_missing_list_is_a_data_error() -> None:
    with pytest.raises(DataError, match=r"no\.csv: there is no such file"):
        found("no.csv")
