"""`_review.pq`: the most doubtful rows of a job, whatever became of it on the way."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nanograd import commands
from nanograd.digits.dataset import Mnist
from nanograd.errors import DataError, UsageError
from nanograd.images.writers import PREDICTIONS
from nanograd.jobs.receipts import doubt_of
from nanograd.jobs.review import (
    LEAST_OF_PART,
    MAX_OF_PART,
    MAX_ROWS,
    PartReview,
    Selection,
)
from nanograd.settings.specs import InspectSpec, PredictSpec
from tests.helpers.growth import Run

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


@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_list_has_the_share_of_rows_most_in_doubt_with_their_pictures(
    run: Run, add: Callable[..., Path], out: Path, sample: Mnist, share: float
) -> None:
    for number in range(5):
        add(100 * number, rows=23)

    figures = run(review_share=share)

    expected = most_doubtful(out)
    rows = listed(out)
    assert len(expected) == 5 * 22
    assert places(rows) == places(expected[: -int(-share * len(expected) // 1)])
    assert figures["review"] == str(out / "_review.pq")
    for row in rows:
        image = np.asarray(Image.open(BytesIO(row["image"]["bytes"])))
        first = int(Path(row["source_file"]).stem)
        assert np.array_equal(image.ravel(), sample.test.images[first + row["source_row"]])
        assert row["label"] == sample.test.labels[first + row["source_row"]]


def test_list_of_rows_below_a_certainty_has_all_of_them(
    run: Run, add: Callable[..., Path], out: Path
) -> None:
    for number in range(3):
        add(100 * number, rows=40)
    run(review_share=1.0)
    limit = sorted(1 - row["doubt"] for row in listed(out))[50]

    run(review_below=limit, overwrite=True)

    expected = [
        row for row in most_doubtful(out) if np.float32(row["doubt"]) > np.float32(1 - limit)
    ]
    assert places(listed(out)) == places(expected)
    assert 45 <= len(expected) <= 55


def test_list_follows_growth_replacement_and_removal(
    run: Run, add: Callable[..., Path], out: Path
) -> None:
    settings = {"review_share": 0.5}
    files = [add(100 * number, rows=9) for number in range(3)]
    run(**settings)
    add(300, rows=9)
    run(**settings)
    grown = places(listed(out))
    files[0].unlink()
    add(500, files[1].name, rows=12)
    run(**settings, sync=True)
    replaced = places(listed(out))
    whole = (out / "_review.pq").read_bytes()
    run(**settings, overwrite=True)

    assert len(grown) == 16
    assert replaced == places(most_doubtful(out)[: len(replaced)])
    assert len(replaced) == 14
    assert {name for name, _ in replaced} <= {"00100.parquet", "00200.parquet", "00300.parquet"}
    assert (out / "_review.pq").read_bytes() == whole


def test_no_list_is_written_or_left_where_none_is_wanted(
    run: Run, add: Callable[..., Path], out: Path
) -> None:
    add(0)
    run()
    figures = run(review_share=0.0, overwrite=True)

    assert figures["review"] is None
    assert not [path for path in out.rglob("*review*") if path.is_file()]


@pytest.mark.parametrize("given", [{"review_share": 0.05}, {"review_below": 0.6}])
def test_list_is_made_again_for_other_settings_from_what_stands(
    run: Run, add: Callable[..., Path], out: Path, given: dict[str, float]
) -> None:
    for number in range(5):
        add(100 * number, rows=23)
    run(**given)
    expected = (out / "_review.pq").read_bytes()
    run(overwrite=True)
    parts = {path: path.stat().st_mtime_ns for path in out.rglob("part-*")}
    first = (out / "_review.pq").read_bytes()

    figures = run(**given)
    again = run(**given)

    assert first != expected == (out / "_review.pq").read_bytes()
    assert {path: path.stat().st_mtime_ns for path in out.rglob("part-*")} == parts
    assert figures["rows"] == again["rows"] == 5 * 23
    run(review_share=0.0)
    assert not (out / "_review.pq").exists()
    assert (out / "_SUCCESS").exists()


def test_list_that_was_removed_is_made_again(run: Run, add: Callable[..., Path], out: Path) -> None:
    add(0)
    run()
    expected = (out / "_review.pq").read_bytes()
    (out / "_review.pq").unlink()

    run()

    assert (out / "_review.pq").read_bytes() == expected


def test_list_for_which_parts_keep_too_few_rows_is_a_warning(
    run: Run, add: Callable[..., Path], out: Path, messages: list[str]
) -> None:
    add(0, rows=400)
    run(review_share=0.01)

    run(review_share=0.9)

    assert len(listed(out)) == 200
    assert any("200 of 360 rows" in text and "--overwrite" in text for text in messages)


def test_readers_of_all_parquet_files_see_predictions_and_quarantine_only(
    run: Run, add: Callable[..., Path], out: Path
) -> None:
    add(0, rows=23)
    run()

    found = {path.parent.name for path in out.rglob("*.parquet")}
    assert found == {"predictions", "quarantine"}
    query = "SELECT count(*) FROM read_parquet(?)"
    assert duckdb.execute(query, [f"{out}/predictions/**/*.parquet"]).fetchall() == [(22,)]


def some_predictions(confidence: np.ndarray) -> pa.Table:
    rows = np.arange(len(confidence))
    values = {
        "source_file": ["a"] * len(rows), "source_row": rows, "prediction": rows % 10,
        "confidence": confidence, "unfamiliarity": [None] * len(rows),
        "probabilities": [[0.1] * 10] * len(rows), "label": [None] * len(rows),
    }  # fmt: skip
    return pa.table([pa.array(values[each.name], each.type) for each in PREDICTIONS], PREDICTIONS)


def test_part_keeps_few_rows_and_the_same_ones_however_they_arrive() -> None:
    confidence = np.random.default_rng(0).permutation(np.arange(1000, dtype=np.float32) // 7 / 150)
    predictions = some_predictions(confidence)
    images = np.random.default_rng(0).integers(0, 256, (1000, 784), dtype=np.uint8)
    kept = []
    for step in (7, 193, 1000):
        part = PartReview(Selection(share=0.01), 1000)
        for start in range(0, 1000, step):
            rows = predictions.slice(start, step)
            part.add(rows, images[start : start + step])
        kept.append(part.finish("part-1")["_review/part-1.pq"])

    assert kept[0] == kept[1] == kept[2]
    table = pq.read_table(pa.BufferReader(kept[0]))
    assert len(table) == LEAST_OF_PART
    order = np.lexsort((np.arange(1000), confidence))[:LEAST_OF_PART]
    assert table["source_row"].to_pylist() == order.tolist()
    assert table["pixels"][3].as_py() == images[order[3]].tobytes()


def test_number_of_rows_is_bounded() -> None:
    assert Selection(share=0.02).of_part(50_000) == 4000
    assert Selection(share=0.5).of_part(50_000) == MAX_OF_PART
    assert Selection(share=0.02).of_job(10**9) == MAX_ROWS
    assert Selection(below=0.9).of_part(10) == MAX_OF_PART


def test_two_ways_to_choose_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        PredictSpec(model="m", output="o", review_share=0.1, review_below=0.5)


def test_inspect_draws_the_first_rows_of_the_list(
    run: Run, add: Callable[..., Path], out: Path, model: str, folder: Path
) -> None:
    add(0)
    run(review_share=1.0)
    config = InspectSpec(model=model, output=str(out.parent / "sheet.png"), limit=3)

    figures = commands.inspect([str(out / "_review.pq")], spec=config).to_json()

    rows = listed(out)
    assert (figures["pictures"], figures["left_out"]) == (3, len(rows) - 3)
    for row, found in zip(rows, figures["results"], strict=False):
        assert found["file"] == f"{row['source_file']}, row {row['source_row']}"
        assert found["prediction"] == row["prediction"]
        assert found["confidence"] == pytest.approx(row["confidence"], abs=1e-5)
        assert found["unfamiliarity"] == pytest.approx(row["unfamiliarity"], abs=1e-5)
    pq.write_table(pa.table({"text": ["x"]}), folder / "no.parquet")
    with pytest.raises(DataError, match="inspect takes pictures, and rows with pictures"):
        commands.inspect([str(folder / "no.parquet")], spec=config)
