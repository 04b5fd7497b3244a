from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd.digits.dataset import Mnist
from nanograd.images import reader
from nanograd.images.reader import read_table
from nanograd.images.rows import BAD_LABEL
from nanograd.settings.specs import ReadOptions
from tests.helpers import image_columns


@pytest.fixture(scope="module")
def images(sample: Mnist) -> image_columns.Pixels:
    return sample.test.images[:7]


@pytest.mark.parametrize("kind", image_columns.NUMBER_COLUMNS)
def test_numbers_in_a_slice_of_several_chunks_are_read_unchanged(kind, images):
    column = image_columns.NUMBER_COLUMNS[kind](images)
    null = pa.nulls(1, getattr(column.type, "storage_type", column.type))
    if kind == "tensor":
        null = pa.ExtensionArray.from_storage(column.type, null)
    found, rejections = image_columns.read_column(pa.chunked_array([column] * 2).slice(3, 9))
    beside, refused = image_columns.read_column(pa.chunked_array([column[:2], null, column[2:]]))
    none, _ = image_columns.read_column(column[:0])

    assert found.images.dtype == np.uint8
    assert np.array_equal(found.images, images[[3, 4, 5, 6, 0, 1, 2, 3, 4]])
    assert (found.rows.tolist(), found.labels.tolist()) == (list(range(9)), [-1] * 9)
    assert not len(rejections)
    assert np.array_equal(beside.images, images)
    assert image_columns.reasons(refused) == [(2, "no_bytes")]
    assert (none.images.shape, len(none.rows)) == ((0, 784), 0)


LABELS = {
    "int8": pa.array([3, None, 10, 0, 127, -1], pa.int8()),
    "uint64": pa.array([3, None, 10, 0, 2**64 - 1, None], pa.uint64()),
    "float with NaN": pa.array([3.0, None, 7.5, 0.0, np.inf, np.nan], pa.float64()),
    "half": pa.array(np.array([3, -1, 7.5, 0, 11, np.nan], np.float16)),
    "decimal": pa.array(
        [Decimal(3), None, Decimal("7.5"), Decimal("0.0"), Decimal(10), Decimal(-1)]
    ),
    "text": pa.array(["3", None, "10", " 0.0 ", "seven", "-1"]),
    "large text": pa.array(["3.", "", "07", "0", "3e0", " "], pa.large_string()),
    "text view": pa.array(["3", "NaN", "07", "0", "none", " "], pa.string_view()),
    "dictionary of text": pa.array(["3", None, "10", "0", "x", "-1"]).dictionary_encode(),
    "dictionary of views": pa.DictionaryArray.from_arrays(
        pa.array([0, None, 1, 2, 3, 4], pa.uint32()),
        pa.array(["3", "10", "0", "x", "-1"], pa.string_view()),
    ),
    "dictionary of integers": pa.array([3, None, 10, 0, 11, -1]).dictionary_encode(),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_type_are_digits_none_or_counted_as_bad(kind, images):
    rows = [*(image.tobytes() for image in images[:5]), b"no picture"]

    found, rejections = read_table(pa.table({"image": rows, "label": LABELS[kind]}), ReadOptions())

    assert found.labels.dtype == np.int8
    assert found.labels.tolist() == [3, -1, BAD_LABEL, 0, BAD_LABEL]
    assert np.array_equal(found.images, images[:5])
    assert image_columns.reasons(rejections) == [(5, "broken_image")]


WORDS = ["nine", "Eight", "seven", "6", "5", "4", "three", "two", "one", "zero"]
CLASSES = [pa.int8(), pa.uint64(), pa.float64(), pa.dictionary(pa.int32(), pa.int64())]


@pytest.mark.parametrize("type_", CLASSES, ids=str)
def test_names_of_classes_are_the_labels(type_, images, tmp_path):
    feature = {"_type": "ClassLabel", "names": [*WORDS, "blot"]}
    numbers = pa.array([*range(12), None], type_)
    table = pa.table({"image": image_columns.raw(np.resize(images, (13, 784))), "label": numbers})

    found, _ = read_table(image_columns.with_features(table, label=feature), ReadOptions())
    text = table.slice(0, 2).set_column(1, "label", pa.array(["9", "0"]))
    of_text, _ = read_table(image_columns.with_features(text, label=feature), ReadOptions())
    assert found.labels.tolist() == [*range(9, -1, -1), BAD_LABEL, BAD_LABEL, -1]
    assert of_text.labels.tolist() == [9, 0]  # text is no number of a class
    for kind in (pa.binary(), pa.binary_view()):
        stored = table.set_column(0, "image", table["image"].cast(kind))
        pq.write_table(image_columns.with_features(stored, label=feature), tmp_path / "a.parquet")
        [of_file, _] = reader.read([(str(tmp_path / "a.parquet"), None)], ReadOptions())
        assert of_file.labels.tolist() == found.labels.tolist()
