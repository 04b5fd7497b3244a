import csv
import gzip
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanograd.data.csv import UnlabelledError, check_label_first, parse_csv
from nanograd.digits.dataset import Dataset
from nanograd.errors import DataError

HEADER = "label," + ",".join(f"{row}x{column}" for row in range(28) for column in range(28))


def row(label: object = 7, **pixels: object) -> str:
    """Return a CSV line; pixels not given as `p<position>=value` are 0."""
    values = ["0"] * 784
    for position, value in pixels.items():
        values[int(position[1:])] = str(value)
    return f"{label}," + ",".join(values)


def parse(*lines: str) -> Dataset:
    return parse_csv("\n".join(lines).encode(), "digits.csv")


def test_label_is_not_a_pixel_and_no_pixel_is_shifted() -> None:
    pixels = np.arange(784) % 251

    dataset = parse(*(",".join(map(str, [label, *pixels])) for label in range(10)))

    assert dataset.labels.tolist() == list(range(10))
    assert np.array_equal(dataset.images, [pixels] * 10)


@pytest.mark.parametrize("num_rows", [1, 7, 193])
def test_rows_keep_their_order(num_rows: int) -> None:
    lines = [row((number + 3) % 10, p5=number, p9=255) for number in range(num_rows)]

    dataset = parse(*lines)

    assert dataset.images.dtype == dataset.labels.dtype == np.uint8
    assert dataset.images.flags.c_contiguous
    assert dataset.labels.tolist() == [(number + 3) % 10 for number in range(num_rows)]
    assert dataset.images[:, 5].tolist() == list(range(num_rows))


@pytest.mark.parametrize(
    "text",
    [
        f"{row(3)}\n{row(4)}",
        f"{row(3)}\n{row(4)}\n",
        f"{HEADER}\n{row(3)}\n{row(4)}\n",
        f"{HEADER}\r\n{row(3)}\r\n{row(4)}\r\n",
        f"\ufeff{HEADER}\r\n{row(3)}\r\n{row(4)}\r\n",
        "label," + ",".join(map(str, range(784))) + f"\n{row(3)}\n{row(4)}",
        f"{HEADER}\r{row(3)}\r{row(4)}\r",
        f"{row(3)}\n\n{row(4)}\n\n\n",
        f"{row(3).replace('0', chr(34) + '0' + chr(34))}\n{row(4)}",
    ],
    ids=[
        "plain",
        "newline",
        "header",
        "crlf",
        "bom",
        "numbered-header",
        "cr",
        "blank-lines",
        "quoted",
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gzip"])
def test_every_common_form_is_parsed(text: str, pack: Callable[[bytes], bytes]) -> None:
    dataset = parse_csv(pack(text.encode()), "digits.csv")

    assert dataset.labels.tolist() == [3, 4]
    assert not dataset.images.any()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row(10), "label is '10', expected a whole number from 0 to 9"),
        (row(256), "label is '256', expected a whole number from 0 to 9"),
        (row(-1), "label is '-1'"),
        (row(""), "label is ''"),
        (row(5.0), "label is '5.0'"),
        (row(p783=256), "pixel 783 is '256', expected a whole number from 0 to 255"),
        (row(p0="x"), "pixel 0 is 'x'"),
        (row(p9=""), "pixel 9 is ''"),
        (row(p9="NaN"), "pixel 9 is 'NaN'"),
        (row(p1="1_0"), "pixel 1 is '1_0'"),
        (row(p1='5"'), "pixel 1 is '5\""),
        (row(p1='"5'), "pixel 1 is '\"5"),
        (row(p1="9" * 9999), "pixel 1 is '99999999999999999999'"),
        (row()[:-2], r"785 values, found 784 .is the label missing\?"),
        (row() + ",0", "785 values, found 786"),
        ("5", "785 values, found 1"),
        (row(p5=15), "the largest pixel is above 1 but at most 16, so the scale is unclear; scale"),
    ],
)
@pytest.mark.parametrize(("lines_before", "number"), [([], 1), ([HEADER], 2), ([row(), ""], 3)])
def test_bad_row_is_an_error_that_names_file_and_line(
    lines_before: list[str], number: int, bad: str, reason: str
) -> None:
    with pytest.raises(DataError, match=rf"^digits\.csv, line {number}: .*{reason}"):
        parse(*lines_before, bad, row())


@pytest.mark.parametrize("rows", [[row("seven")], [row(11), row(p3=999)]])
def test_first_bad_row_below_the_first_line_is_named(rows: list[str]) -> None:
    with pytest.raises(DataError, match=r"line 2: label is '(seven|11)'"):
        parse(row(), *rows)


@pytest.mark.parametrize("text", ["", "\n\n", HEADER, f"{HEADER}\n"])
def test_file_without_rows_is_an_error(text: str) -> None:
    with pytest.raises(DataError, match=r"^digits\.csv: there are no images"):
        parse(text)


DIGITS = [row(number % 10, p400=number, p783=255) for number in range(40)]


@pytest.mark.parametrize("spelling", ["pixel{}", "pixel_{}", "{}"])
@settings(max_examples=20)
@given(data=st.data())
def test_columns_are_found_by_their_names_in_any_order(spelling: str, data: st.DataObject) -> None:
    names = ["Label", *(spelling.format(number) for number in range(784)), "id"]
    order = data.draw(st.permutations(range(len(names))))
    lines = [names, *(f"{line},{9_999 + number}".split(",") for number, line in enumerate(DIGITS))]

    dataset = parse(*(",".join(cells[index] for index in order) for cells in lines))

    expected = parse(*DIGITS)
    assert dataset.labels.tolist() == expected.labels.tolist()
    assert np.array_equal(dataset.images, expected.images)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("label,name", "the header names no 784 columns of pixels"),
        (HEADER.replace("label", "0x0"), "two columns have the same name"),
        (HEADER.replace("label", "y"), "has no labels: no column is called label, digit or targ"),
    ],
)
def test_header_without_these_columns_is_an_error(header: str, reason: str) -> None:
    with pytest.raises(DataError, match=rf"^digits\.csv:? {reason}"):
        parse(header, *DIGITS)


def test_zeros_and_ones_are_no_and_full_ink() -> None:
    bits = parse(row(3, p3=1), row(p3=1, p4=1), row())
    levels = parse(row(3, p3=1), row(p3=1, p4=200), row())

    assert bits.images[:, 3:5].tolist() == [[255, 0], [255, 255], [0, 0]]
    assert levels.images[:, 3:5].tolist() == [[1, 0], [1, 200], [0, 0]]


def test_commas_in_quotes_separate_nothing() -> None:
    header, noted = f'"note, of whom",{HEADER}', '"seven, slim"'

    assert parse(header, f"{noted},{row(7)}", f"{noted},{row(3)}").labels.tolist() == [7, 3]
    with pytest.raises(DataError, match="line 3: label is '10'"):
        parse(header, f"{noted},{row(7)}", f"{noted},{row(10)}")


@settings(max_examples=200)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(0, 1), st.randoms())
def test_label_in_another_column_is_never_taken_for_a_pixel(
    labels: list[int], ink: int, random: Random
) -> None:
    pixels = [[ink * random.randrange(200, 256) for _ in range(10)] for _ in labels]
    images = [[0] * 300 + some + [0] * 474 for some in pixels]
    last = [
        ",".join(map(str, [*image, label])) for image, label in zip(images, labels, strict=True)
    ]
    first = [
        ",".join(map(str, [label, *image])) for image, label in zip(images, labels, strict=True)
    ]

    with pytest.raises(DataError, match="name all columns in a header"):
        parse(*last)
    if any(labels):
        assert parse(*first).labels.tolist() == labels
    else:
        with pytest.raises(DataError, match="the first column or the last may hold the labels"):
            parse(*first)


def test_first_column_must_hold_digits() -> None:
    dark = ",".join(["255"] * 784)

    with pytest.raises(DataError, match="the first column does not hold labels from 0 to 9"):
        check_label_first(np.array([255.0, 250]), np.array([3.0, 4]), np.full((784, 2), 9.0), "a")
    with pytest.raises(DataError, match="label is '255'"):
        parse(f"{dark},7", f"{dark},7")


@pytest.mark.parametrize("first", [[np.nan, np.nan], [-1, 3], [np.nan, 0], [0, 1]])
def test_labels_may_be_missing(first: list[float]) -> None:
    check_label_first(np.array(first), np.zeros(2), np.zeros((784, 2)), "a")


def test_values_with_line_breaks_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    notes = ["a\nb", '"', "\r\n,\n\n", "", 'x""\n"7",', "\n" * 500, "é"]
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["no\nte", "label", *range(784)])
        writer.writerows([note, n, *[n] * 783, 255] for n, note in enumerate(notes))

    dataset = parse_csv(file.read_bytes(), "a.csv")

    assert dataset.labels.tolist() == list(range(7))
    assert dataset.images[:, 0].tolist() == list(range(7))


def test_line_of_a_fault_is_counted_beside_values_with_line_breaks() -> None:
    header = f'"no\nte",{HEADER}'

    with pytest.raises(DataError, match=r"line 6: label is 'x'"):
        parse(header, f'"a\n\nb",{row()}', f"c,{row('x')}")
    with pytest.raises(DataError, match=r"line 5: the largest pixel is above 1"):
        parse(header, f'"a\nb",{row()}', f"c,{row(p5=9)}")


def test_labels_in_the_last_column_are_not_taken_as_pixels() -> None:
    moved = [",".join(line.split(",")[1:] + line.split(",")[:1]) for line in DIGITS]

    with pytest.raises(DataError, match="the labels seem to be in column 785, not in the first"):
        parse(*moved)


def test_rows_without_a_label_are_an_error_of_their_own() -> None:
    with pytest.raises(UnlabelledError, match="784 values a line, expected the label first"):
        parse(*(line.split(",", 1)[1] for line in DIGITS))


def test_truncated_gzip_is_an_error() -> None:
    packed = gzip.compress(row().encode())

    with pytest.raises(DataError, match=r"^digits\.csv: the gzip file is cut short"):
        parse_csv(packed[:-4], "digits.csv")
