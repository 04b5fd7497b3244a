"""Which columns `predict` reads, refuses, keeps and writes."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from nanograd.errors import DataError, OutputExistsError, UsageError
from nanograd.images.writers import PREDICTIONS, QUARANTINE
from tests.helpers.image_columns import fixed_list, raw
from tests.jobs.conftest import ROWS

FORMATS = pytest.mark.parametrize("format_", ["parquet", "csv", "jsonl"])


@pytest.mark.parametrize("flag", ["image_column", "label_column", "keep"])
def test_column_that_no_file_has_is_a_usage_error_with_the_columns_that_exist(case, images, flag):
    case.write("a.parquet", {"image": fixed_list(images), "label": [7] * ROWS})
    case.write("writer=ann/b.parquet", {"image": fixed_list(images), "id": range(ROWS)})

    folder = "" if flag == "image_column" else ", writer"  # text, so it has no images
    for name in ("Image", " label", "größe"):
        words = f"{name}: no file has this.*image, label, id{folder}$"
        case.refuse(UsageError, words, **{flag: (name,) if flag == "keep" else name})
    case.refuse(UsageError, "--label-from has no effect: there are no pictures", label_from="name")
    case.run()
    value = ("Image",) if flag == "keep" else "Image"
    case.refuse(UsageError, "no file has this", overwrite=True, **{flag: value})


@pytest.mark.parametrize(
    ("column", "settings", "words"),
    [
        ({"name": ["a"]}, {}, "a.parquet: no image column is recognised among name"),
        ({"left": [b"x"], "right": [b"x"]}, {}, "left or right; choose with --image-column"),
        ({"image": [b"x"], "label": [True]}, {"label_column": "label"}, "'label' holds bool"),
    ],
)
def test_input_without_a_usable_file_ends_when_it_is_planned(column, settings, words, case):
    case.write("a.parquet", column)
    case.refuse(DataError, words, **settings)

    case.write("b.parquet", column)
    case.write("c.parquet", b"")
    case.refuse(DataError, f"{words}.*none of 2 more files", **settings)


def test_hive_folders_give_labels_and_columns_to_keep(case, images):
    for label in (3, 7):
        columns = {"image": fixed_list(images)}
        case.write(f"label={label}/writer=O%27Hara-{label}/x.parquet", columns)
    case.write("label=4/own.parquet", {"image": fixed_list(images), "label": [5] * ROWS})

    case.run(keep=("writer",))
    table = case.table()
    found = dict(zip(table["label"].to_pylist(), table["writer"].to_pylist(), strict=True))
    assert found == {3: "O'Hara-3", 7: "O'Hara-7", 5: None}  # a column precedes its folder
    below = case.folder / "label=3"
    case.run(below, keep=("*",), overwrite=True)  # a folder above the input is no column
    table = case.table()
    assert set(table["label"].to_pylist()) == {None}
    assert set(table["writer"].to_pylist()) == {"O'Hara-3"}
    words = "--image-column writer: no file has this column; there are image, label$"
    case.refuse(UsageError, words, image_column="writer", overwrite=True)


def test_label_that_is_no_digit_leaves_its_row_predicted_and_is_counted(case, images):
    labels = ["7.0", None, "seven", "-1", *["3"] * (ROWS - 4)]
    case.write("a.parquet", {"image": raw(images), "label": labels})

    figures = case.run(keep=("label",))

    table = case.table()
    assert (figures["predicted"], figures["labelled"], figures["bad_labels"]) == (ROWS, 26, 1)
    assert table["label"].to_pylist() == [7, None, None, None, *[3] * 25]
    assert table["input_label"].to_pylist() == labels
    assert len(case.messages) == 1
    assert case.messages[0].startswith("the label of 1 predicted row is null")


def test_label_column_that_cannot_hold_digits_is_named_in_a_warning(case, images):
    case.write("a.parquet", {"image": raw(images), "label": [True] * ROWS})
    case.write("b.parquet", {"image": raw(images), "label": [7] * ROWS})

    figures = case.run()

    assert figures["labelled"] == ROWS
    assert len(case.messages) == 1
    assert "1 of 2 files are predicted without labels" in case.messages[0]
    case.run(label_column="none", overwrite=True)
    assert len(case.messages) == 1


@FORMATS
@pytest.mark.parametrize("num_bad", [0, 1])
def test_both_folders_exist_with_their_schemas(num_bad, format_, case, images):
    rows = [*raw(images).to_pylist(), *[b"no picture"] * num_bad]
    case.write("a.parquet", {"id": range(len(rows)), "image": rows})
    case.write("b.parquet", {"id": range(ROWS), "image": raw(images)})

    case.run(format=format_)

    predictions = list((case.out / "predictions").iterdir())
    [file] = (case.out / "quarantine").iterdir()
    assert len(predictions) == 2
    if format_ == "parquet":
        assert all(pq.read_schema(each).equals(PREDICTIONS) for each in predictions)
        assert pq.read_schema(file).equals(QUARANTINE)
        assert len(case.quarantine()) == num_bad
    elif format_ == "csv":
        header = file.read_text().splitlines()[0].replace('"', "")
        assert header.split(",") == QUARANTINE.names


def test_files_without_rows_have_predictions_of_the_right_schema(case, images):
    case.write("a.parquet", {"image": raw(images)[:0]})
    figures = case.run()
    none, report = case.table(), (case.out / "report.html").read_text()
    case.write("a.parquet", {"name": ["x"]})
    case.write("b.parquet", {"id": range(ROWS), "image": raw(images)})

    case.run(keep=("id",), no_probabilities=True, overwrite=True)

    names = ["id", *(name for name in PREDICTIONS.names if name != "probabilities")]
    [file] = (case.out / "predictions").iterdir()
    assert pq.read_schema(file).names == names
    assert (figures["rows"], none.schema.equals(PREDICTIONS)) == (0, True)
    assert "0 rows: 0 classified, 0 in quarantine" in report


def test_no_row_predicted_is_a_failure_with_the_commonest_detail(case, images):
    standardised = (images / 255 - 0.13) / 0.31
    file = case.write("a.parquet", {"image": list(standardised)})

    for _ in range(2):
        with pytest.raises(
            DataError, match=r"29 of 29 rows .*bad_pixel: .*first: .*parquet, row 0"
        ):
            case.run()

    assert not (case.out / "_SUCCESS").exists()
    assert len(case.quarantine()) == ROWS
    case.write("b.parquet", {"image": raw(images)})
    [detail] = case.run(overwrite=True)["details"]
    assert detail == {
        **{"reason": "bad_pixel", "rows": ROWS, "files": 0, "source_row": 0},
        "detail": case.table("quarantine")["detail"][0].as_py(),
        **{"path": str(file), "source_file": str(file)},
    }
    assert "a pixel is below 0" in (case.out / "report.html").read_text()


def test_commonest_detail_is_first_whatever_the_order_of_parts(case, images):
    rows = raw(images[:20]).to_pylist()
    file = case.write("a.parquet", {"image": [*rows, None, b"x", None]})
    case.write("b.parquet", {"image": [None, *rows, b"", b"x", None]})

    details = case.run()["details"]

    assert [(each["reason"], each["rows"]) for each in details] == [
        *[("no_bytes", 4), ("broken_image", 2), ("empty", 1)]
    ]
    assert (details[0]["source_file"], details[0]["source_row"]) == (str(file), 20)
    assert json.loads((case.out / "_summary.json").read_text())["details"] == details


def date(year: int) -> datetime:
    return datetime(year, 12, 31, 23, 59, 59)


def in_lists(type_: pa.DataType) -> pa.DataType:
    return pa.list_(pa.struct({"a": type_}))


# Nested types of a type, and a value of each for int64.
NESTS: list[tuple[Callable[[pa.DataType], pa.DataType], Any]] = [
    (pa.list_, [2**63 - 1, None]),
    (pa.large_list, [2**63 - 1]),
    (lambda type_: pa.list_(type_, 1), [2**63 - 1]),
    (lambda type_: pa.struct({"x": pa.list_(type_), "y": pa.int8()}), {"x": [2**63 - 1], "y": 2}),
]
# Types of a column in two files, its value in the first one, and the type that holds both or, if
# none does, what is said.
KEPT: list[tuple[pa.DataType, pa.DataType, Any, pa.DataType | str]] = [
    (pa.int64(), pa.float64(), 2**53, pa.float64()),
    (pa.int64(), pa.float64(), 2**53 + 1, "a value does not fit double"),
    (pa.int32(), pa.float32(), 2**31 - 1, pa.float64()),
    (pa.uint64(), pa.int64(), 2**63, "a value does not fit int64"),
    (pa.uint8(), pa.int8(), 255, pa.int16()),
    (pa.int64(), pa.null(), 2**63 - 1, pa.int64()),
    (pa.string(), pa.large_string(), "x", pa.large_string()),
    (pa.string_view(), pa.string(), "x", pa.large_string()),
    (pa.binary_view(), pa.binary_view(), b"x", pa.large_binary()),
    (in_lists(pa.string_view()), pa.null(), [{"a": "x"}], in_lists(pa.large_string())),
    (in_lists(pa.string()), pa.null(), [{"a": "x"}], in_lists(pa.string())),
    (pa.timestamp("ms"), pa.timestamp("us"), date(9999), pa.timestamp("us")),
    (pa.timestamp("s"), pa.timestamp("ns"), date(2200), pa.timestamp("ns")),
    *(
        (pa.timestamp(unit), pa.timestamp("ns"), date(year), "a value does not fit timestamp")
        for unit, year in (("us", 9999), ("s", 2300), ("us", 1600))
    ),
    (pa.duration("s"), pa.duration("ns"), 10**10, "a value does not fit duration"),
    (pa.date32(), pa.timestamp("ns"), date(2000).date(), "the files hold date32"),
    (pa.decimal128(5, 2), pa.float64(), None, "the files hold decimal128"),
    (pa.int64(), pa.decimal128(10, 2), 2**63 - 1, pa.decimal128(22, 2)),
    (pa.uint64(), pa.decimal128(38, 20), 2**64 - 1, pa.decimal256(40, 20)),
    *(
        (nest(pa.int64()), nest(pa.decimal128(10, 2)), value, nest(pa.decimal128(22, 2)))
        for nest, value in NESTS
    ),
    *((nest(pa.decimal128(5, 2)), nest(pa.float64()), None, "the files hold") for nest, _ in NESTS),
    (pa.int64(), pa.string(), None, "the files hold int64 and string"),
    (pa.int64(), pa.struct([("x", pa.int8())]), None, "the files hold int64 and struct"),
]


@pytest.mark.parametrize(("first", "second", "value", "kept"), KEPT, ids=str)
def test_kept_column_has_a_type_for_all_values_or_ends_the_job(
    first, second, value, kept, case, images
):
    for name, type_, end in (("a", first, value), ("b", second, None)):
        column = pa.array([None] * (ROWS - 1) + [end], type_)
        case.write(f"{name}.parquet", {"image": raw(images), "at": column})

    if isinstance(kept, str):
        with pytest.raises(DataError, match=f"--keep at: {kept}.*; leave it out"):
            case.run(keep=("at",))
        assert not (case.out / "_SUCCESS").exists()
    else:
        case.run(keep=("at",))
        found = case.table()["at"]
        assert found.type == kept
        values = pa.array([None] * (ROWS - 1) + [value], first).cast(kept).to_pylist()
        assert found.to_pylist() == values + [None] * ROWS


def test_kept_column_that_gets_another_type_is_named(case, images):
    case.write("a.parquet", {"image": raw(images), "id": pa.array(range(ROWS), pa.int32())})
    case.run(keep=("id",))
    case.write("b.parquet", {"image": raw(images), "id": range(ROWS)})

    case.refuse(OutputExistsError, r"\(other keep: id was int32 and is int64\)", keep=("id",))


def test_all_columns_are_kept_but_those_of_the_images(case, images):
    ids = pa.array(range(ROWS))
    case.write("a.parquet", {"id": ids, "image": raw(images), "probabilities": ids, "label": ids})
    case.write("writer=ann/b.parquet", {"note": pa.array(["x"] * ROWS), "img": raw(images)})

    case.run(keep=("*",))

    table = case.table()
    assert table.column_names == [
        *["id", "input_probabilities", "input_label", "note", "writer", *PREDICTIONS.names]
    ]
    assert table["input_label"].to_pylist() == [*range(ROWS), *[None] * ROWS]
    assert table["note"].to_pylist() == [*[None] * ROWS, *["x"] * ROWS]
    assert table["writer"].to_pylist() == [*[None] * ROWS, *["ann"] * ROWS]
    pixels = {f"pixel{number}": images[:, number] for number in range(784)}
    case.write("a.parquet", {"Probability_3": ids, "image": raw(images), **pixels})
    (case.folder / "writer=ann/b.parquet").unlink()
    case.run(keep=("*",), image_column="image", format="csv", overwrite=True)
    [file] = (case.out / "predictions").iterdir()
    written = pa_csv.read_csv(file)
    assert written["input_Probability_3"].to_pylist() == [*range(ROWS)]
    names = [name.lower() for name in written.column_names]
    assert len(set(names)) == len(names) == len(PREDICTIONS) + 10


@pytest.mark.parametrize(
    ("name", "format_", "words"),
    [
        ("prediction", "parquet", "--keep prediction: "),
        ("box", "csv", "--format csv cannot hold column 'box'"),
        ("image", "csv", "--format csv cannot hold column 'image'"),
        ("image", "jsonl", "--format jsonl cannot hold column 'image'"),
    ],
)
def test_column_that_cannot_be_kept_is_refused(case, images, name, format_, words):
    boxes = [{"x": row, "words": [str(row)]} for row in range(ROWS)]
    case.write("a.parquet", {"id": range(ROWS), "image": raw(images), "box": boxes})

    case.refuse(UsageError, words, keep=("id", name), format=format_)
    case.write("b.parquet", b"PAR1")
    case.refuse(UsageError, "--keep x: no file has this.*; .*b.parquet is not a", keep=("x",))
    (case.folder / "b.parquet").unlink()
    case.run(keep=("box", "id"))
    assert case.table()["box"].to_pylist() == boxes


FAR = [(pa.timestamp("ms"), 2**53), (pa.date32(), 2**30), (pa.timestamp("s", tz="Mars/X"), 0)]


@pytest.mark.parametrize(
    ("format_", "type_", "value"),
    [
        *((format_, *far) for format_ in ("csv", "jsonl") for far in FAR),
        ("jsonl", pa.list_(pa.timestamp("ms")), [2**53]),
    ],
    ids=str,
)
def test_date_that_text_cannot_hold_ends_the_job(case, images, format_, type_, value):
    column = pa.array([None] * (ROWS - 1) + [value], type_)
    case.write("a.parquet", {"at": column, "image": raw(images)})

    words = f"--format {format_} cannot hold column 'at'.*leave it out of --keep or choose parquet"
    with pytest.raises(DataError, match=words):
        case.run(keep=("at",), format=format_)
    case.run(keep=("at",), overwrite=True)
    assert case.table()["at"].cast(type_).combine_chunks().equals(column)


@pytest.mark.parametrize("permutation", [None, (1, 0)])
def test_tensors_are_predicted_and_kept(permutation, case, images):
    pixels = images.reshape(-1, 28, 28)
    stored = np.ascontiguousarray(pixels.swapaxes(1, 2) if permutation else pixels)
    storage = pa.FixedSizeListArray.from_arrays(pa.array(stored.ravel()), 784)
    type_ = pa.fixed_shape_tensor(pa.uint8(), (28, 28), permutation=permutation)
    column = pa.ExtensionArray.from_storage(type_, storage)
    case.write("a.parquet", {"image": column, "id": range(ROWS)})
    case.write("b.parquet", {"img": raw(images, pa.binary())})

    case.run(keep=("*", "image", "image"))

    kept = case.table().slice(0, ROWS)
    assert kept.column_names[:3] == ["id", "image", "path"]
    assert kept["image"].type == type_
    assert kept["image"].combine_chunks().storage.to_pylist() == storage.to_pylist()


@FORMATS
@pytest.mark.parametrize("partition_by", [(), ("writer",)])
@pytest.mark.parametrize("is_dictionary", [False, True])
def test_text_that_is_not_utf8_fails_no_row(format_, partition_by, is_dictionary, case, images):
    odd = pa.array([*[b"7"] * (ROWS - 1), b"J\xfcrgen"]).view(pa.string())
    if is_dictionary:
        odd = pa.DictionaryArray.from_arrays(range(ROWS), odd)
    # 150 more columns let the stored schema have a length of several digits.
    more = {f"n{number}": range(ROWS) for number in range(150)}
    case.write("a.parquet", {"image": raw(images), "writer": odd, "label": odd, **more})

    figures = case.run(keep=("writer",), format=format_, partition_by=partition_by)

    assert (figures["predicted"], figures["labelled"]) == (ROWS, ROWS - 1)
    if not partition_by:
        table = case.read("predictions", [("writer", pa.string())])
        assert table["writer"].to_pylist() == [*["7"] * (ROWS - 1), "J\\xfcrgen"]


def test_output_is_cut_by_rows_and_by_values(case, images):
    for name in "ab":
        case.write(f"{name}.parquet", {"id": range(ROWS), "image": raw(images)})
    settings: dict[str, Any] = {"keep": ("id",), "rows_per_file": 20}
    case.run(**settings)
    files = (case.out / "predictions").iterdir()
    assert sorted(pq.read_metadata(file).num_rows for file in files) == [9, 9, 20, 20]
    expected = case.table()

    case.refuse(OutputExistsError, "other partition_by", **settings, partition_by=("prediction",))
    words = "--partition-by confidence.*--keep adds columns of the input"
    case.refuse(UsageError, words, **settings, partition_by=("confidence",))
    settings["partition_by"] = ("prediction",)
    case.run(**settings, overwrite=True)
    case.messages.clear()
    again = case.run(**settings)

    assert again["predicted"] == 2 * ROWS
    assert len(case.messages) == 1
    order = [("source_file", "ascending"), ("source_row", "ascending")]
    read = pq.read_table(case.out / "predictions").sort_by(order)
    for name in ("prediction", "probabilities"):
        assert list(map(str, read[name])) == list(map(str, expected[name]))
    (case.folder / "b.parquet").unlink()
    assert case.run(**settings, sync=True)["predicted"] == ROWS


def test_dark_ink_on_light_paper_is_obeyed_or_detected_with_a_warning(case, images):
    case.write("a.parquet", {"image": raw(images)})
    case.run()
    upright = case.table()["prediction"]
    case.write("a.parquet", {"image": raw(np.uint8(255) - images)})

    figures = case.run(overwrite=True)
    assert case.table()["prediction"].equals(upright)
    assert figures["dark_on_light"] == ROWS
    assert "29 rows of raw pixels with a bright border" in case.messages.pop()
    case.run(polarity="dark-on-light", overwrite=True)
    assert case.table()["prediction"].equals(upright)
    assert case.messages == []


@FORMATS
def test_each_row_has_its_columns_to_keep_in_predictions_or_quarantine(case, images, format_):
    rows = [image.tobytes() for image in images]
    for file in range(3):
        ids = [f"{file}-{row}" for row in range(ROWS)]
        data = [b"no picture" if row % 5 == file else rows[row] for row in range(ROWS)]
        case.write(f"{file}.parquet", {"image": data, "Reason": range(ROWS), "id": ids})
    case.write("broken.parquet", b"no table")

    figures = case.run(keep=("id", "Reason"), format=format_, max_broken_files=1)

    names = ["id", "input_Reason", "source_row"]
    columns = [("id", pa.string()), ("input_Reason", pa.int64()), ("source_row", pa.int64())]
    found = {n: case.read(n, columns).to_pylist() for n in ("predictions", "quarantine")}
    assert len(found["quarantine"]) == figures["quarantined"] + 1
    every = [row for rows in found.values() for row in rows if row["source_row"] is not None]
    assert sorted(row["id"] for row in every) == sorted(
        f"{file}-{row}" for file in range(3) for row in range(ROWS)
    )
    assert all(row["id"].endswith(f"-{row['source_row']}") for row in every)
    assert all(row["input_Reason"] == row["source_row"] for row in every)
    [broken] = [row for row in found["quarantine"] if row["source_row"] is None]
    assert not any(broken[name] for name in names)  # CSV has no null text


@FORMATS
def test_unreadable_file_and_line_keep_the_column_of_their_folder(case, images, format_):
    case.write("day=6/broken.parquet", b"no table")
    case.write("day=7/other.parquet", {"id": [1, 2]})
    pixels = [",".join(map(str, image)) for image in images[:3]]
    case.write("day=8/lines.csv", "\n".join([*pixels[:2], "1,2", pixels[2]]).encode())
    case.write("day=9/a.parquet", {"image": [images[0].tobytes(), b"no picture"]})
    inputs = (case.folder, case.folder / "day=8/*.csv")

    case.run(*inputs, keep=("day",), format=format_, max_broken_files=1)

    found = case.read("quarantine", {"day": pa.int64(), "source_row": pa.int64()}).to_pylist()
    rows = sorted((row["day"], row["source_row"] or 0) for row in found)
    assert rows == [(6, 0), (7, 0), (8, 2), (9, 1)]
