import pickle
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import nanograd
from nanograd.api import OWN
from nanograd.digits.dataset import Mnist
from nanograd.digits.form import to_png
from nanograd.errors import ArgumentError, DataError
from nanograd.models import model as model_io
from tests.helpers.image_columns import FLAT_NAMES, Pixels, tensor
from tests.helpers.models import some_model

ROWS = 29


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("predictor") / "model")
    model_io.save(some_model(), place)
    return place


@pytest.fixture(scope="module")
def images(sample: Mnist) -> Pixels:
    return sample.test.images[:ROWS]


def squares(images: Pixels) -> Any:
    return images.reshape(-1, 28, 28)


def objects(values: list[Any]) -> Any:
    array = np.empty(len(values), object)
    array[:] = values
    return array


BATCHES: dict[str, Callable[[Pixels], Any]] = {
    "Arrow tensors": lambda images: pa.table({"image": tensor(images)}),
    "Arrow bytes": lambda images: pa.table({"image": [to_png(image) for image in images]}),
    "numpy": lambda images: {"image": squares(images)},
    "numpy, transposed": lambda images: {"image": np.asfortranarray(squares(images))},
    "numpy, channels first": lambda images: {"image": squares(images)[:, None]},
    "numpy, floats": lambda images: {"image": squares(images) / np.float32(255)},
    "numpy, big-endian": lambda images: {"image": squares(images).astype(">i8")},
    "list of bytes": lambda images: {"image": [image.tobytes() for image in images]},
    "list of arrays": lambda images: {"image": list(squares(images))},
    "numpy, bytes": lambda images: {"image": objects([to_png(image) for image in images])},
    "numpy, arrays": lambda images: {"image": objects(list(squares(images)))},
    "numpy, structs": lambda images: {
        "image": objects([{"bytes": to_png(image), "path": None} for image in images])
    },
    "pandas, bytes": lambda images: pd.DataFrame({"image": [to_png(image) for image in images]}),
    "pandas, arrays": lambda images: pd.DataFrame({"image": list(squares(images))}),
    "Arrow batch": lambda images: pa.record_batch({"image": tensor(images)}),
    "polars, bytes": lambda images: pl.DataFrame({"image": [to_png(image) for image in images]}),
    "polars, arrays": lambda images: pl.DataFrame({"image": images}),
    "polars, flat": lambda images: pl.DataFrame(images, schema=list(FLAT_NAMES["pixel0"])),
    "pandas, numbers as names": pd.DataFrame,
    "pandas, flat": lambda images: pd.DataFrame(images, columns=FLAT_NAMES["pixel0"]),
}


@pytest.mark.parametrize("form", BATCHES)
def test_batch_of_any_format_has_the_predictions_of_the_model(form, images, model):
    batch = BATCHES[form](images)

    result = nanograd.Predictor(model)(batch)

    assert type(result) is type(batch)
    expected = nanograd.load_model(model).predict_proba(images)
    assert np.array_equal(np.asarray(result["prediction"]), expected.argmax(axis=1))
    scores = result["probabilities"]
    if isinstance(result, pa.Table | pa.RecordBatch):
        scores = scores.to_pylist()
    assert np.array_equal(np.stack(list(scores)), expected)
    assert "image" not in result
    assert "pixel0" not in result


@pytest.mark.parametrize("form", ["arrow", "pandas", "numpy"])
def test_each_row_is_returned_once_with_its_other_columns_or_its_reason(form, images, model):
    rows = [to_png(image) for image in images]
    rows[3], rows[7] = b"no picture", b""
    columns = {"id": np.arange(ROWS), "image": objects(rows), "label": np.full(ROWS, "7", object)}
    batch: Any = columns
    if form == "pandas":
        batch = pd.DataFrame(columns, index=range(100, 100 + ROWS))
    elif form == "arrow":
        batch = pa.table(columns)

    result = nanograd.Predictor(model)(batch)

    names = ["id", "input_label", *OWN]
    assert list(result.column_names if form == "arrow" else result) == names
    none = None if form == "arrow" else -1
    values = result.to_pydict() if form == "arrow" else result
    assert list(values["id"]) == list(range(ROWS))
    assert list(values["input_label"]) == ["7"] * ROWS
    assert [row for row in range(ROWS) if list(values["prediction"])[row] == none] == [3, 7]
    assert list(values["label"]) == [none if row in (3, 7) else 7 for row in range(ROWS)]
    reasons = [None if pd.isna(each) else each for each in values["reason"]]
    assert reasons[3:8] == ["broken_image", None, None, None, "empty"]
    assert form != "pandas" or list(result.index) == list(range(100, 100 + ROWS))


def test_columns_of_pandas_keep_names_that_are_no_text(images, model):
    columns = {7: range(ROWS), "image": list(map(to_png, images)), ("a", 1): "x", "Reason": "y"}

    result = nanograd.Predictor(model)(pd.DataFrame(columns))

    assert list(result) == [7, ("a", 1), "input_Reason", *OWN]
    assert list(result[7]) == list(range(ROWS))


@pytest.mark.parametrize(
    "form", ["Arrow tensors", "numpy", "list of bytes", "pandas, flat", "Scan"]
)
def test_empty_batch_stays_empty_with_the_same_columns(form, images, model):
    scans = {"note": "x", "Scan": [image.tobytes() for image in images], "label": "7"}
    batch = pd.DataFrame(scans) if form == "Scan" else BATCHES[form](images)
    predictor = nanograd.Predictor(model, image_column="Scan" if "Scan" in batch else None)

    full = predictor(batch)
    none = predictor({"image": batch["image"][:0]} if isinstance(batch, dict) else batch[:0])

    assert list(getattr(none, "column_names", none)) == list(getattr(full, "column_names", full))
    assert len(none["prediction"]) == 0


@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize("type_", [dict, pd.DataFrame, pl.DataFrame, pa.table])
def test_batch_without_an_image_has_a_reason_for_each_row(type_, rows, model):
    batch = type_({"image": [None] * rows, "other": [[1, 2]] * rows})

    result = nanograd.Predictor(model)(batch)

    assert list(map(str, result["reason"])) == ["no_bytes"] * rows
    names = getattr(result, "column_names", getattr(result, "columns", result))
    assert list(names) == ["other", *OWN]


@pytest.mark.parametrize("other", [None, np.zeros((30, 28), np.uint8), [[0] * 9], []])
def test_list_of_arrays_and_others_is_read_like_an_array_of_objects(other, images, model):
    image = images[0].reshape(28, 28)

    for rows in ([image, other], [other, image.tolist(), image], (image / 255, other)):
        result = nanograd.Predictor(model)({"image": rows})
        expected = nanograd.Predictor(model)({"image": objects(rows)})

        assert sorted(result["prediction"] < 0) == sorted([False] * (len(rows) - 1) + [True])
        for name in ("prediction", "reason", "detail"):
            assert list(result[name]) == list(expected[name])


@pytest.mark.parametrize(
    ("batch", "error", "why"),
    [
        ([bytes(784)], ArgumentError, "arrays by name"),
        (pl.LazyFrame({"image": [bytes(784)]}), ArgumentError, "not <class .*LazyFrame"),
        ({"id": np.arange(7)}, DataError, r"choose a column with image_column$"),
        ({"image": [b"x"], "label": [7], "Label": [7]}, DataError, r"choose with label_column$"),
        ({"image": np.array([bytes(784), b"x"])}, ArgumentError, r"\|S784 loses zeros"),
        ({"image": [b"x"] * 3, "label": objects([1, "a", 2])}, ArgumentError, "column 'label'"),
        ({"image": [b"x"] * 3, "id": np.arange(2)}, ArgumentError, "columns of 2 and of 3 rows"),
        ({"image": [b"x"], "id": 7}, ArgumentError, "column 'id' cannot be used: "),
        ({"id": np.array([1j])}, ArgumentError, "column 'id' cannot be used: "),
        ({"id": np.array([2**70])}, ArgumentError, "column 'id' cannot be used: "),
        ({"image": [[0] * 784, 0]}, ArgumentError, "column 'image' cannot be used: "),
        (pd.DataFrame([[b"x", b"y"]], columns=["image"] * 2), ArgumentError, "name each column"),
    ],
)
def test_batch_of_another_kind_is_an_error_with_its_reason(batch, error, why, model):
    with pytest.raises(error, match=why):
        nanograd.Predictor(model)(batch)


def test_named_label_column_that_is_missing_is_an_error(images, model):
    with pytest.raises(DataError, match="no column 'nope' among image"):
        nanograd.Predictor(model, label_column="nope")({"image": images})
    assert "prediction" in nanograd.Predictor(model, label_column="none")({"image": images})


OTHER_COLUMNS: dict[str, Any] = {
    "category": pd.Series(["a", "b", None] * 3, dtype="category"),
    "time zone": pd.date_range("2026-01-01", periods=9, tz="Asia/Taipei"),
    "period": pd.period_range("2026-01", periods=9, freq="M"),
    "interval": pd.interval_range(0, 9),
    "mixed": objects([1, "a", b"c", None, 2.5, [1], {}, (), pd.NaT]),
    "complex": np.arange(9) * 1j,
    "arrays of two lengths": objects([np.zeros(1 + row % 2) for row in range(9)]),
    "nullable": pd.Series([1, None, 3] * 3, dtype="Int64"),
    "text": pd.Series(["a", None, "c"] * 3, dtype="string"),
}


@pytest.mark.parametrize("kind", OTHER_COLUMNS)
def test_columns_that_are_not_needed_may_be_of_any_type(kind, images, model):
    values = OTHER_COLUMNS[kind]
    batch = pd.DataFrame({"id": values, "image": [to_png(image) for image in images[:9]]})
    batch.index = pd.Index([7, 7, 7, 1, 2, 3, 4, 5, 6])

    result = nanograd.Predictor(model)(batch)

    pd.testing.assert_series_equal(result["id"], batch["id"])
    assert list(result["prediction"]) == list(nanograd.load_model(model).predict(images[:9]))
    if isinstance(values, np.ndarray):
        mapping = nanograd.Predictor(model)({"id": values, "image": images[:9]})
        assert mapping["id"] is values


@pytest.mark.parametrize("type_", ["category", "Int64", "string", "object"])
def test_labels_of_any_type_of_pandas_are_read(type_, images, model):
    labels = pd.Series([7, 8, None]).astype("Int64")
    given = labels.astype(str).where(labels.notna()) if type_ == "string" else labels
    batch = pd.DataFrame({"image": list(images[:3]), "label": given.astype(type_)})

    assert list(nanograd.Predictor(model)(batch)["label"]) == [7, 8, -1]


def test_threads_leave_the_warnings_of_the_program_alone(images, model):
    predictor = nanograd.Predictor(model, normalise="always")
    batch = pa.table({"image": [to_png(image) for image in images]})
    before, show = list(warnings.filters), warnings.showwarning

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(predictor, [batch] * 32))

    assert len(found) == 32
    assert (warnings.filters, warnings.showwarning) == (before, show)


def test_loaded_or_sent_predictor_predicts_as_that_of_the_directory(images, model):
    batch = {"id": np.array([b"a"] * ROWS), "image": images}  # bytes of fixed width may be kept
    places: list[Any] = [model, nanograd.load_model(model)]
    predictors = [nanograd.Predictor(each) for each in places]
    sent = pickle.loads(pickle.dumps(predictors[0]))  # noqa: S301 - our own

    found = [each(batch) for each in (*predictors, sent)]

    assert all((each["id"] == b"a").all() for each in found)
    scores = [each["probabilities"] for each in found]
    assert np.array_equal(scores[0], scores[1])
    assert np.array_equal(scores[0], scores[2])
