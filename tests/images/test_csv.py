"""CSV files as data sets: what a row means, and which file is refused."""

import gzip
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanograd.digits.dataset import Dataset
from nanograd.errors import DataError
from nanograd.images import sources
from nanograd.images.csv import CsvFile

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


FORMS = {
    "plain": f"{row(3)}\n{row(4)}",
    "crlf": f"{HEADER}\r\n{row(3)}\r\n{row(4)}\r\n",
    "bom": f"\ufeff{HEADER}\r\n{row(3)}\r\n{row(4)}\r\n",
    "numbered": "label," + ",".join(map(str, range(784))) + f"\n{row(3)}\n{row(4)}",
    "cr": f"{HEADER}\r{row(3)}\r{row(4)}\r",
    "blank lines": f"{row(3)}\n\n{row(4)}\n\n\n",
    "index of pandas": f"{HEADER[5:]},Label\n0{row('')},3.0\n1{row('')},4.0",
    "quoted": f"{row(3).replace('0', chr(34) + '0' + chr(34))}\n{row(4)}",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gzip"])
def test_every_common_form_is_parsed(parse, form, pack):
    dataset = parse(data=pack(FORMS[form].encode()))

    assert dataset.labels.tolist() == [3, 4]
    assert not dataset.images.any()


BAD = {
    **{f"label {label}": row(label) for label in (10, "seven", "1e3")},
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
def test_bad_row_is_an_error_that_names_file_and_line(parse, before, number, bad):
    with pytest.raises(DataError, match=rf"digits\.csv, line {number}: "):
        parse(*before, BAD[bad], row())


@pytest.mark.parametrize("with_labels", [True, False])
@pytest.mark.parametrize("bad", ["a value too few", "a value too many", "empty pixel"])
def test_damaged_first_row_does_not_decide_how_the_others_are_read(tmp_path, bad, with_labels):
    file, start = tmp_path / "digits.csv", 0 if with_labels else 2
    file.write_text("\n".join(line[start:] for line in (BAD[bad], row(3), row(4))))

    (number, _), found = CsvFile(str(file)).scan(), CsvFile(str(file))

    assert (number, found.has_header, len(found.names)) == (3, False, 784 + with_labels)


DIGITS = [row(number % 10, p400=number, p783=255) for number in range(40)]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([HEADER], "none of 0 rows"),
        (["label,name", *DIGITS], "names no 784 columns"),
        ([HEADER.replace("label", "0x0"), *DIGITS], "names a column twice"),
        ([HEADER.replace("label", "y"), *DIGITS], "has no labels"),
        ([line.split(",", 1)[1] for line in DIGITS], "has no labels"),
        ([row(), row("s\udcebven")], "line 2: column 'label' has '.*', which is not in UTF-8"),
    ],
)
def test_file_without_rows_labels_or_784_different_pixels_is_an_error(parse, lines, words):
    with pytest.raises(DataError, match=rf"digits\.csv.*{words}"):
        parse(data="\n".join(lines).encode(errors="surrogateescape"))


@pytest.mark.parametrize("spelling", ["pixel{}", "pixel_{}", "{}"])
@settings(max_examples=3)
@given(data=st.data())
def test_columns_are_found_by_their_names_in_any_order(parse, spelling, data):
    names = ["Label", *(spelling.format(number) for number in range(784)), "id"]
    order = data.draw(st.permutations(range(len(names))))
    lines = [names, *(f"{line},{9_999 + number}".split(",") for number, line in enumerate(DIGITS))]

    dataset = parse(*(",".join(cells[index] for index in order) for cells in lines))

    assert dataset.sha256() == parse(*DIGITS).sha256()


def test_zeros_and_ones_are_no_and_full_ink(parse):
    bits = parse(row(3, p3=1), row(p3=1, p4=1), row())
    levels = parse(row(3, p3=1), row(p3=1, p4=200), row())
    shares = parse(row(3, p3=1), row(p3=1, p4=0.2), row())

    assert bits.images[:, 3:5].tolist() == [[255, 0], [255, 255], [0, 0]]
    assert levels.images[:, 3:5].tolist() == [[1, 0], [1, 200], [0, 0]]
    assert shares.images[:, 3:5].tolist() == [[255, 0], [255, 51], [0, 0]]


def test_rows_without_a_label_beside_others_are_left_out(parse):
    assert parse(row(3), row(""), row(-1), row("7.0")).labels.tolist() == [3, 7]
    assert parse(row(""), row(0), row(1)).labels.tolist() == [0, 1]


@settings(max_examples=10)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=7), st.integers(0, 1), st.randoms())
def test_label_in_another_column_is_never_taken_for_a_pixel(parse, labels, ink, random):
    pixels = [[ink * random.randrange(200, 256) for _ in range(10)] for _ in labels]
    images = [",".join(map(str, [0] * 300 + some + [0] * 474)) for some in pixels]
    rows = list(zip(labels, images, strict=True))

    with pytest.raises(DataError, match="in a header"):
        parse(*(f"{image},{label}" for label, image in rows))
    if any(labels):
        assert parse(*(f"{label},{image}" for label, image in rows)).labels.tolist() == labels
    else:
        with pytest.raises(DataError, match="in a header"):
            parse(*(f"{label},{image}" for label, image in rows))


def test_labels_are_looked_for_in_every_column(tmp_path):
    cells = [line.split(",") for line in DIGITS]

    for lines in (
        [[*line[1:], line[0]] for line in cells],
        [[*line[1:300], line[0], *line[300:]] for line in cells],
        [["250", *line[1:]] for line in cells],
        # Labels of one class in the last column but for the last row.
        [*[[*line[1:], "0"] for line in cells] * 500, [*cells[0][1:], "7"]],
    ):
        (tmp_path / "a.csv").write_text("\n".join(map(",".join, lines)))
        with pytest.raises(DataError, match="in a header"):
            CsvFile(str(tmp_path / "a.csv")).scan()


@pytest.mark.parametrize("bad", [row("x"), row(p5=9), row()[:-2]])
def test_line_of_a_fault_is_counted_beside_values_with_line_breaks(parse, bad):
    with pytest.raises(DataError, match="line 6: "):
        parse(f'"no\nte",{HEADER}', f'"a\n\nb",{row(p3=255)}', f"c,{bad}")
