"""What other programs make of the output."""

from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from nanograd import batch
from nanograd.digits.dataset import Mnist
from nanograd.settings.specs import PredictSpec
from tests.conftest import ROOT
from tests.docs.test_docs import plain_python

_ROWS = 193


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, trained: str, sample: Mnist) -> Path:
    """Predictions of two files: a row of each cannot be read, one of the first has no label."""
    made = tmp_path_factory.mktemp("read-back")
    (made / "rows").mkdir()
    for number in range(2):
        part = sample.test.take(slice(_ROWS * number, _ROWS * number + _ROWS))
        labels = [*part.labels.tolist()[:-1], None if number == 0 else 3]
        images = [b"no picture", *(image.tobytes() for image in part.images[1:])]
        columns = {"id": [f"{number}/{row}" for row in range(_ROWS)], "image": images}
        table = pa.table({**columns, "label": pa.array(labels, pa.int64())})
        pq.write_table(table, made / "rows" / f"{number}.parquet")
    for name, settings in {"out": {"keep": ("id",)}, "read": {"partition_by": ("label",)}}.items():
        config = PredictSpec(model=trained, output=str(made / name), workers=0, **settings)
        batch.predict([str(made / "rows")], spec=config)
    return made


def test_duckdb_polars_and_pandas_read_the_same_rows(folder):
    files = f"{folder}/out/predictions/*.parquet"
    order = ["source_file", "source_row"]

    question = "SELECT * FROM read_parquet(?) ORDER BY source_file, source_row"
    by_duckdb = duckdb.execute(question, [files]).fetchall()
    by_polars = pl.read_parquet(files).sort(order)
    by_pandas = pd.read_parquet(folder / "out/predictions").sort_values(order)

    table = pq.read_table(folder / "out/predictions")
    expected = table.sort_by([(name, "ascending") for name in order])
    rows = [tuple(row.values()) for row in expected.to_pylist()]
    assert len(rows) == 2 * (_ROWS - 1)
    assert [tuple(map(as_list, row)) for row in by_duckdb] == rows
    assert [tuple(map(as_list, row)) for row in by_polars.rows()] == rows
    assert by_polars.columns == by_pandas.columns.tolist() == expected.column_names
    for name in ("id", "source_file", "source_row", "prediction", "confidence"):
        assert by_pandas[name].tolist() == expected[name].to_pylist()
    scores = [list(each) for each in by_pandas["probabilities"]]
    assert scores == expected["probabilities"].to_pylist()
    assert by_pandas["label"].isna().sum() == by_polars["label"].null_count() == 1
    reasons = pl.read_parquet(f"{folder}/out/quarantine/*.parquet").group_by("reason").len()
    assert reasons.rows() == [("broken_image", 2)]


def as_list(value: object) -> object:
    """Ten scores are a tuple for one and a list for another."""
    return list(value) if isinstance(value, tuple) else value


def test_calls_of_the_page_read_folders_by_label_with_nulls(folder, monkeypatch):
    monkeypatch.chdir(folder)

    code = plain_python(ROOT / "docs/predict.md")[-1]
    calls = [line for line in code.splitlines() if line.startswith(("pd.", "pl.", "duckdb."))]
    names = {"pd": pd, "pl": pl, "ds": ds, "duckdb": duckdb}
    found = [eval(call, names) for call in calls]  # noqa: S307

    assert [len(each) for each in found] == [2 * (_ROWS - 1)] * 3
    assert found[0]["label"].isna().sum() == found[1]["label"].null_count() > 0
