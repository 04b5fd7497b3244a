"""Predictions of CSV files: the account, the bits and the parts are those of Parquet files."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from nanograd.digits.dataset import Mnist
from nanograd.errors import DataError, OutputExistsError, StorageError, UsageError
from nanograd.jobs import cutting
from nanograd.jobs.part import Part
from nanograd.jobs.predict import PredictWork
from nanograd.jobs.receipts import Receipt
from tests.helpers.folders import untimed_contents
from tests.helpers.growth import Run
from tests.helpers.image_columns import FLAT_NAMES

ROWS = 29
NAMES = FLAT_NAMES["pixel0"]


def text(header: list[str], *columns: Any, end: str = "\n") -> str:
    rows = [header] * bool(header) + [list(map(str, each)) for each in zip(*columns, strict=True)]
    return "".join(",".join(row) + end for row in rows)


@pytest.fixture
def images(sample: Mnist) -> NDArray[np.uint8]:
    return np.asarray(sample.test.images[:ROWS])


@pytest.fixture
def labels(sample: Mnist) -> list[int]:
    return list(map(int, sample.test.labels[:ROWS]))


def predictions(out: Path) -> pa.Table:
    table = pq.read_table(out / "predictions").sort_by("source_row")
    return table.select(["source_row", "prediction", "confidence", "probabilities", "label"])


def kaggle(images: NDArray[Any], labels: list[int], end: str = "\n") -> bytes:
    return text(["label", *NAMES], labels, *images.T, end=end).encode()


FORMS: dict[str, Callable[[NDArray[Any], list[int]], bytes]] = {
    "header": kaggle,
    "no header": lambda images, labels: text([], labels, *images.T).encode(),
    "CRLF, BOM": lambda images, labels: b"\xef\xbb\xbf" + kaggle(images, labels, end="\r\n"),
    "gzip": lambda images, labels: gzip.compress(kaggle(images, labels)),
    "index of pandas": lambda images, labels: text(
        ["", *NAMES, "Label"], range(ROWS), *images.T, [f"{label}.0" for label in labels]
    ).encode(),
    "shares": lambda images, labels: kaggle(images / 255, labels),
    "quoted": lambda images, labels: text(
        ["label", *NAMES], [f'"{label}"' for label in labels], *images.T
    ).encode(),
    "blank lines": lambda images, labels: kaggle(images, labels).replace(b"\n", b"\n\r\n \n"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gets_the_scores_of_parquet(
    form: str, images: NDArray[Any], labels: list[int], folder: Path, out: Path, run: Run
) -> None:
    pq.write_table(pa.table({"image": list(images), "label": labels}), folder / "a.parquet")
    run()
    expected = predictions(out)
    (folder / "a.parquet").unlink()
    (folder / "a.csv").write_bytes(FORMS[form](images, labels))

    figures = run(overwrite=True)

    assert (figures["rows"], figures["predicted"], figures["labelled"]) == (ROWS, ROWS, ROWS)
    assert predictions(out).equals(expected)


@pytest.mark.parametrize("header", [NAMES, [], [str(number) for number in range(784)]])
def test_rows_without_labels_are_predicted(
    header: list[str], images: NDArray[Any], folder: Path, run: Run
) -> None:
    (folder / "test.csv").write_text(text(header, *images.T))

    figures = run()

    assert (figures["predicted"], figures["labelled"], figures["accuracy"]) == (ROWS, 0, None)


def test_damaged_lines_are_quarantined_alone_with_their_reasons(
    images: NDArray[Any], labels: list[int], folder: Path, out: Path, run: Run
) -> None:
    lines = kaggle(images, labels).decode().splitlines()
    first = lines[1].split(",", 2)[2]
    lines[3] = "7,0"
    lines[5] = f"7,x,{first}"
    lines[7] = f'7,"0,{first}'
    lines[9] = f"7,,{first}"
    lines[11] = f"7,1e999,{first}"
    lines[13] = f"10,0,{first}"
    (folder / "a.csv").write_text("\n".join(lines))

    figures = run()

    bad = pq.read_table(out / "quarantine").sort_by("source_row").to_pylist()
    assert [(row["source_row"], row["reason"], row["detail"]) for row in bad] == [
        (2, "wrong_shape", "the line has 2 values, and not 785"),
        (4, "bad_pixel", "a pixel is 'x', not a number"),
        (6, "wrong_shape", "a quoted value does not end in its line"),
        (8, "wrong_shape", "a pixel is null"),
        (10, "bad_pixel", "a pixel is not a finite number"),
    ]
    assert (figures["rows"], figures["predicted"], figures["bad_labels"]) == (ROWS, ROWS - 5, 1)
    assert predictions(out)["source_row"].to_pylist() == sorted(
        {*range(ROWS)} - {row["source_row"] for row in bad}
    )


def test_kept_columns_are_text_as_written(
    images: NDArray[Any], folder: Path, out: Path, run: Run
) -> None:
    columns = {
        "id": range(ROWS),
        "zip": [f"0{number}" for number in range(ROWS)],
        "share": [0.5] * (ROWS - 1) + [""],
        "name": ['"Ångström, A."'] * ROWS,
    }
    (folder / "a.csv").write_text(text([*columns, *NAMES], *columns.values(), *images.T))

    run(keep=("*",))

    table = pq.read_table(out / "predictions").sort_by("source_row")
    types = {field.name: str(field.type) for field in table.schema if field.name in columns}
    assert types == dict.fromkeys(columns, "string")
    assert table["id"].to_pylist() == [str(number) for number in range(ROWS)]
    assert table["zip"].to_pylist()[:2] == ["00", "01"]
    assert table["share"].to_pylist()[-2:] == ["0.5", None]
    assert table["name"].to_pylist()[0] == "Ångström, A."


def test_kept_columns_of_a_growing_input_may_look_like_numbers_or_not(
    images: NDArray[Any], folder: Path, out: Path, run: Run
) -> None:
    for name, ids in {
        "a": range(12345, 12345 + ROWS),
        "b": [f"000{n}" for n in range(ROWS)],
    }.items():
        (folder / f"{name}.csv").write_text(text(["id", *NAMES], ids, *images.T))
        figures = run(keep=("id",))

    assert figures["predicted"] == 2 * ROWS
    assert {"12345", "0001"} <= set(pq.read_table(out / "predictions")["id"].to_pylist())


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_large_file_is_cut_and_resumed_and_grows(
    pack: Callable[[bytes], bytes], images: NDArray[Any], labels: list[int], folder: Path,
    out: Path, run: Run, messages: list[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (folder / "a.csv").write_bytes(pack(kaggle(images, labels)))
    run()
    expected = predictions(out)
    monkeypatch.setattr(cutting, "wanted_rows", lambda _: 7)

    run(overwrite=True)
    whole = untimed_contents(out)
    work, done = PredictWork.__call__, list[Receipt]()

    def fail_at_the_third(self: PredictWork, part: Part) -> Receipt:
        if len(done) == 2:
            raise StorageError("the disk is full")
        done.append(work(self, part))
        return done[-1]

    with monkeypatch.context() as patch, pytest.raises(StorageError):
        patch.setattr(PredictWork, "__call__", fail_at_the_third)
        run(overwrite=True)
    run(overwrite=True)
    resumed = untimed_contents(out)
    (folder / "b.csv").write_bytes(pack(kaggle(images, labels)))
    grown = run()

    assert any("2 of 4 parts are done already" in each for each in messages)
    assert resumed == whole
    # Scores of seven rows at a time may differ in their last bits.
    table = predictions(out).select(["source_row", "prediction", "label"])
    assert table.filter(pa.array([True, False] * ROWS)).equals(expected.select(table.column_names))
    assert (grown["rows"], grown["files"]) == (2 * ROWS, 2)
    (folder / "b.csv").write_bytes(pack(kaggle(images[:7], labels[:7])))
    with pytest.raises(OutputExistsError, match="1 input files or their labels have changed"):
        run()
    assert run(sync=True)["rows"] == ROWS + 7


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a.csv is empty; expected a header or rows of 784 pixels"),
        (b"\r\n \n", "a.csv is empty"),
        (b"id,name\n1,x\n", "the header names no 784 columns of pixels"),
        (b"label;pixel0;pixel1\n1;0;0\n", "separated by commas"),
        (b"1,2,3\n", "the first line has 3 values; expected a header, 784 pixels, or a label"),
        (gzip.compress(b"label", mtime=0)[:-9], "the gzip file is damaged or cut short"),
        (b"0" * (17 << 20), "a line has more than 16 MB"),
        (b"PAR1", "the header names no 784 columns of pixels"),
    ],
)
def test_file_that_is_no_table_of_pixels_is_one_sentence(
    data: bytes, message: str, folder: Path, run: Run
) -> None:
    (folder / "a.csv").write_bytes(data)

    with pytest.raises(DataError, match=message):
        run()


def test_labels_in_the_last_column_are_not_taken_as_pixels(
    images: NDArray[Any], labels: list[int], folder: Path, run: Run
) -> None:
    (folder / "a.csv").write_text(text([], *images.T, labels))

    with pytest.raises(DataError, match="another column than the first"):
        run()


@pytest.mark.parametrize("scale", [1, 1 / 255])
@pytest.mark.parametrize("rows", [slice(0, 4), slice(0, 1)])
@pytest.mark.parametrize("damaged", [False, True])
def test_few_labels_in_the_last_column_are_not_taken_as_pixels(
    images: NDArray[Any], labels: list[int], folder: Path, run: Run, rows: slice, scale: float,
    *, damaged: bool,
) -> None:  # fmt: skip
    lines = text([], *(images[rows].T * scale), labels[rows])
    (folder / "a.csv").write_text(lines + "\n1,2,3\n" * damaged)

    with pytest.raises(DataError, match=r"a.csv: the (first column|labels)"):
        run()


def test_labels_of_one_class_in_the_last_column_are_not_taken_as_pixels(
    images: NDArray[Any], folder: Path, run: Run
) -> None:
    many = np.resize(images, (20_000, 784))
    (folder / "a.csv").write_text(text([], *many.T, [0] * 19_999 + [7]))

    with pytest.raises(DataError, match="another column than the first"):
        run()


def test_header_alone_is_no_rows(folder: Path, run: Run) -> None:
    (folder / "a.csv").write_text(text(["label", *NAMES], *[[]] * 785))

    assert run()["rows"] == 0


def test_csv_beside_parquet_is_left_out_unless_it_is_named(
    images: NDArray[Any], folder: Path, run: Run, messages: list[str]
) -> None:
    pq.write_table(pa.table({"image": list(images)}), folder / "a.parquet")
    (folder / "labels.csv").write_text("file,label\na.png,7\n")

    figures = run()

    assert (figures["rows"], figures["files"]) == (ROWS, 1)
    assert any("1 CSV files beside Parquet files" in each for each in messages)


def test_output_as_csv_does_not_become_input(images: NDArray[Any], folder: Path, run: Run) -> None:
    (folder / "a.csv").write_text(text(NAMES, *images.T))

    with pytest.raises(UsageError, match="lies in the input"):
        run(format="csv", output=str(folder / "out"))


@pytest.mark.parametrize("cell", ["9" * 200_000, '"' + "x" * 200_000 + '"', "\0"])
def test_any_cell_is_a_row_of_quarantine_at_worst(
    images: NDArray[Any], labels: list[int], folder: Path, out: Path, run: Run, cell: str
) -> None:
    lines = kaggle(images, labels).decode().splitlines()
    lines[3] = f"7,{cell},{lines[1].split(',', 2)[2]}"
    (folder / "a.csv").write_text("\n".join(lines))

    figures = run()

    assert (figures["rows"], figures["predicted"]) == (ROWS, ROWS - 1)
    [bad] = pq.read_table(out / "quarantine").to_pylist()
    assert (bad["source_row"], bad["reason"]) == (2, "bad_pixel")
