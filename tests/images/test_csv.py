"""CSV files as data sets: what a row means, and which file is refused."""

import csv
import gzip
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanograd.digits.dataset import Dataset
from nanograd.errors import DataError
from nanograd.images import sources
from nanograd.images.csv import check_label_first
from nanograd.images.sources import UnlabelledError

HEADER = "label," + ",".join(f"{row}x{column}" for row in range(28) for column in range(28))
Parse = Callable[..., Dataset]


def row(label: object = 7, **pixels: object) -> str:
    """Return a CSV line; pixels not given as `p<position>=value` are 0."""
    values = ["0"] * 784
    for position, value in pixels.items():
        values[int(position[1:])] = str(value)
    return f"{label}," + ",".join(values)


@pytest.fixture(scope="module")
def parse(tmp_path_factory: pytest.TempPathFactory) -> Parse:
    """Read lines of a CSV file, or its bytes, as a data set."""
    file = tmp_path_factory.mktemp("csv") / "digits.csv"

    def parse(*lines: str, data: bytes = b"") -> Dataset:
        file.write_bytes(data or "\n".join(lines).encode())
        return sources.load_test([str(file)])

    return parse


@pytest.mark.parametrize("num_rows", [1, 7, 193])
def test_rows_keep_their_order_and_no_pixel_is_shifted(parse: Parse, num_rows: int) -> None:
    pixels = np.arange(784) % 251
    lines = [
        ",".join(map(str, [(number + 3) % 10, number, *pixels[1:]])) for number in range(num_rows)
    ]

    dataset = parse(*lines)

    assert dataset.images.dtype == dataset.labels.dtype == np.uint8
    assert dataset.images.flags.c_contiguous
    assert dataset.labels.tolist() == [(number + 3) % 10 for number in range(num_rows)]
    assert dataset.images[:, 0].tolist() == list(range(num_rows))
    assert np.array_equal(dataset.images[:, 1:], [pixels[1:]] * num_rows)


FORMS = {
    "plain": f"{row(3)}\n{row(4)}",
    "newline": f"{row(3)}\n{row(4)}\n",
    "header": f"{HEADER}\n{row(3)}\n{row(4)}\n",
    "crlf": f"{HEADER}\r\n{row(3)}\r\n{row(4)}\r\n",
    "bom": f"\ufeff{HEADER}\r\n{row(3)}\r\n{row(4)}\r\n",
    "numbered": "label," + ",".join(map(str, range(784))) + f"\n{row(3)}\n{row(4)}",
    "cr": f"{HEADER}\r{row(3)}\r{row(4)}\r",
    "blank lines": f"{row(3)}\n\n{row(4)}\n\n\n",
    "quoted": f"{row(3).replace('0', chr(34) + '0' + chr(34))}\n{row(4)}",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gzip"])
def test_every_common_form_is_parsed(
    parse: Parse, form: str, pack: Callable[[bytes], bytes]
) -> None:
    dataset = parse(data=pack(FORMS[form].encode()))

    assert dataset.labels.tolist() == [3, 4]
    assert not dataset.images.any()


def test_line_ends_of_one_carriage_return_may_be_far_apart(
    parse: Parse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanograd.images.csv.READ_BYTES", 7)

    for form in ("cr", "crlf", "newline"):
        assert parse(data=FORMS[form].encode()).labels.tolist() == [3, 4]


BAD = {
    **{f"label {label}": row(label) for label in (10, 256, "seven", "1e3")},
    **{f"pixel {value[:5]}": row(p783=value) for value in ("256", "x", "NaN", "1_0", "-1")},
    "empty pixel": row(p9=""),
    "quote after a value": row(p1='5"'),
    "open quote": row(p1='"5'),
    "long number": row(p1="9" * 9999),
    "a value too few": row()[:-2],
    "a value too many": row() + ",0",
    "faint": row(p5=15),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(("before", "number"), [([HEADER], 2), ([row(), ""], 3)])
def test_bad_row_is_an_error_that_names_file_and_line(
    parse: Parse, before: list[str], number: int, bad: str
) -> None:
    with pytest.raises(DataError, match=rf"digits\.csv, line {number}: "):
        parse(*before, BAD[bad], row())


@pytest.mark.parametrize("lines", [["5"], [row()[:-2] + ",", "5", row()]])
def test_bad_first_line_is_an_error_that_names_the_file(parse: Parse, lines: list[str]) -> None:
    with pytest.raises(DataError, match=r"digits\.csv"):
        parse(*lines)


@pytest.mark.parametrize("text", ["\n", "\n\n", HEADER, f"{HEADER}\n"])
def test_file_without_rows_is_an_error(parse: Parse, text: str) -> None:
    with pytest.raises(DataError, match=r"digits\.csv"):
        parse(text)


DIGITS = [row(number % 10, p400=number, p783=255) for number in range(40)]


@pytest.mark.parametrize("spelling", ["pixel{}", "pixel_{}", "{}"])
@settings(max_examples=5)
@given(data=st.data())
def test_columns_are_found_by_their_names_in_any_order(
    parse: Parse, spelling: str, data: st.DataObject
) -> None:
    names = ["Label", *(spelling.format(number) for number in range(784)), "id"]
    order = data.draw(st.permutations(range(len(names))))
    lines = [names, *(f"{line},{9_999 + number}".split(",") for number, line in enumerate(DIGITS))]

    dataset = parse(*(",".join(cells[index] for index in order) for cells in lines))

    assert dataset.sha256() == parse(*DIGITS).sha256()


@pytest.mark.parametrize("header", ["label,name", HEADER.replace("label", "0x0")])
def test_header_without_784_different_pixels_is_an_error(parse: Parse, header: str) -> None:
    with pytest.raises(DataError, match=r"digits\.csv: .*(784 columns|same name)"):
        parse(header, *DIGITS)


@pytest.mark.parametrize(
    "lines",
    [
        [HEADER.replace("label", "y"), *DIGITS],
        [line.split(",", 1)[1] for line in DIGITS],
    ],
)
def test_rows_without_a_label_are_an_error_of_their_own(parse: Parse, lines: list[str]) -> None:
    with pytest.raises(UnlabelledError):
        parse(*lines)


def test_zeros_and_ones_are_no_and_full_ink(parse: Parse) -> None:
    bits = parse(row(3, p3=1), row(p3=1, p4=1), row())
    levels = parse(row(3, p3=1), row(p3=1, p4=200), row())
    shares = parse(row(3, p3=1), row(p3=1, p4=0.2), row())

    assert bits.images[:, 3:5].tolist() == [[255, 0], [255, 255], [0, 0]]
    assert levels.images[:, 3:5].tolist() == [[1, 0], [1, 200], [0, 0]]
    assert shares.images[:, 3:5].tolist() == [[255, 0], [255, 51], [0, 0]]


def test_rows_without_a_label_beside_others_are_left_out(parse: Parse) -> None:
    assert parse(row(3), row(""), row(-1), row("7.0")).labels.tolist() == [3, 7]


def test_commas_in_quotes_separate_nothing(parse: Parse) -> None:
    header, noted = f'"note, of whom",{HEADER}', '"seven, slim"'

    assert parse(header, f"{noted},{row(7)}", f"{noted},{row(3)}").labels.tolist() == [7, 3]


@settings(max_examples=20)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(0, 1), st.randoms())
def test_label_in_another_column_is_never_taken_for_a_pixel(
    parse: Parse, labels: list[int], ink: int, random: Random
) -> None:
    pixels = [[ink * random.randrange(200, 256) for _ in range(10)] for _ in labels]
    images = [",".join(map(str, [0] * 300 + some + [0] * 474)) for some in pixels]
    rows = list(zip(labels, images, strict=True))

    with pytest.raises(DataError, match="name all columns in a header"):
        parse(*(f"{image},{label}" for label, image in rows))
    if any(labels):
        assert parse(*(f"{label},{image}" for label, image in rows)).labels.tolist() == labels
    else:
        with pytest.raises(DataError, match="the first column or the last may hold the labels"):
            parse(*(f"{label},{image}" for label, image in rows))


def test_first_column_must_hold_digits() -> None:
    with pytest.raises(DataError, match="the first column does not hold labels from 0 to 9"):
        check_label_first(np.array([255.0, 250]), np.array([3.0, 4]), np.full((784, 2), 9.0), "a")


@pytest.mark.parametrize("first", [[np.nan, np.nan], [-1, 3], [np.nan, 0], [0, 1]])
def test_labels_may_be_missing(first: list[float]) -> None:
    check_label_first(np.array(first), np.zeros(2), np.zeros((784, 2)), "a")


def test_labels_in_the_last_column_are_not_taken_as_pixels(parse: Parse) -> None:
    with pytest.raises(DataError, match="column 785"):
        parse(*(",".join(line.split(",")[1:] + line.split(",")[:1]) for line in DIGITS))


def test_values_with_line_breaks_are_read(parse: Parse, tmp_path: Path) -> None:
    notes = ["a\nb", '"', "\r\n,\n\n", "", 'x""\n"7",', "\n" * 500, "é"]
    with (tmp_path / "a.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["no\nte", "label", *range(784)])
        writer.writerows([note, n, *[n] * 783, 255] for n, note in enumerate(notes))

    dataset = parse(data=(tmp_path / "a.csv").read_bytes())

    assert dataset.labels.tolist() == list(range(7))
    assert dataset.images[:, 0].tolist() == list(range(7))


@pytest.mark.parametrize(("bad", "line"), [(row("x"), 6), (row(p5=9), 6), (row()[:-2], 6)])
def test_line_of_a_fault_is_counted_beside_values_with_line_breaks(
    parse: Parse, bad: str, line: int
) -> None:
    with pytest.raises(DataError, match=rf"line {line}: "):
        parse(f'"no\nte",{HEADER}', f'"a\n\nb",{row(p3=255)}', f"c,{bad}")


def test_truncated_gzip_is_an_error(parse: Parse) -> None:
    with pytest.raises(DataError, match=r"digits\.csv: the gzip file is"):
        parse(data=gzip.compress(row().encode())[:-4])
