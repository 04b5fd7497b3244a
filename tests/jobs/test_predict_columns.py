"""Which columns `predict` reads, refuses, keeps and writes."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd import commands
from nanograd.digits.dataset import Mnist
from nanograd.errors import DataError, OutputExistsError, UsageError
from nanograd.images.writers import PREDICTIONS, QUARANTINE
from nanograd.models import model as model_io
from nanograd.runtime.events import Event, Message
from nanograd.settings.specs import PredictSpec
from tests.helpers.folders import untimed_contents
from tests.helpers.image_columns import FLAT_NAMES, Pixels, fixed_list, raw
from tests.helpers.models import some_model

ROWS = 29


class Job:
    """A folder of tables, a model and an output."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        model_io.save(some_model(), str(folder / "model"))

    def write(self, name: str, columns: Any) -> Path:
        table = columns if isinstance(columns, pa.Table) else pa.table(columns)
        file = self.folder / "in" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file)
        return file

    def run(self, **settings: Any) -> tuple[dict[str, Any], list[str]]:
        """Return the result line and the messages."""
        events: list[Event] = []
        place = {"model": str(self.folder / "model"), "output": str(self.out), "workers": 0}
        config = PredictSpec(**(place | settings))
        figures = commands.predict(
            [str(self.folder / "in")], spec=config, listener=events.append
        ).to_json()
        messages = [str(event) for event in events if isinstance(event, Message)]
        # The reference of this model is made up.
        return figures, [text for text in messages if "unlike the digits" not in text]

    def table(self, name: str = "predictions") -> pa.Table:
        order = [("source_file", "ascending"), ("source_row", "ascending")]
        return pq.read_table(self.out / name, partitioning=None).sort_by(order)

    def refuse(self, error: type[Exception], words: str, **settings: Any) -> None:
        """Check that a command is refused and leaves the output as it is."""
        before = untimed_contents(self.out)
        with pytest.raises(error, match=words):
            self.run(**settings)
        assert untimed_contents(self.out) == before


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


@pytest.fixture(scope="module")
def images(sample: Mnist) -> Pixels:
    return sample.test.images[:ROWS]


@pytest.mark.parametrize("flag", ["image_column", "label_column", "keep"])
@pytest.mark.parametrize("name", ["imge", "Image", " label", "image/", "größe"])
def test_column_that_no_file_has_is_a_usage_error_with_the_columns_that_exist(
    flag: str, name: str, job: Job, images: Pixels
) -> None:
    job.write("a.parquet", {"image": fixed_list(images), "label": [7] * ROWS})
    job.write("writer=ann/b.parquet", {"image": fixed_list(images), "id": range(ROWS)})
    value = (name,) if flag == "keep" else name

    job.refuse(UsageError, f"{name}: no file has this.*image, label, id, writer", **{flag: value})
    job.run()
    job.refuse(UsageError, f"{name}: no file has this", overwrite=True, **{flag: value})


def test_column_of_folders_may_hold_labels_but_no_images(job: Job, images: Pixels) -> None:
    job.write("class=7/a.parquet", {"image": fixed_list(images)})

    job.refuse(UsageError, "--image-column class: no file has this", image_column="class")
    figures, _ = job.run(label_column="class")
    assert figures["labelled"] == ROWS


def test_named_columns_of_some_files_do_not_affect_the_labels_of_others(
    job: Job, images: Pixels
) -> None:
    job.write("a.parquet", {"image": fixed_list(images), "class": ["7"] * ROWS})
    job.write("b.parquet", {"image": fixed_list(images), "label": [7] * ROWS})

    figures, _ = job.run(label_column="class")

    assert (figures["predicted"], figures["labelled"], figures["quarantined"]) == (58, ROWS, 0)


@pytest.mark.parametrize(
    ("column", "settings", "words"),
    [
        ({"name": ["a"]}, {}, "a.parquet: no image column is recognised among name"),
        ({"left": [b"x"], "right": [b"x"]}, {}, "left or right; choose with --image-column"),
        ({"name": ["a"]}, {"image_column": "name"}, "'name' holds string, which cannot be images"),
        (
            {"image": [b"x"], "label": [True]},
            {"label_column": "label"},
            "'label' holds bool, which cannot be digits",
        ),
        (
            pa.Table.from_arrays(
                [pa.array([b"x"]), *[pa.array([7])] * 2], ["image", "Label", "label"]
            ),
            {},
            "Label or label; choose with --label-column",
        ),
    ],
)
def test_input_without_a_usable_file_ends_when_it_is_planned(
    column: Any, settings: dict[str, Any], words: str, job: Job
) -> None:
    job.write("a.parquet", column)
    job.refuse(DataError, words, **settings)

    job.write("b.parquet", column)
    (job.folder / "in/c.parquet").write_bytes(b"")
    job.refuse(DataError, f"{words}.*none of 2 more files", **settings)


def test_coordinates_and_folders_named_y_are_no_labels(job: Job, images: Pixels) -> None:
    columns = {"image": raw(images), **{name: [5] * ROWS for name in ("x", "y", "w", "h")}}
    job.write("y=2026/m=11/a.parquet", columns)
    job.write("b.parquet", {**columns, "label": [7] * ROWS})

    figures, messages = job.run()

    assert (figures["predicted"], figures["labelled"], messages) == (58, ROWS, [])
    assert set(job.table()["label"].to_pylist()) == {None, 7}
    figures, _ = job.run(label_column="y", overwrite=True)
    assert (figures["labelled"], figures["bad_labels"]) == (58, 0)
    figures, _ = job.run(label_column="none", overwrite=True)
    assert (figures["labelled"], figures["accuracy"]) == (0, None)


def test_label_that_is_no_digit_leaves_its_row_predicted_and_is_counted(
    job: Job, images: Pixels
) -> None:
    labels = ["7.0", None, "seven", "-1", *["3"] * (ROWS - 4)]
    job.write("a.parquet", {"image": raw(images), "label": labels})

    figures, messages = job.run(keep=("label",))

    table = job.table()
    assert (figures["predicted"], figures["labelled"], figures["bad_labels"]) == (ROWS, 26, 1)
    assert table["label"].to_pylist() == [7, None, None, None, *[3] * 25]
    assert table["input_label"].to_pylist() == labels
    assert messages == [
        "1 rows have a label that is not a digit; they are predicted, and their label is null"
    ]


@pytest.mark.parametrize("type_", [pa.bool_(), pa.list_(pa.int8()), pa.date32()], ids=str)
def test_label_column_that_cannot_hold_digits_is_named_in_a_warning(
    type_: pa.DataType, job: Job, images: Pixels
) -> None:
    job.write("a.parquet", {"image": raw(images), "label": pa.nulls(ROWS, type_)})
    job.write("b.parquet", {"image": raw(images), "label": [7] * ROWS})

    figures, messages = job.run()

    assert figures["labelled"] == ROWS
    assert len(messages) == 1
    assert messages[0].startswith("column 'label' holds ")
    assert "1 of 2 files are predicted without labels" in messages[0]
    assert job.run(label_column="none", overwrite=True)[1] == []


def test_flat_columns_are_read_beside_a_binary_id(job: Job, images: Pixels) -> None:
    pixels = dict(zip(FLAT_NAMES["pixel0"], images.T, strict=True))
    job.write("a.parquet", {"id": [bytes(16)] * ROWS, **pixels, "blob": [b"x"] * ROWS})
    job.write("b.parquet", {"image": raw(images)})

    job.run(keep=("*",))

    table = job.table()
    assert table["prediction"].to_pylist()[:ROWS] == table["prediction"].to_pylist()[ROWS:]
    assert table.column_names[:2] == ["id", "blob"]


def test_rows_of_a_wrong_schema_are_counted_from_the_footer(job: Job, images: Pixels) -> None:
    job.write("a.parquet", {"image": raw(images)})
    job.write("b.parquet", {"name": pa.nulls(1_000_000, pa.string())})

    with pytest.raises(DataError, match=r"1,000,000 of 1,000,029 rows are unusable.*wrong_schema"):
        job.run(max_error_rate=0.01)
    figures, _ = job.run()

    assert figures["rows"] == figures["predicted"] + figures["quarantined"] == 1_000_029
    assert (figures["reasons"], figures["broken_files"]) == ({"wrong_schema": 1_000_000}, 0)
    [line] = job.table("quarantine").to_pylist()
    assert line["source_row"] is None
    assert "all 1,000,000 rows" in line["detail"]


@pytest.mark.parametrize("format_", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("num_bad", [0, 1])
def test_both_folders_exist_with_their_schemas(
    num_bad: int, format_: str, job: Job, images: Pixels
) -> None:
    rows = [*raw(images).to_pylist(), *[b"no picture"] * num_bad]
    job.write("a.parquet", {"id": range(len(rows)), "image": rows})
    job.write("b.parquet", {"id": range(ROWS), "image": raw(images)})

    job.run(format=format_, keep=("id",))

    assert len(list((job.out / "predictions").iterdir())) == 2
    [file] = (job.out / "quarantine").iterdir()
    if format_ == "parquet":
        assert pq.read_schema(file).equals(QUARANTINE)
        assert pq.read_table(job.out / "quarantine").num_rows == num_bad
    elif format_ == "csv":
        header = file.read_text().splitlines()[0].replace('"', "")
        assert header.split(",") == QUARANTINE.names


def test_files_without_rows_have_predictions_of_the_right_schema(job: Job, images: Pixels) -> None:
    job.write("a.parquet", {"image": raw(images)[:0]})
    figures, _ = job.run()
    none = job.table()
    job.write("a.parquet", {"name": ["x"]})
    job.write("b.parquet", {"id": range(ROWS), "image": raw(images)})

    job.run(keep=("id",), no_probabilities=True, overwrite=True)

    names = ["id", *(name for name in PREDICTIONS.names if name != "probabilities")]
    [file] = (job.out / "predictions").iterdir()
    assert pq.read_schema(file).names == names
    assert (figures["rows"], none.schema.equals(PREDICTIONS)) == (0, True)


def test_no_row_predicted_is_a_failure_with_the_commonest_detail(job: Job, images: Pixels) -> None:
    standardised = (images / 255 - 0.13) / 0.31
    job.write("a.parquet", {"image": list(standardised)})
    words = (
        r"29 of 29 rows are unusable \(most often bad_pixel: a pixel is below 0.*first: row 0 of"
    )

    for _ in range(2):
        with pytest.raises(DataError, match=words):
            job.run()

    assert not (job.out / "_SUCCESS").exists()
    assert job.table("quarantine").num_rows == ROWS
    job.write("b.parquet", {"image": raw(images)})
    figures, _ = job.run(overwrite=True)
    assert figures["details"] == [
        {
            **{"reason": "bad_pixel", "rows": ROWS, "files": 0, "source_row": 0},
            "detail": job.table("quarantine")["detail"][0].as_py(),
            "source_file": str(job.folder / "in/a.parquet"),
        }
    ]
    assert "a pixel is below 0" in (job.out / "report.html").read_text()


def test_commonest_detail_is_first_whatever_the_order_of_parts(job: Job, images: Pixels) -> None:
    rows = raw(images[:20]).to_pylist()
    job.write("a.parquet", {"image": [*rows, None, b"x", None]})
    job.write("b.parquet", {"image": [None, *rows, b"", b"x", None]})

    figures, _ = job.run()

    assert [(each["reason"], each["rows"]) for each in figures["details"]] == [
        *[("no_bytes", 4), ("broken_image", 2), ("empty", 1)]
    ]
    assert figures["details"][0]["source_file"].endswith("a.parquet")
    assert figures["details"][0]["source_row"] == 20
    summary = json.loads((job.out / "_summary.json").read_text())
    assert summary["details"] == figures["details"]


def highest(type_: pa.DataType) -> int | None:
    """Return the highest value of a type of whole numbers."""
    if not pa.types.is_integer(type_):
        return None
    return 2 ** (type_.bit_width - int(pa.types.is_signed_integer(type_))) - 1


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        (pa.int64(), pa.float64(), None),
        (pa.int32(), pa.float64(), pa.float64()),
        (pa.int32(), pa.float32(), pa.float64()),
        (pa.int64(), pa.float32(), None),
        (pa.decimal128(5, 2), pa.float64(), None),
        (pa.int64(), pa.uint64(), None),
        (pa.int8(), pa.uint8(), pa.int16()),
        (pa.int64(), pa.string(), None),
        (pa.int64(), pa.null(), pa.int64()),
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("us")),
    ],
)
def test_kept_types_are_unified_only_if_one_holds_all_values(
    first: pa.DataType, second: pa.DataType, kept: pa.DataType | None, job: Job, images: Pixels
) -> None:
    for name, type_ in (("a", first), ("b", second)):
        values = pa.array([highest(type_)] * ROWS, type_)
        job.write(f"{name}.parquet", {"image": raw(images), "id": values})

    if kept is None:
        job.refuse(DataError, "--keep id: the files hold .*; leave it out", keep=("id",))
    else:
        job.run(keep=("id",))
        assert job.table().schema.field("id").type == kept
        assert job.table()["id"].to_pylist() == [
            *([highest(first)] * ROWS + [highest(second)] * ROWS)
        ]


def test_all_columns_are_kept_but_those_of_the_images(job: Job, images: Pixels) -> None:
    ids = pa.array(range(ROWS))
    job.write("a.parquet", {"id": ids, "image": raw(images), "probabilities": ids, "label": ids})
    job.write("writer=ann/b.parquet", {"note": pa.array(["x"] * ROWS), "img": raw(images)})

    job.run(keep=("*",))

    table = job.table()
    assert table.column_names == [
        *["id", "input_probabilities", "input_label", "note", "writer", *PREDICTIONS.names]
    ]
    assert table["input_label"].to_pylist() == [*range(ROWS), *[None] * ROWS]
    assert table["note"].to_pylist() == [*[None] * ROWS, *["x"] * ROWS]
    assert table["writer"].to_pylist() == [*[None] * ROWS, *["ann"] * ROWS]


@pytest.mark.parametrize("permutation", [None, (1, 0)])
@pytest.mark.parametrize("num_rows", [0, ROWS])
def test_tensors_are_predicted_and_kept(
    num_rows: int, permutation: tuple[int, int] | None, job: Job, images: Pixels
) -> None:
    pixels = images[:num_rows].reshape(-1, 28, 28)
    stored = np.ascontiguousarray(pixels.swapaxes(1, 2) if permutation else pixels)
    storage = pa.FixedSizeListArray.from_arrays(pa.array(stored.ravel()), 784)
    type_ = pa.fixed_shape_tensor(pa.uint8(), (28, 28), permutation=permutation)
    column = pa.ExtensionArray.from_storage(type_, storage)
    job.write("a.parquet", {"image": column, "id": range(num_rows)})

    job.write("b.parquet", {"img": raw(images[:num_rows], pa.binary())})

    job.run(keep=("*", "image", "image"))

    kept = job.table().slice(0, num_rows)
    assert kept.column_names[:3] == ["id", "image", "source_file"]
    assert kept["image"].type == type_
    assert kept["image"].combine_chunks().storage.to_pylist() == storage.to_pylist()


def test_renamed_column_does_not_take_the_name_of_another(job: Job, images: Pixels) -> None:
    table = {"image": raw(images), "input_label": [1] * ROWS, "label": [7] * ROWS}
    job.write("a.parquet", {**table, "Probabilities": range(ROWS)})

    job.run(keep=("*", "image"))

    kept = job.table()
    names = ["input_label", "input_input_label", "input_Probabilities", "image"]
    assert kept.column_names[:4] == names
    assert (kept["input_label"][0].as_py(), kept["input_input_label"][0].as_py()) == (1, 7)
    assert kept["image"].to_pylist() == raw(images).to_pylist()


def test_output_of_a_prediction_may_be_predicted_again(job: Job, images: Pixels) -> None:
    job.write("a.parquet", {"image": raw(images)})
    job.run(keep=("image",))

    again = Job(job.folder / "again")
    again.write("b.parquet", job.table())
    again.run(keep=("*",), image_column="image")

    assert again.table()["prediction"].equals(again.table()["input_prediction"])


@pytest.mark.parametrize("format_", ["parquet", "csv", "jsonl"])
def test_scores_may_be_left_out(format_: str, job: Job, images: Pixels) -> None:
    job.write("a.parquet", {"image": raw(images)})

    job.run(no_probabilities=True, format=format_)

    [file] = (job.out / "predictions").iterdir()
    assert b"score_" not in file.read_bytes()
    assert b'"probabilities"' not in file.read_bytes()
    if format_ == "parquet":
        own = [name for name in PREDICTIONS.names if name != "probabilities"]
        assert job.table().column_names == own
    job.refuse(OutputExistsError, "holds the output of another job", format=format_)


@pytest.mark.parametrize("format_", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("partition_by", [(), ("writer",)])
def test_text_that_is_not_utf8_fails_no_row(
    format_: str, partition_by: tuple[str, ...], job: Job, images: Pixels
) -> None:
    odd = pa.array([b"J\xfcrgen", *[b"7"] * (ROWS - 1)]).view(pa.string())
    job.write("a.parquet", {"image": raw(images), "writer": odd, "label": odd})

    figures, _ = job.run(keep=("writer",), format=format_, partition_by=partition_by)

    assert figures["predicted"] == ROWS
    assert figures["labelled"] == ROWS - 1


@pytest.mark.parametrize("format_", ["parquet", "csv", "jsonl"])
def test_output_is_cut_by_rows_and_by_values(format_: str, job: Job, images: Pixels) -> None:
    for name in "ab":
        job.write(f"{name}.parquet", {"id": range(ROWS), "image": raw(images)})

    settings = {"keep": ("id",), "format": format_, "rows_per_file": 20}
    job.run(**settings)
    files = sorted((job.out / "predictions").iterdir())
    assert len(files) == 4
    if format_ == "parquet":
        assert sorted(pq.read_metadata(file).num_rows for file in files) == [9, 9, 20, 20]
    expected = job.table() if format_ == "parquet" else None
    job.refuse(OutputExistsError, "other partition_by", **settings, partition_by=("prediction",))
    job.refuse(UsageError, "--partition-by confidence", **settings, partition_by=("confidence",))
    figures, _ = job.run(**settings, partition_by=("prediction",), overwrite=True)
    again, messages = job.run(**settings, partition_by=("prediction",))

    names = {path.name for path in (job.out / "predictions").iterdir()}
    assert names <= {f"prediction={digit}" for digit in range(10)}
    assert figures["predicted"] == again["predicted"] == 2 * ROWS
    assert "nothing to do" in messages[0]
    if expected is not None:
        order = [("source_file", "ascending"), ("source_row", "ascending")]
        read = pq.read_table(job.out / "predictions").sort_by(order)
        found = read["prediction"].cast(pa.string()).to_pylist()
        assert found == expected["prediction"].cast(pa.string()).to_pylist()
        assert read["probabilities"].equals(expected["probabilities"])
    (job.folder / "in/b.parquet").unlink()
    figures, _ = job.run(**settings, partition_by=("prediction",), sync=True)
    assert figures["predicted"] == ROWS


def test_dark_ink_on_light_paper_is_obeyed_or_detected_with_a_warning(
    job: Job, images: Pixels
) -> None:
    job.write("a.parquet", {"image": raw(images)})
    job.run()
    upright = job.table()["prediction"]
    job.write("a.parquet", {"image": raw(np.uint8(255) - images)})

    figures, messages = job.run(overwrite=True)
    assert job.table()["prediction"].equals(upright)
    assert figures["dark_on_light"] == ROWS
    assert "29 rows of raw pixels have a bright border" in messages[-1]
    _, messages = job.run(polarity="dark-on-light", overwrite=True)
    assert job.table()["prediction"].equals(upright)
    assert messages == []


def date(year: int) -> datetime:
    return datetime(year, 12, 31, 23, 59, 59)


TIMES = {
    "us": (pa.timestamp("us"), date(9999)),
    "ms": (pa.timestamp("ms"), date(9999)),
    "s": (pa.timestamp("s"), date(2300)),
    "zone": (pa.timestamp("us", "UTC"), date(2300)),
    "early": (pa.timestamp("us"), date(1600)),
    "duration": (pa.duration("s"), 10**10),
    "date": (pa.date32(), date(9999).date()),
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_that_no_type_holds_end_the_job_before_it_begins(
    kind: str, job: Job, images: Pixels
) -> None:
    type_, value = TIMES[kind]
    fine = (
        pa.duration("ns")
        if pa.types.is_duration(type_)
        else pa.timestamp("ns", getattr(type_, "tz", None))
    )
    job.write("a.parquet", {"image": raw(images), "at": pa.array([None] * 28 + [value], type_)})
    job.write("b.parquet", {"image": raw(images), "at": pa.array([3] * 29, fine)})

    with pytest.raises(DataError, match="no type holds the values of all"):
        job.run(keep=("at",))
    assert not job.out.exists()


@pytest.mark.parametrize("unit", ["us", "ms", "s"])
def test_times_of_several_units_are_kept_where_the_finest_holds_them(
    unit: str, job: Job, images: Pixels
) -> None:
    times = [date(2200), None] + [date(1700)] * 27
    job.write("a.parquet", {"image": raw(images), "at": pa.array(times, pa.timestamp(unit))})
    job.write("b.parquet", {"image": raw(images), "at": pa.array([3] * 29, pa.timestamp("ns"))})
    job.write("c.parquet", {"image": raw(images), "at": pa.nulls(29, pa.timestamp(unit))})

    job.run(keep=("at",))

    found = job.table()["at"].cast(pa.timestamp("us"), safe=False).to_pylist()
    assert found[:29] == times
