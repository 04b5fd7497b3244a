"""Predictions: every row once, with the scores of the model, whatever is beside it."""

import json
import os
import pickle
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import csv
from pyarrow import json as pa_json

from nanograd import batch
from nanograd.digits.dataset import Mnist
from nanograd.digits.form import to_png
from nanograd.errors import DataError, OutputExistsError
from nanograd.images.writers import write_pictures
from nanograd.jobs.job import run_job
from nanograd.jobs.part import DonePart, Part, run_local, run_part
from nanograd.models import model as model_io
from nanograd.nn.metrics import confusion_matrix
from nanograd.runtime import json_files
from tests.helpers.folders import untimed_contents
from tests.helpers.image_columns import fixed_list, raw
from tests.helpers.models import some_model
from tests.jobs.conftest import ROWS, Case

PATHS = [("path", pa.string()), ("source_file", pa.string())]


def with_one_more_row(data: bytes) -> bytes:
    """Change the footer's count of rows, a thrift number, so that it contradicts its row groups."""
    at = data.rindex(b"\x16\x3a\x19")  # 29 rows, then the list of row groups
    return data[:at] + b"\x16\x3c\x19" + data[at + 3 :]


BROKEN_FILES: list[Callable[[bytes], bytes]] = [
    lambda data: b"",
    lambda data: b"no Parquet at all",
    lambda data: data[:-30],
    lambda data: data.replace(b"image", b"im\xffge"),  # a name that is no text
    with_one_more_row,
]


@pytest.mark.parametrize("format_", ["parquet", "csv"])
def test_rows_are_named_by_the_picture_or_else_by_the_file(case, format_):
    digits = case.digits.take(slice(0, 7))
    write_pictures(digits, str(case.folder / "pictures"))
    blank = case.write("pictures/blank é.png", to_png(np.zeros(784, np.uint8)))
    batch.ingest(case.folder / "pictures", output=case.folder / "rows")
    rows = pq.read_table(case.folder / "rows").to_pylist()
    files = sorted(row["image"]["path"] for row in rows)
    rows[2]["image"] |= {"bytes": b"cut"}
    rows[4]["image"] |= {"bytes": b"cut", "path": None}
    rows[5]["image"] |= {"path": ""}
    file = case.write("made/a.parquet", pa.Table.from_pylist(rows))
    header = ",".join(f"pixel{number}" for number in range(784))
    lines = [header, ",".join(map(str, digits.images[0])), "1,2"]
    text = case.write("made/b.csv", "\n".join(lines).encode())

    for inputs in ([case.folder / "rows"], [file, text]):
        case.run(*inputs, format=format_, overwrite=True, review_share=1.0)

        found, lost = (case.read(n, PATHS).to_pylist() for n in ("predictions", "quarantine"))
        review = pq.read_table(case.out / "_review.pq").to_pylist()
        names = [each["path"] for each in found]
        assert sorted(names) == sorted(each["path"] for each in review)
        if len(inputs) == 1:
            assert sorted(names) == files
            continue
        kept = [path for number, path in enumerate(files) if number not in (2, 4, 5)]
        assert sorted(names) == sorted([*kept, str(file), str(text)])
        assert {each["path"] for each in lost} == {files[2], str(file), str(text)}
        assert {each["source_file"] for each in found + lost} == {str(file), str(text)}
    [refused] = pq.read_table(case.folder / "rows/_quarantine").to_pylist()
    assert refused["path"] == refused["source_file"] == str(blank)


def test_names_of_files_and_hive_folders_need_not_be_unicode(case, images):
    case.write("a.parquet", {"image": fixed_list(images)})
    data = (case.folder / "a.parquet").read_bytes()
    case.write(os.fsdecode(b"l\xe4ufe.parquet"), data)
    case.write(os.fsdecode(b"wr\xe4iter=j\xf6rg/000000_0"), data)
    (case.folder / "loop").symlink_to("loop")

    case.run(keep=("*",))

    table = case.table()
    names = {Path(file).name for file in table["source_file"].to_pylist()}
    assert names == {"a.parquet", r"l\udce4ufe.parquet", "000000_0"}
    assert set(table[r"wr\udce4iter"].to_pylist()) == {None, r"j\udcf6rg"}
    assert len(table) == 3 * ROWS


WRONG_SCHEMAS = {
    "no image": pa.table({"name": ["a", "b"], "label": [1, 2]}),
    "numbers as text": pa.table({f"pixel{place}": ["0"] for place in range(784)}),
    "one name twice": pa.Table.from_arrays([pa.array([bytes(784)])] * 2, ["image", "image"]),
    "another name twice": pa.Table.from_arrays([pa.array([bytes(784)])] * 3, ["image", "b", "b"]),
    "two candidates": pa.Table.from_arrays([pa.array([bytes(784)])] * 2, ["left", "right"]),
}


def test_files_of_every_sort_in_one_folder_are_all_in_the_manifest(case, images):
    good = pa.table({"image": raw(images, pa.binary(784))})
    wrong = {f"{name}.parquet": table for name, table in WRONG_SCHEMAS.items()}
    wrong |= {f"neither {each}.parquet": wrong["no image.parquet"][:0] for each in (1, 2)}
    for name, table in {"good.parquet": good, "no rows.parquet": good[:0], **wrong}.items():
        case.write(name, table)
    page = case.write("page.parquet", good).read_bytes()
    case.write("page.parquet", page[:200] + b"\xff" * 400 + page[600:])
    whole = case.write("0.parquet", good, write_statistics=False, store_schema=False).read_bytes()
    for number, damage in enumerate(BROKEN_FILES):
        case.write(f"{number}.parquet", damage(whole))
    figures = case.run(max_broken_files=len(BROKEN_FILES))

    inputs = {path.name for path in case.folder.iterdir()}
    receipts = json_files.read_manifest(f"{case.out}/_manifest.json")["receipts"]
    assert sorted(Path(file).name for each in receipts for file in each["inputs"]) == sorted(inputs)
    assert sorted(case.quarantine(), key=str) == sorted(
        [
            *[(name, None, "wrong_schema") for name in wrong],
            *[(f"{number}.parquet", None, "broken_file") for number in range(len(BROKEN_FILES))],
            *[("page.parquet", row, "broken_file") for row in range(ROWS)],
        ],
        key=str,
    )
    table = case.table()
    assert {Path(file).name for file in table["source_file"].to_pylist()} == {"good.parquet"}
    scores = model_io.load(case.model).probabilities(images)
    assert np.array_equal(np.array(table["probabilities"].to_pylist(), np.float32), scores)
    # A file of a wrong schema counts for the rows of its footer, also if it has none.
    assert (figures["rows"], figures["broken_files"]) == (2 * ROWS + 6, len(BROKEN_FILES))
    assert (figures["predicted"], figures["quarantined"]) == (ROWS, ROWS + 6)
    assert figures["reasons"] == {"broken_file": ROWS, "wrong_schema": 6}


def test_large_row_groups_are_cut_and_every_row_is_predicted_once(case, sample):
    distinct = [image.tobytes() for image in sample.test.images[:193]]
    pictures = [distinct[row % 193] for row in range(10_001)]
    pictures[9_999] = pictures[10_000] = b"\0"
    case.write("big.parquet", {"image": pictures}, row_group_size=5_000)

    figures = case.run()

    parts = [len(pq.read_table(file)) for file in (case.out / "predictions").iterdir()]
    table = case.table()
    predictions = table["prediction"].to_numpy()
    assert sorted(parts) == [0, 2499, 2500, 2500, 2500]
    assert table["source_row"].to_pylist() == list(range(9_999))
    assert [row for _, row, _ in case.quarantine()] == [9_999, 10_000]
    assert figures["rows"] == figures["predicted"] + figures["quarantined"] == 10_001
    np.testing.assert_array_equal(predictions, np.resize(predictions[:193], 9_999))


def test_job_can_go_on_in_another_process_within_a_row_group(case, sample):
    distinct = [image.tobytes() for image in sample.test.images[:193]]
    pair = pa.list_(pa.field("of", pa.int8(), nullable=False), 2)
    pairs = pa.array([[("at", [1, 2])]] * 5_000, pa.map_(pa.string(), pair))
    pictures = [distinct[row % 193] for row in range(5_000)]
    case.write("big.parquet", pa.table({"image": pictures, "pairs": pairs}))
    job, work = case.plan(keep=("pairs",))

    def run(parts: Sequence[Part]) -> Iterator[DonePart]:
        yield run_part(work, parts[0])
        sent = pickle.loads(pickle.dumps(work))  # noqa: S301 - by this test
        yield from run_local(sent)(parts[1:])

    run_job(job, run)

    assert len(job.parts) == 2
    assert case.table()["source_row"].to_pylist() == list(range(5_000))
    one, other = (pq.read_schema(file) for file in (case.out / "predictions").iterdir())
    assert one.serialize() == other.serialize()


@pytest.fixture
def digits(case: Case, sample: Mnist) -> Case:
    """Three files of 193 digits with more columns than needed; the last row is bad."""
    for number in range(3):
        part = sample.test.take(slice(193 * number, 193 * (number + 1)))
        pictures = [*(image.tobytes() for image in part.images[:-1]), b"no picture"]
        writers = pa.array(["ann", None, "ben"] * 64 + ["ann"]).dictionary_encode()
        columns = {"label": part.labels, "id": range(193), "image": pictures, "writer": writers}
        case.write(f"{number}.parquet", columns)
    return case


@pytest.mark.parametrize("verify", [False, True])
def test_repeated_job_does_nothing_and_has_the_same_result(digits, monkeypatch, *, verify):
    first = digits.run()
    before = untimed_contents(digits.out)
    times = {path: path.stat().st_mtime_ns for path in digits.out.rglob("*")}
    monkeypatch.setitem(sys.modules, "nanograd.distributed.cluster", None)

    again = digits.run(verify=verify, workers=2)  # without Ray, which an overwriting job needs
    with pytest.raises(ImportError):
        digits.run(workers=2, overwrite=True)

    timed = ("start_s", "predict_s", "rows_per_s")
    assert (again["predict_s"], again["rows_per_s"]) == (0, 0)
    assert len(digits.messages) == 1
    assert untimed_contents(digits.out) == before
    assert {path: path.stat().st_mtime_ns for path in digits.out.rglob("*")} == times
    assert {k: v for k, v in again.items() if k not in timed} == {
        k: v for k, v in first.items() if k not in timed
    }


NULLS = csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False)
READ = {"csv": partial(csv.read_csv, convert_options=NULLS), "jsonl": pa_json.read_json}


@pytest.mark.parametrize("format_", READ)
def test_other_formats_hold_the_same_values(digits, format_):
    def read(name: str) -> list[dict[str, Any]]:
        tables = (READ[format_](file) for file in (digits.out / name).iterdir())
        return sorted(
            (row for table in tables for row in table.to_pylist()),
            key=lambda row: (row["source_file"], row["source_row"]),
        )

    digits.run(keep=("id", "writer"))
    rows = digits.table().to_pylist()
    digits.run(keep=("id", "writer"), format=format_, overwrite=True)

    for row, other in zip(read("predictions"), rows, strict=True):
        if format_ == "csv":
            row["probabilities"] = [row.pop(f"probability_{digit}") for digit in range(10)]
        for name in ("confidence", "unfamiliarity", "probabilities"):
            assert np.array_equal(np.float32(row.pop(name)), np.float32(other.pop(name)))
        assert row == other
    assert [row["source_row"] for row in read("quarantine")] == [192] * 3


def test_summary_has_accuracy_confusion_and_the_worst_mistakes(digits):
    figures = digits.run()

    table = digits.table()
    label, prediction = table["label"].to_numpy(), table["prediction"].to_numpy()
    summary = json.loads((digits.out / "_summary.json").read_text())
    confidence = table["confidence"].to_numpy()[label != prediction]
    assert summary["accuracy"] == figures["accuracy"] == (label == prediction).mean()
    assert np.array_equal(summary["confusion"], confusion_matrix(prediction, label, 10))
    assert figures["confusion"] == summary["confusion"]
    assert sum(summary["labelled_by_confidence"]) == 576
    assert sum(summary["correct_by_confidence"]) == (label == prediction).sum()
    worst = [each["confidence"] for each in summary["worst"]]
    assert worst == sorted(worst, reverse=True)
    assert worst[0] == pytest.approx(confidence.max(), abs=1e-6)
    first = summary["worst"][0]
    [row] = [
        row for row in table.to_pylist()
        if (row["source_file"], row["source_row"]) == (first["source_file"], first["source_row"])
    ]  # fmt: skip
    assert (row["label"], row["prediction"]) == (first["label"], first["prediction"])
    with Image.open(BytesIO(b64decode(first["png"]))) as picture:
        source = pq.read_table(first["source_file"])["image"][first["source_row"]].as_py()
        assert picture.tobytes() == source


def test_other_settings_or_another_model_are_another_job(digits, tmp_path):
    for name, loss in (("copy", "mse"), ("other", "cross_entropy")):
        model_io.save(some_model(loss=loss), str(tmp_path / name))
    digits.run()

    for change in (
        {"format": "csv"},
        {"normalise": "never"},
        {"image_root": "."},
        {"keep": ("id",)},
        {"polarity": "dark-on-light"},
        {"digits": "many"},
        {"max_pixels": 784},
        {"image_column": "image"},
        {"label_column": "id"},
        {"model": str(tmp_path / "other")},
    ):
        digits.refuse(OutputExistsError, "another job", **change)
    digits.run(model=str(tmp_path / "copy"))
    assert len(digits.messages) == 1


def test_model_that_changes_during_a_job_stops_it(digits):
    job, work = digits.plan()
    model_io.save(some_model(), digits.model)

    with pytest.raises(DataError, match="has changed since the job began"):
        run_job(job, run_local(work))

    assert not (digits.out / "_SUCCESS").exists()
