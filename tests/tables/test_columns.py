import json

import pyarrow as pa
import pytest

from nanograd.errors import DataError
from nanograd.tables.columns import find_image_column, find_label_column, unusable_labels
from tests.helpers.image_columns import FLAT_NAMES

PICKLED = {"ARROW:extension:name": "ray.data.arrow_pickled_object"}


@pytest.mark.parametrize(
    ("schema", "name", "words"),
    [
        ([pa.field("image", pa.large_binary(), metadata=PICKLED)], None, "pickled"),
        ([("name", pa.string()), ("age", pa.int64())], None, r"name, age.*--image-column"),
        ([("left", pa.binary()), ("right", pa.binary())], None, "left or right; choose with"),
        ([("Image", pa.binary()), ("image", pa.binary())], None, "Image or image; choose with"),
        ([("id", pa.binary(16))], None, "no image column is recognised among id"),
        ([("vector", pa.list_(pa.float32(), 512))], None, "no image column is recognised"),
        ([("name", pa.string())], "name", "'name' holds string, which cannot be images"),
        ([("image", pa.binary())], "scan", "'scan'"),
    ],
    ids=str,
)
def test_schema_without_a_clear_image_column_is_refused(
    schema: list[pa.Field], name: str | None, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        find_image_column(pa.schema(schema), name)


def test_name_decides_between_image_columns() -> None:
    schema = pa.schema([("image", pa.binary()), ("right", pa.binary())])

    assert find_image_column(schema, "right").names == ("right",)


def test_usual_names_have_an_order_of_their_own() -> None:
    blobs = [(name, pa.binary()) for name in ("data", "IMG", "image")]

    assert find_image_column(pa.schema(blobs)).names == ("image",)
    assert find_image_column(pa.schema(blobs[:2])).names == ("IMG",)


def test_features_of_hugging_face_decide_first() -> None:
    features = {"scan": {"_type": "Image"}, "image": {"_type": "Value", "dtype": "binary"}}
    stored = json.dumps({"info": {"features": features}}).encode()
    schema = pa.schema([("image", pa.binary()), ("scan", pa.binary())])

    assert find_image_column(schema.with_metadata({"huggingface": stored})).names == ("scan",)
    assert find_image_column(schema.with_metadata({"huggingface": b"[7]"})).names == ("image",)


@pytest.mark.parametrize("names", FLAT_NAMES.values(), ids=FLAT_NAMES)
@pytest.mark.parametrize("other", [pa.binary(), pa.binary(784), pa.list_(pa.float32())], ids=str)
def test_flat_columns_are_the_image_beside_any_other_column(
    names: list[str], other: pa.DataType
) -> None:
    pixels = [(name, pa.uint8()) for name in names]

    found = find_image_column(pa.schema([("id", other), *pixels, ("data", other)]))

    assert found.names == tuple(names)


@pytest.mark.parametrize(
    "type_", [pa.uint8(), pa.float64(), pa.string(), pa.decimal128(3)], ids=str
)
def test_label_column_is_the_first_usual_name_that_can_hold_digits(type_: pa.DataType) -> None:
    fields = [(name, type_) for name in ("y", "x", "target", "Digit", "label")]

    assert find_label_column(pa.schema(fields)) == "label"
    assert find_label_column(pa.schema(fields[:4])) == "Digit"
    assert find_label_column(pa.schema(fields[:3])) == "target"
    assert find_label_column(pa.schema(fields[:2])) is None
    assert find_label_column(pa.schema([*fields[:4], ("label", pa.binary())])) == "Digit"


def test_label_column_may_be_named_or_none() -> None:
    schema = pa.schema([("label", pa.int8()), ("y", pa.dictionary(pa.int8(), pa.string()))])

    assert find_label_column(schema, "y") == "y"
    assert find_label_column(schema, "none") is None
    assert find_label_column(schema, "class") is None  # of another file


def test_several_label_columns_are_refused() -> None:
    schema = pa.schema([("Label", pa.int8()), ("label", pa.int8())])

    with pytest.raises(DataError, match="Label or label; choose with --label-column"):
        find_label_column(schema)


@pytest.mark.parametrize(
    "type_", [pa.bool_(), pa.binary(), pa.list_(pa.int8()), pa.date32(), pa.duration("s")], ids=str
)
def test_named_label_column_must_be_able_to_hold_digits(type_: pa.DataType) -> None:
    schema = pa.schema([("label", type_)])

    with pytest.raises(DataError, match=r"'label' holds .*, which cannot be digits"):
        find_label_column(schema, "label")
    assert [field.name for field in unusable_labels(schema)] == ["label"]
