"""The table of docs/predict.md: columns in which the same digits have the same predictions.

`.venv/bin/python -m tests.docs.test_pipelines` writes the table again.
"""

import json
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

import nanograd
from nanograd import commands
from nanograd.images import sources
from nanograd.settings.specs import PredictSpec
from tests.conftest import ROOT
from tests.helpers.image_columns import (
    FLAT_NAMES,
    PICTURE,
    Pixels,
    fixed_list,
    raw,
    tensor,
    variable_tensors,
)

PAGE = ROOT / "docs/predict.md"
TABLE = re.compile(r"(?<=<!-- pipelines -->\n).*?(?=<!-- /pipelines -->)", re.DOTALL)
HEAD = "| digits as | column |\n|---|---|"


class Pipeline(NamedTuple):
    """A source of tables with digits."""

    name: str
    columns: str  # how the documentation writes their types
    table: Callable[[Pixels], pa.Table]  # of (n, 784) uint8, ink 255 on 0


def png(pixels: Pixels) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def images_in(column: Any) -> pa.Table:
    return pa.table({"image": column})


def of_pngs(pictures: Pixels) -> pa.Table:
    return images_in([png(picture) for picture in pictures])


def hugging_face(images: Pixels) -> pa.Table:
    rows = [{"bytes": png(image), "path": None} for image in images.reshape(-1, 28, 28)]
    features = {"scan": {"_type": "Image"}, "image": {"_type": "Value", "dtype": "binary"}}
    table = pa.table({"image": [b"x"] * len(rows), "scan": pa.array(rows, PICTURE)})
    stored = json.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({"huggingface": stored})


def spark(images: Pixels) -> pa.Table:
    about = {"origin": "", "height": 28, "width": 28, "nChannels": 1, "mode": 0}
    return images_in([{**about, "data": image.tobytes()} for image in images])


def ray_tensor(images: Pixels) -> pa.Table:
    column = pa.array(list(images), pa.large_list(pa.uint8()))
    about = {
        "ARROW:extension:name": "ray.data.arrow_tensor_v2",
        "ARROW:extension:metadata": "[28, 28]",
    }
    return pa.table([column], pa.schema([pa.field("image", column.type, metadata=about)]))


def flat(images: Pixels) -> pa.Table:
    pixels = dict(zip(FLAT_NAMES["pixel0"], images.T, strict=True))
    return pa.table({"id": [bytes(16)] * len(images), **pixels})


def lists(values: NDArray[Any], type_: pa.DataType) -> pa.Table:
    return images_in(pa.array(list(values), pa.list_(type_)))


def squares(images: Pixels) -> Pixels:
    return images.reshape(-1, 28, 28)


def colour(images: Pixels) -> Pixels:
    return np.repeat(squares(images)[..., None], 3, axis=3)


def padded(images: Pixels) -> Pixels:
    return np.pad(squares(images), ((0, 0), (2, 2), (2, 2)))


def tensors(values: Pixels) -> pa.Table:
    return images_in(pa.FixedShapeTensorArray.from_numpy_ndarray(values))


PIPELINES = [
    Pipeline("PNG files", "`binary`", lambda images: of_pngs(squares(images))),
    Pipeline("Hugging Face images", "`struct<bytes, path>`", hugging_face),
    Pipeline("Spark images", "`struct<origin, height, ..., data>`", spark),
    Pipeline("raw bytes", "`binary`", lambda images: images_in(raw(images))),
    Pipeline("lists", "`list<uint8>`", lambda images: lists(images, pa.uint8())),
    Pipeline(
        "fixed-size lists",
        "`fixed_size_list<uint8>[784]`",
        lambda images: images_in(fixed_list(images)),
    ),
    Pipeline(
        "nested lists", "`list<list<int64>>`", lambda images: images_in(squares(images).tolist())
    ),
    Pipeline(
        "Arrow tensors",
        "`fixed_shape_tensor[28,28]`",
        lambda images: images_in(tensor(images)),
    ),
    Pipeline(
        "Arrow tensors, transposed",
        "`fixed_shape_tensor[28,28]` with a permutation",
        lambda images: tensors(squares(images).swapaxes(1, 2).copy().swapaxes(1, 2)),
    ),
    Pipeline("Ray tensors", "`ray.data.arrow_tensor_v2`", ray_tensor),
    Pipeline(
        "tensors beside their shapes",
        "`struct<data, shape>`",
        lambda images: images_in(variable_tensors(images)),
    ),
    Pipeline("784 columns beside an id", "`uint8`, each", flat),
    Pipeline(
        "floats from 0 to 1",
        "`list<float>`",
        lambda images: lists(images / np.float32(255), pa.float32()),
    ),
    Pipeline(
        "floats from 0 to 255", "`list<double>`", lambda images: lists(images * 1.0, pa.float64())
    ),
    Pipeline(
        "half floats",
        "`list<halffloat>`",
        lambda images: lists((images / 255).astype(np.float16), pa.float16()),
    ),
    Pipeline(
        "grey as RGB",
        "`fixed_shape_tensor[28,28,3]`",
        lambda images: tensors(colour(images)),
    ),
    Pipeline(
        "RGB, channels first",
        "`fixed_shape_tensor[3,28,28]`",
        lambda images: tensors(np.ascontiguousarray(np.moveaxis(colour(images), 3, 1))),
    ),
    Pipeline("RGB as PNG files", "`binary`", lambda images: of_pngs(colour(images))),
    Pipeline(
        "dark ink on white",
        "`fixed_shape_tensor[28,28]`",
        lambda images: tensors(255 - squares(images)),
    ),
    Pipeline(
        "dark ink on white, PNG files", "`binary`", lambda images: of_pngs(255 - squares(images))
    ),
    Pipeline(
        "32 x 32",
        "`fixed_shape_tensor[32,32]`",
        lambda images: tensors(padded(images)),
    ),
    Pipeline("32 x 32, PNG files", "`binary`", lambda images: of_pngs(padded(images))),
]


def some_digits(number: int) -> Pixels:
    """Return so many digits, at most 10,000: those of the sample and their transposed images."""
    data = sources.load(["sample"])
    images = np.concatenate([data.test.images, data.train.images])
    transposed = squares(images).swapaxes(1, 2).reshape(-1, 784)
    return np.concatenate([images, transposed])[:number]


def predict_all(folder: Path, number: int) -> dict[str, pa.Table]:
    """Predict so many digits as each of PIPELINES, in turn."""
    settings = {"hidden": 32, "epochs": 3, "batch_size": 128, "warmup": 20}
    run = nanograd.train(data="sample", output=str(folder / "run"), **settings)
    images = some_digits(number)
    tables = {}
    for place, pipeline in enumerate(PIPELINES):
        rows, out = folder / f"{place}.parquet", folder / f"out{place}"
        pq.write_table(pipeline.table(images), rows)
        config = PredictSpec(model=f"{run.directory}/model", output=str(out), workers=0)
        commands.predict([str(rows)], spec=config)
        read = pq.read_table(out / "predictions").sort_by("source_row")
        tables[pipeline.name] = read.select(["source_row", "prediction", "probabilities"])
    return tables


def write_table() -> str:
    lines = [f"| {pipeline.name} | {pipeline.columns} |" for pipeline in PIPELINES]
    return "\n".join([HEAD, *lines, ""])


def test_page_lists_every_kind_of_column() -> None:
    assert TABLE.findall(PAGE.read_text()) == [write_table()]


@pytest.mark.parametrize("number", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_same_digits_have_the_same_predictions_in_every_kind_of_column(
    tmp_path: Path, number: int
) -> None:
    predicted = predict_all(tmp_path, number)

    expected = predicted["PNG files"]
    assert len(expected) == number
    assert [name for name, table in predicted.items() if not table.equals(expected)] == []


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(lambda _: write_table(), PAGE.read_text()))
