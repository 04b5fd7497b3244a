"""The commands and the code of docs/your-data.md run, each on data of its kind."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd import commands
from nanograd.digits.dataset import Mnist
from nanograd.digits.form import to_png
from nanograd.models import model as model_io
from tests.conftest import ROOT, Nanograd
from tests.docs.test_docs import FENCE
from tests.helpers.image_columns import PICTURE, raw
from tests.helpers.models import some_model

ROWS = 29
TEXT = (ROOT / "docs/your-data.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))


@pytest.fixture
def data(tmp_path: Path, sample: Mnist) -> Path:
    """A folder with a model and data of every kind that the page begins with."""
    model_io.save(some_model(), str(tmp_path / "runs/1/model"))
    some = sample.test.take(slice(0, ROWS))
    pngs = [to_png(image) for image in some.images]
    commands.export_data(["sample"], str(tmp_path / "all"))
    for digit in range(10):
        (tmp_path / "pictures" / str(digit)).mkdir(parents=True)
        for file in sorted((tmp_path / "all" / str(digit)).iterdir())[:2]:
            shutil.copy(file, tmp_path / "pictures" / str(digit))
    about = {"info": {"features": {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel"}}}}
    pictures = pa.array([{"bytes": png, "path": None} for png in pngs], PICTURE)
    pixels = {"origin": "", "height": 28, "width": 28, "nChannels": 1, "mode": 0}
    spark = [{**pixels, "data": image.tobytes()} for image in some.images]
    tables = {
        "tables/a.parquet": {
            "id": range(ROWS),
            "writer": ["ann"] * ROWS,
            "image": raw(some.images),
        },
        "mnist/test.parquet": pa.table(
            {"image": pictures, "label": some.labels}
        ).replace_schema_metadata({"huggingface": json.dumps(about)}),
        "spark/day=2026-11-26/part-00000.snappy.parquet": {"image": spark},
        "spark/day=2026-11-27/part-00000.snappy.parquet": {"image": spark},
        "binary/part-00000.snappy.parquet": {"path": ["file:/a.png"] * ROWS, "content": pngs},
    }
    for name, columns in tables.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        table = columns if isinstance(columns, pa.Table) else pa.table(columns)
        pq.write_table(table, tmp_path / name)
    (tmp_path / "spark/_SUCCESS").touch()
    (tmp_path / "spark/.part-00000.snappy.parquet.crc").write_bytes(b"crc")
    names = [f"pixel{number}" for number in range(784)]
    flat = pd.DataFrame(np.asarray(some.images), columns=names).assign(id=range(ROWS))
    flat.to_csv(tmp_path / "digits.csv", index=False)
    return tmp_path


def test_every_block_runs_and_predicts_every_row(
    data: Path, nanograd: Nanograd, sample: Mnist
) -> None:
    results = {}
    for title, text in SECTIONS.items():
        for block in FENCE.finditer(text):
            if block["info"] == "sh":
                for line in block["text"].splitlines():
                    words = shlex.split(line)[1:]
                    workers = [] if words[0] in ("inspect", "evaluate") else ["--workers", "0"]
                    done = nanograd(*words, *workers)
                    assert done.code == 0, (line, done.stderr)
                    results.setdefault(title, []).append(done.last)
            elif block["info"] == "python":
                exec(block["text"], {})  # noqa: S102 - our own documentation

    last = {title: each[-1] for title, each in results.items()}
    rows = {title: each.get("predicted", each.get("images")) for title, each in last.items()}
    assert rows == {
        "Pictures": 20,
        "Training on your digits": 20,
        "Parquet files with images": ROWS,
        "A CSV file of pixels": ROWS,
        "A Hugging Face data set": ROWS,
        "The output of Spark": ROWS,
        "Every night": ROWS,
    }
    expected = model_io.load(str(data / "runs/1/model")).predict(sample.test.images[:ROWS]).tolist()
    for name in ("read-tables", "read-csv", "read-mnist", "read-binary"):
        found = pq.read_table(data / name / "predictions").sort_by("source_row")
        assert found["prediction"].to_pylist() == expected, name
    days = pq.read_table(data / "read-spark/predictions")
    assert days.num_rows == 2 * ROWS
    assert sorted(set(days["day"].to_pylist())) == ["2026-11-26", "2026-11-27"]
