"""`_review.pq`: the most doubtful rows of a job, whatever became of it on the way."""

from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nanograd import batch
from nanograd.errors import DataError, StorageError
from nanograd.images.writers import PREDICTIONS
from nanograd.jobs import review
from nanograd.jobs.receipts import doubt_of
from nanograd.jobs.review import LEAST_OF_PART, MAX_OF_PART, PartReview
from nanograd.runtime import storage
from nanograd.settings.specs import InspectSpec, PredictSpec
from tests.helpers.folders import untimed_contents

Row = dict[str, Any]


def listed(out: Path) -> list[Row]:
    rows: list[Row] = pq.read_table(out / "_review.pq").to_pylist()
    return rows


def most_doubtful(out: Path) -> list[Row]:
    """All rows of the predictions in the order of their doubt."""
    table = pq.read_table(out / "predictions")
    rows = [
        {**row, "doubt": doubt}
        for row, doubt in zip(table.to_pylist(), doubt_of(table).tolist(), strict=True)
    ]
    return sorted(rows, key=lambda row: (-row["doubt"], row["source_file"], row["source_row"]))


def places(rows: list[Row]) -> list[tuple[str, int]]:
    return [(Path(row["source_file"]).name, row["source_row"]) for row in rows]


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_list_has_the_share_of_rows_most_in_doubt_with_their_pictures(case, sample, share):
    case.fill(5, 100, rows=23)

    figures = case.run(review_share=share)

    expected = most_doubtful(case.out)
    rows = listed(case.out)
    assert len(expected) == 5 * 22
    assert places(rows) == places(expected[: -int(-share * len(expected) // 1)])
    assert figures["review"] == str(case.out / "_review.pq")
    for row, whole in zip(rows, expected, strict=False):
        assert row["probabilities"] == whole["probabilities"]
        image = np.asarray(Image.open(BytesIO(row["image"]["bytes"])))
        first = int(Path(row["source_file"]).stem)
        assert np.array_equal(image.ravel(), sample.test.images[first + row["source_row"]])
        assert row["label"] == sample.test.labels[first + row["source_row"]]
    # Readers of all Parquet files see predictions and quarantine only.
    found = {path.parent.name for path in case.out.rglob("*.parquet")}
    assert found == {"predictions", "quarantine"}
    query = "SELECT count(*) FROM read_parquet(?)"
    every = duckdb.execute(query, [f"{case.out}/predictions/**/*.parquet"]).fetchall()
    assert every == [(len(expected),)]


def test_list_of_rows_below_a_certainty_has_all_of_them(case):
    case.fill(3, 100, rows=40)
    case.run(review_share=1.0)
    limit = sorted(1 - row["doubt"] for row in listed(case.out))[50]

    case.run(review_below=limit, overwrite=True)

    expected = [
        row for row in most_doubtful(case.out) if np.float32(row["doubt"]) > np.float32(1 - limit)
    ]
    assert places(listed(case.out)) == places(expected)
    assert 45 <= len(expected) <= 55


def test_list_has_the_columns_to_keep_except_bytes_and_tensors(case):
    pictures = [{"bytes": image.tobytes(), "path": f"{n}.png"} for n, image in case.some(9)]
    tensors = pa.fixed_shape_tensor(pa.uint8(), (2,))
    flat = pa.FixedSizeListArray.from_arrays(pa.array(range(18), pa.uint8()), 2)
    kept = {
        "id": range(9), "path": ["mine"] * 9, "Doubt": ["none"] * 9, "image": pictures,
        "scan": [b"x"] * 9, "nested": [{"a": b"x"}] * 9, "list": [[0.5]] * 9,
        "tensor": pa.ExtensionArray.from_storage(tensors, flat),
    }  # fmt: skip
    case.write("a.parquet", {**kept, "pixels": ["text"] * 9})

    case.run(keep=("*", "image"), review_share=1.0)

    names = ["id", "input_path", "input_Doubt", "list", "pixels"]
    table = pq.read_table(case.out / "_review.pq")
    assert table.column_names[:6] == [*names, "path"]
    assert table.column_names[-2:] == ["doubt", "image"]
    for row in table.to_pylist():
        assert row["path"] == row["image"]["path"] == f"{row['id']}.png"
        assert (row["input_path"], row["pixels"], row["list"]) == ("mine", "text", [0.5])


def test_list_follows_growth_replacement_and_removal(case):
    settings = {"review_share": 0.5}
    files = case.fill(3, 100, rows=9)
    case.run(**settings)
    case.add(300, rows=9)
    case.run(**settings)
    grown = places(listed(case.out))
    files[0].unlink()
    case.add(500, files[1].name, rows=12)
    case.run(**settings, sync=True)
    replaced = places(listed(case.out))
    whole = (case.out / "_review.pq").read_bytes()
    case.run(**settings, overwrite=True)

    assert len(grown) == 16
    assert replaced == places(most_doubtful(case.out)[: len(replaced)])
    assert len(replaced) == 14
    assert {name for name, _ in replaced} <= {"00100.parquet", "00200.parquet", "00300.parquet"}
    assert (case.out / "_review.pq").read_bytes() == whole


@pytest.mark.parametrize("given", [{"review_share": 0.05}, {"review_below": 0.6}])
def test_list_is_made_again_for_other_settings_or_when_it_is_lost(case, given):
    case.fill(5, 100, rows=23)
    place = case.out / "_review.pq"
    case.run(**given)
    expected = place.read_bytes()
    case.run(overwrite=True)
    parts = {path: path.stat().st_mtime_ns for path in case.out.rglob("part-*")}
    first = place.read_bytes()

    figures = case.run(**given)
    made = place.read_bytes()
    place.unlink()
    again = case.run(**given)

    assert first != expected == made == place.read_bytes()
    assert {path: path.stat().st_mtime_ns for path in case.out.rglob("part-*")} == parts
    assert figures["rows"] == again["rows"] == 5 * 23
    assert case.run(review_share=0.0)["review"] is None
    assert not place.exists()
    case.run(review_share=0.0, overwrite=True)
    assert not place.exists()
    assert (case.out / "_SUCCESS").exists()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"review_share": 0.01}, {"review_share": 0.9}),
        ({"review_share": 0.0}, {"review_share": 0.01}),
        ({"review_below": 0.001}, {"review_below": 0.999}),
        ({"review_below": 0.001}, {"review_share": 0.9}),
    ],
)
def test_list_for_which_a_part_keeps_too_few_rows_is_a_warning(case, before, after):
    case.add(0, rows=20)
    case.run(**after)
    added = case.add(100, rows=400)
    case.run(**before)
    case.messages.clear()

    case.run(**after)

    [text] = [each for each in case.messages if "may lack rows" in each]
    assert added.name in text
    assert "--overwrite" in text
    case.run(**after, overwrite=True)
    case.messages.clear()
    case.run(**after, verify=True)
    assert not any("may lack rows" in each for each in case.messages)


def kept(num_rows: int, step: int, **settings: float) -> bytes:
    """Return the file of a part whose rows arrive in steps, in an order of doubt that is known."""
    rows = np.arange(num_rows)
    found = {
        "path": ["a"] * num_rows, "source_file": ["a"] * num_rows, "source_row": rows,
        "prediction": rows % 10, "confidence": np.float32(rows * 7919 % num_rows // 7 / num_rows),
        "unfamiliarity": [None] * num_rows, "probabilities": [[0.1] * 10] * num_rows,
        "label": [None] * num_rows,
    }  # fmt: skip
    predictions = pa.table({n: pa.array(found[n], PREDICTIONS.field(n).type) for n in found})
    images = np.repeat(rows.astype(np.uint8)[:, None], 784, axis=1)
    part = PartReview(PredictSpec(model="m", output="o", **settings), num_rows, PREDICTIONS)
    for start in range(0, num_rows, step):
        part.add(predictions.slice(start, step), images[start : start + step])
    return part.finish("part-1")["_review/part-1.pq"]


def test_part_keeps_few_rows_and_the_same_ones_however_they_arrive():
    found = [kept(1000, step, review_share=0.01) for step in (7, 193, 1000)]

    assert found[0] == found[1] == found[2]
    table = pq.read_table(pa.BufferReader(found[0]))
    assert len(table) == LEAST_OF_PART
    order = sorted(range(1000), key=lambda row: (row * 7919 % 1000 // 7, row))[:LEAST_OF_PART]
    assert table["source_row"].to_pylist() == order
    assert table["pixels"][3].as_py() == bytes([order[3] % 256]) * 784


@pytest.mark.parametrize("settings", [{"review_share": 0.5}, {"review_below": 1.0}])
def test_number_of_rows_is_bounded(case, monkeypatch, settings):
    data = kept(MAX_OF_PART + 7, MAX_OF_PART + 7, **settings)
    assert pq.read_metadata(pa.BufferReader(data)).num_rows == MAX_OF_PART

    monkeypatch.setattr(review, "MAX_ROWS", 5)
    case.add(0, rows=23)
    case.run(**settings)
    assert len(listed(case.out)) == 5


def test_inspect_draws_the_first_rows_of_the_list(case):
    case.add(0)
    case.run(review_share=1.0)
    config = InspectSpec(model=case.model, output=str(case.out.parent / "sheet.png"), limit=3)

    figures = batch.inspect([str(case.out / "_review.pq")], spec=config).to_json()

    rows = listed(case.out)
    assert (figures["pictures"], figures["left_out"]) == (3, len(rows) - 3)
    for row, found in zip(rows, figures["results"], strict=False):
        assert found["file"] == f"{row['source_file']}, row {row['source_row']}"
        assert found["prediction"] == row["prediction"]
        assert found["confidence"] == pytest.approx(row["confidence"], abs=1e-5)
        assert found["unfamiliarity"] == pytest.approx(row["unfamiliarity"], abs=1e-5)
    pq.write_table(pa.table({"text": ["x"]}), case.folder / "no.parquet")
    with pytest.raises(DataError, match="inspect takes pictures, and rows with pictures"):
        batch.inspect([str(case.folder / "no.parquet")], spec=config)


def test_output_without_its_list_is_not_complete(case, monkeypatch):
    case.fill(2)
    case.run()
    before, commit = untimed_contents(case.out), storage.commit

    def full(place: str, data: bytes) -> None:
        if place.endswith("_review.pq"):
            raise StorageError(place)
        commit(place, data)

    for is_full in (False, True, False):
        (case.out / "_review.pq").unlink(missing_ok=True)
        with monkeypatch.context() as patch, suppress(StorageError):
            patch.setattr(storage, "commit", full if is_full else commit)
            case.run()
        assert (case.out / "_SUCCESS").exists() != is_full

    assert untimed_contents(case.out) == before
