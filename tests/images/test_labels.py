import re
from itertools import product
from pathlib import Path

import pytest

from nanograd.errors import DataError, UsageError
from nanograd.images.labels import Label, find_labels, label_of
from nanograd.runtime.events import Event

FILES = [f"/in/{name}" for name in ("a/img_1_7.png", "a/img_12_3.PNG", "b/img_2.png", "b/8.png")]

LABELS = [
    # name, folder or name (auto), folder, name
    ("7/img_3.png", 7, 7, None),
    ("7/x-is-3.png", 7, 7, 3),
    ("12/3.png", None, None, 3),
    ("12/3_4.png", 3, None, 3),
    ("a/3-is-4.png", 4, None, 4),
    ("a7/img.png", None, None, None),
    ("img_3.png", None, None, None),
    ("7_0012.png", 7, None, 7),
    ("7-b.png", None, None, 7),
    ("7 (2).png", None, None, 7),
    ("7(2).png", None, None, 7),
    ("7_b.png", None, None, 7),
    ("7_1_2.png", None, None, 7),
    ("photos/1.jpg", None, None, 1),
    ("12.png", None, None, None),
    ("7b.png", None, None, None),
    ("x-is-12.png", None, None, None),
    ("this-7.png", None, None, None),
    ("Digit7.jpg", 7, None, 7),
    ("label_7-b.png", 7, None, 7),
    ("scan class 4.png", 4, None, 4),
    ("2024-05-07.png", None, None, None),
    ("s3://bucket/7/img_3.png", 7, 7, None),
    ("7/sub/img.png", None, None, None),
    ("label=07/img.png", 7, 7, None),
    ("label=00/img.png", 0, 0, None),
    ("07/img.png", None, None, None),
    ("label=x/3_01.png", 3, None, 3),
]


@pytest.mark.parametrize(("file", "auto", "folder", "name"), LABELS)
def test_label_follows_from_folder_or_name(file, auto, folder, name):
    found = [label_of(file, label_from) for label_from in ("auto", "folder", "name", "none")]

    assert found == [auto, folder, name, None]


def found(
    source: str, inputs: tuple[str, ...] = ("/in",), files: list[str] = FILES
) -> tuple[list[Label], list[str]]:
    events: list[Event] = []
    labels = find_labels(files, inputs, source, events.append)
    return labels, [str(event) for event in events]


def test_folder_of_labels_whose_value_is_no_digit_is_named():
    none = [f"/in/label={value}/1.png" for value in ("-1", "nan", "", "__HIVE_DEFAULT_PARTITION__")]
    files = ["/in/label=3/1.png", "/in/label=x/1.png", "/in/Digit=12/1.png", "/in/x/1.png", *none]

    for source in ("auto", "folder"):
        labels, [warned] = found(source, files=files)

        assert labels == [3, *[None] * 7]
        assert warned.startswith("2 pictures without a label")
        assert warned.endswith(files[1])
    assert found("none", files=files)[1] == []


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
        ("{label}*", [None, None, None, 8]),
        ("b/*{label}.png", [None, None, 2, 8]),
        ("img_?_{label}.png", [7, None, None, None]),
        (r"_(\d)\.", [7, 3, 2, None]),
        (r"(?i)img_(\d+)", [1, None, 2, None]),
        (r"(?:a|b)/(?:img_)?(?P<label>\d)", [1, 1, 2, 8]),
    ],
)
def test_pattern_labels_what_it_matches(pattern, labels):
    unlabelled = labels.count(None)

    assert found(pattern) == (
        labels,
        [f"{unlabelled} of 4 pictures have no label from {pattern}"] * bool(unlabelled),
    )
    # A digit beside a wildcard is not part of a number.
    assert found("*{label}.png", files=["/img_12.png", "/7.png"])[0] == [None, 7]


@pytest.mark.parametrize(
    "text", ["me", "img_*.png", "(a", "(a)(b)", "{label}{label}", "", "scan{label}.png"]
)
def test_source_that_is_invalid_or_labels_nothing_is_a_usage_error(text):
    with pytest.raises(UsageError, match=re.escape(f"--label-from {text!r}")):
        found(text)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_list_labels_pictures_relative_to_the_input(tmp_path, separator, start, end):
    rows = [("Writer", "File", "Label"), ("me", "a/img_1_7.png", "4"), ("me", "./b/8.png", "9.0")]
    rows += [('"me\nand ""you"""', "b/img_2.png", "")]
    place = tmp_path / "my.csv"
    place.write_bytes((start + "".join(separator.join(row) + end for row in rows)).encode())

    labels, messages = found(str(place))

    assert labels == [4, None, None, 9]
    assert messages == [f"2 of 4 pictures have no label from {place}"]


@pytest.mark.parametrize(
    ("name", "inputs", "picture"),
    [
        *product(
            ["/in/b/8.png", "file:///in/b/8.png", "/in/a/../b/8.png"],
            [("/in",), ("/in/a", "/in/b/*.png"), tuple(FILES)],
            FILES[3:],
        ),
        *product(
            ["b/8.png", "./b/8.png"], [("/in/b",), ("/in/b/",), ("/in",), ("/in/a",)], FILES[3:]
        ),
        *product(["8.png"], [("/in/b/*.png",), ("/in/b/8.png",)], FILES[3:]),
        ("7.png\nsub/../7.png", ("/elsewhere",), "HERE/7.png"),  # beside the list
        ("../in/7.png", ("/top/work/../in",), "/top/work/../in/7.png"),
        *product(
            ["./7/a.png", "s3://bucket/scans/7/a.png"],
            [("s3://bucket/scans",)],
            ["s3://bucket/scans/7/a.png"],
        ),
    ],
)
def test_list_names_pictures_absolutely_or_relative_to_itself_the_input_or_its_parent(
    tmp_path, name, inputs, picture
):
    place = write(tmp_path, "file_name,digit\n" + "".join(f"{n},0\n" for n in name.split("\n")))

    files = [*FILES[:3], picture.replace("HERE", str(tmp_path))]
    assert found(place, inputs, files)[0] == [None, None, None, 0]


def test_lines_without_a_picture_are_counted_and_the_first_named(tmp_path):
    place = write(tmp_path, "file,label\nb/8.png,8\ngone.png,1\n\nalso.png,2\n")

    assert found(place)[1][0].startswith(f"2 lines of {place} ")
    assert found(place)[1][0].endswith("3: gone.png")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "file and label"),
        ("b/8.png,8\n", "file and label"),
        ("file,label\nb/8.png,8\nb/img_2.png,two\n", "line 3: the label is 'two'"),
        ("file,label\nb/8.png,10\n", "line 2: the label is '10'"),
        ("file,label\nb/8.png,8\nb/8.png,7\n", "line 3: b/8.png has another label in line 2"),
        ("file,label\ngone.png,8\n", "names none of the pictures"),
        ("file,label\nb/8.png\nb/img_2.png,\n", "names pictures of the input, but gives no label"),
        ("file,label\nb/8.png,7,8,\n", "line 2: it has 4 values for 2 columns"),
        ('file,label\n"b/8.png,8\n', "line 2: this is not valid CSV"),
        ("file,label\n8.png,8\n", "line 2: 8.png may be /in/a/8.png or /in/b/8.png"),
        ("file,label\n\udce9.png,1", "is not UTF-8"),
    ],
)
def test_mistake_in_a_list_is_a_data_error_that_names_the_line(tmp_path, text, words):
    place = tmp_path / "my.csv"
    place.write_bytes(text.encode(errors="surrogateescape"))

    with pytest.raises(DataError, match=rf"^{place}.*{re.escape(words)}"):
        found(str(place), ("/in/a", "/in/b", "/in"), [*FILES, "/in/a/8.png"])


def test_missing_list_is_a_data_error():
    with pytest.raises(DataError, match=r"no\.csv: there is no such file"):
        found("no.csv")
