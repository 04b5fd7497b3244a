"""Predictions of CSV files: the account, the bits and the parts are those of Parquet files."""

import gzip
from typing import Any

import pytest
from numpy.typing import NDArray

from nanograd.digits.dataset import Mnist
from nanograd.errors import DataError, OutputExistsError
from nanograd.jobs import part as part_module
from tests.helpers.image_columns import FLAT_NAMES, csv_text
from tests.jobs.conftest import ROWS

NAMES = FLAT_NAMES["pixel0"]


@pytest.fixture
def labels(sample: Mnist) -> list[int]:
    return list(map(int, sample.test.labels[:ROWS]))


def kaggle(images: NDArray[Any], labels: list[int]) -> bytes:
    return csv_text(["label", *NAMES], labels, *images.T).encode()


def test_rows_without_labels_are_predicted(case, images):
    for name, header in {"a": NAMES, "b": [], "c": FLAT_NAMES["0"]}.items():
        case.write(f"{name}.csv", csv_text(header, *images.T).encode())
    case.write("d.csv", csv_text(["label", *NAMES], *[[]] * 785).encode())  # no rows

    figures = case.run()

    assert (figures["rows"], figures["predicted"], figures["labelled"]) == (87, 87, 0)
    assert figures["accuracy"] is None


def test_damaged_lines_are_quarantined_alone_with_their_reasons(case, images, labels):
    lines = kaggle(images, labels).decode().splitlines()
    first = lines[1].split(",", 2)[2]
    damaged = [
        ("7,0", "wrong_shape", "the line has 2 values, and not 785"),
        (f"7,x,{first}", "bad_pixel", "a pixel is 'x', not a number"),
        (f'7,"0,{first}', "wrong_shape", "a quoted value does not end in its line"),
        (f"7,,{first}", "wrong_shape", "a pixel is null"),
        (f"7,1e999,{first}", "bad_pixel", "a pixel is not a finite number"),
        (f"7,{'9' * 200_000},{first}", "bad_pixel", None),
        (f"7,\0,{first}", "bad_pixel", None),
    ]
    for number, (line, _, _) in enumerate(damaged):
        lines[2 * number + 3] = line
    lines[25] = f"10,0,{first}"
    case.write("a.csv", "\n".join(lines).encode())

    figures = case.run()

    bad = case.table("quarantine").to_pylist()
    rows = [2 * number + 2 for number in range(len(damaged))]
    assert [row["source_row"] for row in bad] == rows
    for found, (_, reason, detail) in zip(bad, damaged, strict=True):
        assert found["reason"] == reason
        assert detail in (found["detail"], None)
    assert (figures["rows"], figures["predicted"], figures["bad_labels"]) == (ROWS, ROWS - 7, 1)
    assert case.table()["source_row"].to_pylist() == sorted({*range(ROWS)} - {*rows})


def test_kept_columns_are_text_as_written(case, images):
    columns = {
        "id": range(12345, 12345 + ROWS),
        "zip": [f"0{number}" for number in range(ROWS)],
        "share": [0.5] * (ROWS - 1) + [""],
        "name": ['"Ångström, A."'] * ROWS,
    }
    case.write("a.csv", csv_text([*columns, *NAMES], *columns.values(), *images.T).encode())

    case.run(keep=("*",))

    table = case.table()
    types = {field.name: str(field.type) for field in table.schema if field.name in columns}
    assert types == dict.fromkeys(columns, "string")
    assert table["id"].to_pylist()[:2] == ["12345", "12346"]
    assert table["zip"].to_pylist()[:2] == ["00", "01"]
    assert table["share"].to_pylist()[-2:] == ["0.5", None]
    assert table["name"].to_pylist()[0] == "Ångström, A."
    columns["id"] = [f"000{number}" for number in range(ROWS)]
    case.write("b.csv", csv_text([*columns, *NAMES], *columns.values(), *images.T).encode())
    case.run(keep=("*",))
    assert {"12345", "0001"} <= set(case.table()["id"].to_pylist())


def test_row_with_text_that_is_not_utf_8_is_quarantined_if_the_text_is_read(case, images, labels):
    data = csv_text(["label", "name", *NAMES], labels, ["Rosa"] * ROWS, *images.T).encode()
    lines = data.splitlines()
    lines[2] = lines[2].replace(b"Rosa", b"M\xfcller")
    lines[4] = b"\xfc" + lines[4][1:]
    case.write("a.csv", b"\n".join(lines))

    assert case.run(label_column="none")["predicted"] == ROWS
    figures = case.run(keep=("name",), overwrite=True)

    bad = case.table("quarantine").to_pylist()
    assert [row["source_row"] for row in bad] == [1, 3]
    assert {row["reason"] for row in bad} == {"wrong_shape"}
    assert bad[0]["detail"] == (
        r"column 'name' has 'M\xfcller', which is not in UTF-8; save the file in UTF-8"
    )
    assert "column 'label' has " in bad[1]["detail"]
    assert (figures["predicted"], figures["bad_labels"]) == (ROWS - 2, 0)
    assert case.table()["name"].to_pylist() == ["Rosa"] * (ROWS - 2)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_large_file_is_cut_and_grows(pack, case, images, labels, monkeypatch):
    case.write("a.csv", pack(kaggle(images, labels)))
    case.run()
    # Scores of seven rows at a time may differ in their last bits.
    names = ["source_row", "prediction", "label"]
    expected = case.table().select(names)
    monkeypatch.setattr(part_module, "wanted_rows", lambda *_: 7)
    case.run(overwrite=True)
    assert case.table().select(names).equals(expected)

    case.write("b.csv", pack(kaggle(images, labels)))
    grown = case.run()

    assert any("4 of 8 parts are done already" in each for each in case.messages)
    assert case.table().select(names).slice(0, ROWS).equals(expected)
    assert (grown["rows"], grown["files"]) == (2 * ROWS, 2)
    case.write("b.csv", pack(kaggle(images[:7], labels[:7])))
    case.refuse(OutputExistsError, "1 input file changed since")
    assert case.run(sync=True)["rows"] == ROWS + 7


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\r\n \n", "a.csv is empty; expected a header or rows of 784 pixels"),
        (b"id,name\n1,x\n", "the header names no 784 columns of pixels"),
        (b"label;pixel0;pixel1\n1;0;0\n", "separated by commas"),
        (b"label,Gr\xf6\xdfe\n", r"header has 'label,Gr\\xf6\\xdfe', which is not in UTF-8; save"),
        (b"1,2,3\n", "the first line has 3 values; expected a header, 784 pixels, or a label"),
        (gzip.compress(b"label", mtime=0)[:-9], "the gzip file is damaged or cut short"),
        (b"0" * (17 << 20), "a line has more than 16 MB"),
    ],
)
def test_file_that_is_no_table_of_pixels_is_one_sentence(data, message, case):
    case.write("a.csv", data)

    case.refuse(DataError, message)
