"""The list in docs/predict.md: columns in which the same digits have the same predictions.

`.venv/bin/python -m tests.docs.test_pipelines` writes the list again.
"""

import re
from collections.abc import Callable
from textwrap import fill
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import nanograd
from nanograd import batch
from nanograd.images import sources
from nanograd.settings.specs import PredictSpec
from tests.conftest import ROOT
from tests.helpers.image_columns import (
    FLAT_NAMES,
    PICTURE,
    Pixels,
    fixed_list,
    raw,
    ray_tensors,
    spark,
    tensor,
    tensors,
    variable_tensors,
    with_features,
)
from tests.helpers.odd_files import encoded

PAGE = ROOT / "docs/predict.md"
LIST = re.compile(r"(?<=<!-- pipelines -->\n).*?(?=<!-- /pipelines -->)", re.DOTALL)
NUM_DIGITS = 193


def pngs(pictures: Pixels) -> list[bytes]:
    return [encoded(Image.fromarray(picture)) for picture in pictures]


def hugging_face(images: Pixels) -> pa.Table:
    rows = [{"bytes": each, "path": None} for each in pngs(squares(images))]
    table = pa.table({"image": [b"x"] * len(rows), "scan": pa.array(rows, PICTURE)})
    return with_features(
        table, scan={"_type": "Image"}, image={"_type": "Value", "dtype": "binary"}
    )


def flat(images: Pixels) -> pa.Table:
    pixels = dict(zip(FLAT_NAMES["pixel0"], images.T, strict=True))
    return pa.table({"id": [bytes(16)] * len(images), **pixels})


def squares(images: Pixels) -> Pixels:
    return images.reshape(-1, 28, 28)


def dark(images: Pixels) -> Pixels:
    return 255 - squares(images)


def transposed(images: Pixels) -> pa.Array:
    return tensors(squares(images).swapaxes(1, 2).copy().swapaxes(1, 2))


def colour(images: Pixels) -> Pixels:
    return np.repeat(squares(images)[..., None], 3, axis=3)


def channels_first(images: Pixels) -> pa.Array:
    return tensors(np.ascontiguousarray(np.moveaxis(colour(images), 3, 1)))


def padded(images: Pixels) -> Pixels:
    return np.pad(squares(images), ((0, 0), (2, 2), (2, 2)))


# Name of a source, how the documentation writes the types of its columns, and what it makes of
# (n, 784) uint8, ink 255 on 0: a column `image`, or a table.
PIPELINES: list[tuple[str, str, Callable[[Pixels], Any]]] = [
    ("PNG files", "`binary`", lambda images: pngs(squares(images))),
    ("Hugging Face images", "`struct<bytes, path>`", hugging_face),
    (
        *("Spark images", "`struct<origin, height, ..., data>`"),
        lambda images: [spark(image) for image in squares(images)[..., None]],
    ),
    ("raw bytes", "`binary`", raw),
    ("lists", "`list<uint8>`", list),
    ("fixed-size lists", "`fixed_size_list<uint8>[784]`", fixed_list),
    ("nested lists", "`list<list<int64>>`", lambda images: squares(images).tolist()),
    ("Arrow tensors", "`fixed_shape_tensor[28,28]`", tensor),
    ("Arrow tensors, transposed", "`fixed_shape_tensor[28,28]` with a permutation", transposed),
    ("Ray tensors", "`ray.data.arrow_tensor_v2`", lambda images: ray_tensors(squares(images))),
    ("tensors beside their shapes", "`struct<data, shape>`", variable_tensors),
    ("784 columns beside an id", "`uint8`, each", flat),
    ("floats from 0 to 1", "`list<float>`", lambda images: list(images / np.float32(255))),
    ("floats from 0 to 255", "`list<double>`", lambda images: list(images * 1.0)),
    ("half floats", "`list<halffloat>`", lambda images: list((images / 255).astype(np.float16))),
    ("grey as RGB", "`fixed_shape_tensor[28,28,3]`", lambda images: tensors(colour(images))),
    ("RGB, channels first", "`fixed_shape_tensor[3,28,28]`", channels_first),
    ("RGB as PNG files", "`binary`", lambda images: pngs(colour(images))),
    ("dark ink on white", "`fixed_shape_tensor[28,28]`", lambda images: tensors(dark(images))),
    ("dark ink on white, PNG files", "`binary`", lambda images: pngs(dark(images))),
    ("32 x 32", "`fixed_shape_tensor[32,32]`", lambda images: tensors(padded(images))),
    ("32 x 32, PNG files", "`binary`", lambda images: pngs(padded(images))),
]


def write_list() -> str:
    kinds = "; ".join(f"{name}: {columns}" for name, columns, _ in PIPELINES)
    return fill(kinds, 120, break_long_words=False, break_on_hyphens=False) + "\n"


def test_page_lists_every_kind_of_column():
    assert LIST.findall(PAGE.read_text()) == [write_list()]


def test_same_digits_have_the_same_predictions_in_every_kind_of_column(tmp_path):
    settings = {"hidden": 32, "epochs": 3, "batch_size": 128, "warmup": 20}
    run = nanograd.train(data="sample", output=str(tmp_path / "run"), **settings)
    images, predicted = sources.load(["sample"]).test.images[:NUM_DIGITS], {}
    for number, (name, _, make) in enumerate(PIPELINES):
        rows, out, made = tmp_path / f"{number}.parquet", tmp_path / f"out{number}", make(images)
        pq.write_table(made if isinstance(made, pa.Table) else pa.table({"image": made}), rows)
        config = PredictSpec(model=f"{run.directory}/model", output=str(out), workers=0)
        batch.predict([str(rows)], spec=config)
        read = pq.read_table(out / "predictions").sort_by("source_row")
        predicted[name] = read.select(["source_row", "prediction", "probabilities"])

    expected = predicted["PNG files"]
    assert len(expected) == NUM_DIGITS
    assert [name for name, table in predicted.items() if not table.equals(expected)] == []


if __name__ == "__main__":
    PAGE.write_text(LIST.sub(lambda _: write_list(), PAGE.read_text()))
