"""What other programs make of the output."""

from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from nanograd import commands
from nanograd.digits.dataset import Mnist
from nanograd.settings.specs import PredictSpec
from tests.conftest import ROOT
from tests.docs.test_docs import plain_python

_ROWS = 193


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, trained: str, sample: Mnist) -> Path:
    """Predictions of two files: a row of each cannot be read, one of the first has no label."""
    folder = tmp_path_factory.mktemp("read-back")
    (folder / "rows").mkdir()
    for number in range(2):
        part = sample.test.take(slice(_ROWS * number, _ROWS * number + _ROWS))
        labels = [*part.labels.tolist()[:-1], None if number == 0 else 3]
        images = [b"no picture", *(image.tobytes() for image in part.images[1:])]
        columns = {"id": [f"{number}/{row}" for row in range(_ROWS)], "image": images}
        table = pa.table({**columns, "label": pa.array(labels, pa.int64())})
        pq.write_table(table, folder / "rows" / f"{number}.parquet")
    config = PredictSpec(model=trained, output=str(folder / "out"), workers=0, keep=("id",))
    commands.predict([str(folder / "rows")], spec=config)
    return folder / "out"


def ask(question: str, files: str) -> list[tuple[object, ...]]:
    """DuckDB's answer."""
    return duckdb.execute(question, [files]).fetchall()


def test_duckdb_polars_and_pandas_read_the_same_rows(out: Path) -> None:
    files = f"{out}/predictions/*.parquet"
    order = ["source_file", "source_row"]

    by_duckdb = ask("SELECT * FROM read_parquet(?) ORDER BY source_file, source_row", files)
    by_polars = pl.read_parquet(files).sort(order)
    by_pandas = pd.read_parquet(out / "predictions").sort_values(order)

    expected = pq.read_table(out / "predictions").sort_by([(name, "ascending") for name in order])
    rows = [tuple(row.values()) for row in expected.to_pylist()]
    assert len(rows) == 2 * (_ROWS - 1)
    assert [tuple(map(as_list, row)) for row in by_duckdb] == rows
    assert [tuple(map(as_list, row)) for row in by_polars.rows()] == rows
    assert by_polars.columns == by_pandas.columns.tolist() == expected.column_names
    for name in ("id", "source_file", "source_row", "prediction", "confidence"):
        assert by_pandas[name].tolist() == expected[name].to_pylist()
    assert [list(each) for each in by_pandas["probabilities"]] == expected[
        "probabilities"
    ].to_pylist()
    assert by_pandas["label"].isna().sum() == by_polars["label"].null_count() == 1


def as_list(value: object) -> object:
    """Ten scores are a tuple for one and a list for another."""
    return list(value) if isinstance(value, tuple) else value


def test_the_questions_of_the_documentation_are_answered(out: Path) -> None:
    predictions, quarantine = f"{out}/predictions/*.parquet", f"{out}/quarantine/*.parquet"

    counted = ask("SELECT prediction, count(*) FROM read_parquet(?) GROUP BY 1", predictions)
    accuracy = ask("SELECT avg((prediction = label)::int) FROM read_parquet(?)", predictions)
    reasons = pl.read_parquet(quarantine).group_by("reason").len().rows()

    table = pq.read_table(out / "predictions").to_pandas().dropna(subset=["label"])
    assert sum(count for _, count in counted) == 2 * (_ROWS - 1)
    assert accuracy == [(pytest.approx((table["prediction"] == table["label"]).mean()),)]
    assert reasons == [("broken_image", 2)]


def test_csv_and_json_lines_are_read_with_the_same_values(
    out: Path, trained: str, tmp_path: Path
) -> None:
    inputs = [str(out.parent / "rows")]
    for name in ("csv", "jsonl"):
        config = PredictSpec(
            model=trained, output=str(tmp_path / name), workers=0, keep=("id",), format=name
        )
        commands.predict(inputs, spec=config)
    columns = ["id", "source_row", "prediction", "label"]

    expected = pl.read_parquet(f"{out}/predictions/*.parquet").select(columns).sort("id").rows()
    by_csv = pl.read_csv(f"{tmp_path}/csv/predictions/*.csv").select(columns).sort("id")
    by_json = ask(
        "SELECT id, source_row, prediction, label FROM read_json(?) ORDER BY id",
        f"{tmp_path}/jsonl/predictions/*.jsonl",
    )

    assert by_csv.rows() == expected
    assert by_json == expected


def test_calls_of_the_page_read_folders_by_label_with_nulls(
    out: Path, trained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = str(out.parent / "rows")
    config = PredictSpec(
        model=trained, output=str(tmp_path / "read"), workers=0, partition_by=("label",)
    )
    commands.predict([rows], spec=config)
    monkeypatch.chdir(tmp_path)

    code = plain_python(ROOT / "docs/predict.md")[-1]
    calls = [line for line in code.splitlines() if line.startswith(("pd.", "pl.", "duckdb."))]
    names = {"pd": pd, "pl": pl, "ds": ds, "duckdb": duckdb}
    found = [eval(call, names) for call in calls]  # noqa: S307

    assert [len(each) for each in found] == [2 * (_ROWS - 1)] * 3
    assert found[0]["label"].isna().sum() == found[1]["label"].null_count() > 0
