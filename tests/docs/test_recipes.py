"""The blocks of tutorials, recipes and docs/your-data.md run, on small data of their kind."""

import ast
import json
import shlex
import tomllib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from nanograd import commands
from nanograd.digits.dataset import Mnist
from nanograd.digits.form import to_png
from nanograd.models import model as model_io
from nanograd.report.review import Decisions, read_list
from nanograd.runtime.lease import exclusive
from nanograd.settings.specs import DataExportSpec
from tests.conftest import ROOT, Nanograd
from tests.docs.test_docs import DOCUMENTS, FENCE, name_of
from tests.helpers.image_columns import PICTURE, raw, spark, with_features
from tests.helpers.models import some_model

# Languages of blocks that a parser or a test of their own checks.
PARSERS: dict[str, Callable[[str], Any]] = {
    "python": ast.parse, "json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load,
}  # fmt: skip
OTHERS = {"", "text", "sh", "sql", "fish", "mermaid", "{toctree}", "{eval-rst}"}
PIXELS = [f"pixel{number}" for number in range(784)]
ROWS = 29
REVIEW, _, CORRECT = (ROOT / "docs/review.md").read_text().partition("## Correct it")
NIGHTLY = (ROOT / "docs/resume.md").read_text()
YOUR_DATA, _, KAGGLE = (ROOT / "docs/your-data.md").read_text().partition("## Kaggle")


def run_blocks(text: str, nanograd: Nanograd, *flags: str) -> list[dict[str, Any]]:
    """Run commands and Python of (a part of) a page in the current folder; return the results."""
    results, memory = [], {}
    for block in FENCE.finditer(text):
        if block["info"] == "python":
            exec(block["text"], memory)  # noqa: S102 - our own documentation
        for line in block["text"].splitlines() if block["info"] == "sh" else ():
            program, *words = shlex.split(line, comments=True) or [""]
            if program == "nanograd":
                is_alone = "--workers" in words or words[0] in ("inspect", "evaluate")
                more = [] if is_alone else ["--workers", "0"]
                done = nanograd(*words, *more, *(flags if words[0] == "train" else ()))
                assert done.code == 0, (line, done.stderr)
                results.append(done.last)
    return results


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_block_has_a_known_language_and_parses(document):
    for block in FENCE.finditer(document.read_text()):
        language, _, title = block["info"].partition(" ")
        assert language in PARSERS or language in OTHERS, block["info"]
        if language in PARSERS and "title=" not in title:
            PARSERS[language](block["text"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model, and two pictures of each digit."""
    model_io.save(some_model(), str(tmp_path / "runs/1/model"))
    commands.export_data(DataExportSpec(data="sample", output=str(tmp_path / "pictures")))
    for digit in (tmp_path / "pictures").iterdir():
        for file in sorted(digit.iterdir())[2:]:
            file.unlink()
    return tmp_path


def test_predictions_become_a_list_to_review(nanograd, folder):
    assert nanograd("ingest", "pictures", "--output", "rows", "--workers", "0").code == 0

    predicted, drawn = run_blocks(REVIEW, nanograd)

    assert (predicted["predicted"], drawn["pictures"]) == (20, 1)
    rows = read_list(str(folder / "read"))
    with exclusive(str(folder / "read")) as lease:
        Decisions(str(folder / "read"), rows, lease).decide(0, 3)
    [code] = [block["text"] for block in FENCE.finditer(CORRECT) if block["info"] == "python"]
    memory: dict[str, Any] = {}
    exec(code, memory)  # noqa: S102 - our own documentation
    table = memory["corrected"].df()
    assert len(table) == 20
    assert table[table.reviewed].corrected.tolist() == [3]
    assert table[table.reviewed].source_row.tolist() == rows["source_row"].to_pylist()


def test_files_of_kaggle_become_a_submission(nanograd, sample, tmp_path):
    (tmp_path / "kaggle").mkdir()
    some = sample.train.take(slice(0, 301))
    train = pd.DataFrame(some.images, columns=PIXELS)
    train.insert(0, "label", some.labels)
    train.to_csv("kaggle/train.csv", index=False)
    pd.DataFrame(sample.test.images[:7], columns=PIXELS).to_csv("kaggle/test.csv", index=False)

    _, predicted = run_blocks(KAGGLE, nanograd, "--epochs", "1", "--hidden", "8")

    assert predicted["predicted"] == 7
    submission = pd.read_csv("submission.csv")
    assert list(submission.columns) == ["ImageId", "Label"]
    assert submission["ImageId"].tolist() == list(range(1, 8))


@pytest.fixture
def data(folder: Path, sample: Mnist) -> Path:
    """The folder with data of every kind that docs/your-data.md begins with."""
    some = sample.test.take(slice(0, ROWS))
    pngs = [to_png(image) for image in some.images]
    pictures = pa.array([{"bytes": png, "path": None} for png in pngs], PICTURE)
    hugging_face = pa.table({"image": pictures, "label": some.labels})
    of_spark = pa.table({"image": list(map(spark, some.images.reshape(-1, 28, 28, 1)))})
    tables = {
        "tables/a.parquet": pa.table(
            {"id": range(ROWS), "writer": ["ann"] * ROWS, "image": raw(some.images)}
        ),
        "mnist/test.parquet": with_features(
            hugging_face, image={"_type": "Image"}, label={"_type": "ClassLabel"}
        ),
        "spark/day=2026-11-26/part-00000.snappy.parquet": of_spark,
        "spark/day=2026-11-27/part-00000.snappy.parquet": of_spark,
        "binary/part-00000.snappy.parquet": pa.table(
            {"path": ["file:/a.png"] * ROWS, "content": pngs}
        ),
    }
    for name, table in tables.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / name)
    (folder / "spark/_SUCCESS").touch()
    (folder / "spark/.part-00000.snappy.parquet.crc").write_bytes(b"crc")
    flat = pd.DataFrame(some.images, columns=PIXELS).assign(id=range(ROWS))
    flat.to_csv(folder / "digits.csv", index=False)
    return folder


def test_every_block_about_your_data_runs_and_predicts_every_row(data, nanograd, sample):
    run_blocks(YOUR_DATA, nanograd)

    expected = model_io.load(str(data / "runs/1/model")).predict(sample.test.images[:ROWS]).tolist()
    for name in ("read-tables", "read-csv", "read-mnist", "read-binary"):
        found = pq.read_table(data / name / "predictions").sort_by("source_row")
        assert found["prediction"].to_pylist() == expected, name
    days = pq.read_table(data / "read-spark/predictions")
    assert days.num_rows == 2 * ROWS
    assert sorted(set(days["day"].to_pylist())) == ["2026-11-26", "2026-11-27"]
    [query] = [each["text"] for each in FENCE.finditer(NIGHTLY) if each["info"] == "sql"]
    found = duckdb.sql(query.replace("s3://bucket/read", "read-spark")).fetchall()
    assert sorted(row[:2] for row in found) == [(date(2026, 11, day), ROWS) for day in (26, 27)]
