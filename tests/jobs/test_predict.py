import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from nanograd import commands
from nanograd.digits.dataset import Mnist
from nanograd.models import model as model_io
from nanograd.runtime import json_files
from nanograd.settings.specs import PredictSpec
from tests.helpers.image_columns import (
    NUMBER_COLUMNS,
    PICTURE_COLUMNS,
    Pixels,
    fixed_list,
)
from tests.helpers.models import some_model

COLUMNS = PICTURE_COLUMNS | NUMBER_COLUMNS


class Predicted(NamedTuple):
    """The output of a job, in the order of the rows."""

    figures: dict[str, Any]
    table: pa.Table
    quarantine: list[tuple[str, int | None, str]]


Predict = Callable[..., Predicted]


@pytest.fixture(scope="module")
def model_place(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("predict") / "model")
    model_io.save(some_model(), place)
    return place


@pytest.fixture(scope="module")
def images(sample: Mnist) -> Pixels:
    """29 digits of the sample."""
    return sample.test.images[:29]


@pytest.fixture(scope="module")
def expected(images: Pixels, model_place: str) -> NDArray[np.float32]:
    """The scores of the images."""
    return model_io.load(model_place).probabilities(images)


@pytest.fixture
def predict(model_place: str, tmp_path: Path) -> Predict:
    """Predict tables, each written as a file of its name, and the files that are there already."""

    def run(files: dict[str, pa.Table], inputs: str = "", **settings: Any) -> Predicted:
        (tmp_path / "in").mkdir(exist_ok=True)
        for name, table in files.items():
            pq.write_table(table, tmp_path / "in" / name)
        out = tmp_path / "out"
        config = PredictSpec(model=model_place, output=str(out), workers=0, **settings)
        figures = commands.predict([inputs or str(tmp_path / "in")], spec=config).to_json()
        table = pq.read_table(out / "predictions").sort_by(
            [("source_file", "ascending"), ("source_row", "ascending")]
        )
        bad = pq.read_table(out / "quarantine").to_pylist()
        assert all(row["detail"] for row in bad)
        quarantine = [
            (Path(row["source_file"]).name, row["source_row"], row["reason"]) for row in bad
        ]
        return Predicted(figures, table, sorted(quarantine, key=str))

    return run


def scores_of(table: pa.Table) -> NDArray[np.float32]:
    flat: NDArray[np.float32] = table["probabilities"].combine_chunks().flatten().to_numpy()
    return flat.reshape(-1, 10)


BROKEN_ROWS = [
    pytest.param("struct", {"bytes": None, "path": "x.png"}, "no_bytes", id="null bytes"),
    pytest.param("struct", None, "no_bytes", id="null struct"),
    pytest.param("png", None, "no_bytes", id="null binary"),
    pytest.param("raw bytes", bytes(783), "broken_image", id="783 bytes"),
    pytest.param("list of integers", None, "no_bytes", id="null list"),
    pytest.param("large list", [0] * 785, "wrong_shape", id="785 numbers"),
    pytest.param("fixed-size list", None, "no_bytes", id="null fixed-size list"),
    pytest.param("28 x 28 lists", [[0] * 27] * 27 + [[0]], "wrong_shape", id="ragged"),
    pytest.param("floats to 1", [float("nan")] + [0.5] * 783, "bad_pixel", id="NaN"),
    pytest.param("floats to 255", [-1.0] + [0.5] * 783, "bad_pixel", id="below 0"),
]


@pytest.mark.parametrize(("kind", "value", "reason"), BROKEN_ROWS)
def test_broken_row_is_quarantined_and_does_not_affect_others(
    kind: str, value: object, reason: str, images: Pixels, predict: Predict
) -> None:
    whole = COLUMNS[kind](images)
    expected = predict({"a.parquet": pa.table({"image": whole})}).table
    values = whole.to_pylist()
    values[11] = value

    done = predict({"a.parquet": pa.table({"image": pa.array(values, whole.type)})}, overwrite=True)

    others = [row for row in range(29) if row != 11]
    assert done.quarantine == [("a.parquet", 11, reason)]
    assert done.table.drop(["confidence", "unfamiliarity", "probabilities"]).equals(
        expected.take(others).drop(["confidence", "unfamiliarity", "probabilities"])
    )
    # The rounding of a matrix product depends on its number of rows.
    np.testing.assert_allclose(
        scores_of(done.table), scores_of(expected)[others], rtol=1e-5, atol=1e-7
    )
    assert done.figures["reasons"] == {reason: 1}
    assert (done.figures["rows"], done.figures["predicted"]) == (29, 28)


def test_accuracy_counts_only_the_labelled_rows(
    images: Pixels, expected: NDArray[np.float32], predict: Predict
) -> None:
    truth = expected.argmax(1)
    labels = [None if row < 19 else int(truth[row] + row % 2) % 10 for row in range(29)]
    table = pa.table({"pixels": fixed_list(images), "digit": pa.array(labels, pa.int16())})
    unlabelled = pa.table({"pixels": fixed_list(images)})

    done = predict({"a.parquet": table, "b.parquet": unlabelled})

    assert done.figures["accuracy"] == 0.5
    assert done.table["label"].to_pylist() == labels + [None] * 29


def with_one_more_row(data: bytes) -> bytes:
    """Change the footer's count of rows, a thrift number, so that it contradicts its row groups."""
    at = data.rindex(b"\x16\x3a\x19")  # 29 rows, then the list of row groups
    return data[:at] + b"\x16\x3c\x19" + data[at + 3 :]


BROKEN_FILES = [
    pytest.param(lambda data: b"", id="0 bytes"),
    pytest.param(lambda data: b"no Parquet at all", id="other format"),
    pytest.param(lambda data: data[:-30], id="cut short"),
    pytest.param(lambda data: data.replace(b"image", b"im\xffge"), id="name is no text"),
    pytest.param(with_one_more_row, id="rows do not add up"),
]


@pytest.mark.parametrize("damage", BROKEN_FILES)
def test_broken_file_is_one_line_of_quarantine_among_good_ones(
    damage: Callable[[bytes], bytes], images: Pixels, tmp_path: Path, predict: Predict
) -> None:
    good = pa.table({"image": fixed_list(images)})
    file = tmp_path / "in" / "b.parquet"
    file.parent.mkdir()
    pq.write_table(good, file, write_statistics=False, store_schema=False)
    file.write_bytes(damage(file.read_bytes()))

    done = predict({"a.parquet": good, "c.parquet": good}, max_broken_files=1)

    assert done.quarantine == [("b.parquet", None, "broken_file")]
    assert done.figures["predicted"] == done.figures["rows"] == 58
    assert (done.figures["quarantined"], done.figures["reasons"]) == (0, {})
    assert (done.figures["broken_files"], done.figures["files"]) == (1, 3)


def test_file_whose_name_is_not_unicode_is_predicted(
    images: Pixels, tmp_path: Path, predict: Predict
) -> None:
    good = pa.table({"image": fixed_list(images)})
    (tmp_path / "in").mkdir()
    pq.write_table(good, tmp_path / "b.parquet")
    shutil.copy(tmp_path / "b.parquet", tmp_path / "in" / os.fsdecode(b"l\xe4ufe.parquet"))

    done = predict({"a.parquet": good})

    names = {Path(file).name for file in done.table["source_file"].to_pylist()}
    assert names == {"a.parquet", r"l\udce4ufe.parquet"}
    assert done.figures["predicted"] == 2 * 29


def test_hive_folder_whose_name_is_not_unicode_is_predicted(
    images: Pixels, tmp_path: Path, predict: Predict
) -> None:
    folder = tmp_path / "in" / os.fsdecode(b"wr\xe4iter=j\xf6rg")
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"image": fixed_list(images)}), tmp_path / "rows")
    (tmp_path / "rows").rename(folder / "000000_0")
    (tmp_path / "in" / "loop").symlink_to("loop")

    done = predict({}, keep=("*",))

    assert done.figures["predicted"] == 29
    assert set(done.table[r"wr\udce4iter"].to_pylist()) == {r"j\udcf6rg"}


WRONG_SCHEMAS = {
    "no image": pa.table({"name": ["a", "b"], "label": [1, 2]}),
    "numbers as text": pa.table({f"pixel{place}": ["0"] for place in range(784)}),
    "one name twice": pa.Table.from_arrays([pa.array([bytes(784)])] * 2, ["image", "image"]),
    "another name twice": pa.Table.from_arrays([pa.array([bytes(784)])] * 3, ["image", "b", "b"]),
    "two candidates": pa.Table.from_arrays([pa.array([bytes(784)])] * 2, ["left", "right"]),
}


def test_files_of_every_sort_in_one_folder_are_all_in_the_manifest(
    images: Pixels, expected: NDArray[np.float32], tmp_path: Path, predict: Predict
) -> None:
    good = pa.table({"image": COLUMNS["fixed-size raw bytes"](images)})
    files = {f"{name}.parquet": table for name, table in WRONG_SCHEMAS.items()}
    files |= {f"neither {each}.parquet": files["no image.parquet"][:0] for each in (1, 2)}
    (tmp_path / "in").mkdir()
    pq.write_table(good, tmp_path / "in" / "page.parquet")
    page = (tmp_path / "in" / "page.parquet").read_bytes()
    (tmp_path / "in" / "page.parquet").write_bytes(page[:200] + b"\xff" * 400 + page[600:])
    (tmp_path / "in" / "empty.parquet").write_bytes(b"")

    tables = {"good.parquet": good, "no rows.parquet": good[:0], **files}
    done = predict(tables, max_broken_files=1)

    inputs = {path.name for path in (tmp_path / "in").iterdir()}
    receipts = json_files.read_manifest(str(tmp_path / "out" / "_manifest.json"))["receipts"]
    assert sorted(Path(file).name for each in receipts for file in each["inputs"]) == sorted(inputs)
    assert done.quarantine == sorted(
        [
            *[(name, None, "wrong_schema") for name in files],
            ("empty.parquet", None, "broken_file"),
            *[("page.parquet", row, "broken_file") for row in range(29)],
        ],
        key=str,
    )
    assert {Path(file).name for file in done.table["source_file"].to_pylist()} == {"good.parquet"}
    np.testing.assert_array_equal(scores_of(done.table), expected)
    # A file of a wrong schema counts for the rows of its footer, also if it has none.
    assert (done.figures["rows"], done.figures["broken_files"]) == (58 + 6, 1)
    assert (done.figures["predicted"], done.figures["quarantined"]) == (29, 29 + 6)
    assert done.figures["reasons"] == {"broken_file": 29, "wrong_schema": 6}


def test_hive_folders_give_labels_and_columns_to_keep(
    images: Pixels, expected: NDArray[np.float32], tmp_path: Path, predict: Predict
) -> None:
    truth = expected.argmax(1)
    for label in sorted(set(truth.tolist())):
        place = tmp_path / "in" / f"label={label}" / f"writer=O%27Hara-{label}"
        place.mkdir(parents=True)
        pq.write_table(pa.table({"image": fixed_list(images[truth == label])}), place / "x.parquet")

    done = predict({}, keep=("writer",))

    assert done.figures["accuracy"] == 1.0
    assert done.table["label"].to_pylist() == done.table["prediction"].to_pylist()
    assert done.table["writer"].to_pylist() == [
        f"O'Hara-{n}" for n in done.table["label"].to_pylist()
    ]


def test_folder_above_the_input_gives_no_labels(
    images: Pixels, tmp_path: Path, predict: Predict
) -> None:
    above = tmp_path / "in" / "label=3" / "rows"
    (above / "writer=ann").mkdir(parents=True)
    file = above / "writer=ann" / "x.parquet"
    pq.write_table(pa.table({"image": fixed_list(images)}), file)

    done = predict({}, inputs=str(above), keep=("*",))

    assert set(done.table["label"].to_pylist()) == {None}
    assert set(done.table["writer"].to_pylist()) == {"ann"}


def test_column_takes_precedence_over_a_folder_of_its_name(
    images: Pixels, tmp_path: Path, predict: Predict
) -> None:
    (tmp_path / "in" / "label=3").mkdir(parents=True)
    table = pa.table({"image": fixed_list(images), "label": pa.array([5] * 29, pa.int8())})

    done = predict({"label=3/x.parquet": table})

    assert set(done.table["label"].to_pylist()) == {5}
