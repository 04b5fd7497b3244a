import json

import pyarrow as pa
import pytest

from nanograd.errors import DataError
from nanograd.images.columns import find_image_column, find_label_column, find_partitions
from nanograd.images.inputs import roots_of
from tests.helpers.image_columns import FLAT_NAMES, PICTURE

PICKLED = {"ARROW:extension:name": "ray.data.arrow_pickled_object"}


@pytest.mark.parametrize(
    ("schema", "name", "words"),
    [
        ([pa.field("image", pa.large_binary(), metadata=PICKLED)], None, "pickled"),
        ([("name", pa.string()), ("age", pa.int64())], None, r"name, age.*--image-column"),
        ([("left", pa.binary()), ("right", pa.binary())], None, "left or right; choose with"),
        ([("Image", pa.binary()), ("image", pa.binary())], None, "Image or image; choose with"),
        ([("id", pa.binary(16))], None, "among id"),
        ([("vector", pa.list_(pa.float32(), 512))], None, "among vector"),
        ([("age", pa.int64())], "age", "'age' holds int64"),
        ([("image", pa.binary())], "scan", "'scan'"),
    ],
    ids=str,
)
def test_schema_without_a_clear_image_column_is_refused(schema, name, words):
    with pytest.raises(DataError, match=words):
        find_image_column(pa.schema(schema), name)


BLOBS = [(name, pa.binary()) for name in ("data", "IMG", "image")]
FEATURES = {"scan": {"_type": "Image"}, "image": {"_type": "Value", "dtype": "binary"}}
STORED = json.dumps({"info": {"features": FEATURES}}).encode()


@pytest.mark.parametrize(
    ("fields", "name", "stored", "found"),
    [
        ([("image", pa.binary()), ("right", pa.binary())], "right", b"", "right"),
        ([("image", pa.binary()), ("file", pa.string())], "file", b"", "file"),
        (BLOBS, None, b"", "image"),
        (BLOBS[:2], None, b"", "IMG"),
        ([("image", pa.binary()), ("scan", pa.binary())], None, STORED, "scan"),
        ([("image", pa.binary()), ("scan", pa.binary())], None, b"[7]", "image"),
    ],
)
def test_given_name_decides_then_hugging_face_then_the_first_usual_name(
    fields, name, stored, found
):
    schema = pa.schema(fields, {"huggingface": stored})

    assert find_image_column(schema, name).names == (found,)


OTHERS = [pa.binary(), pa.binary(784), pa.list_(pa.float32()), PICTURE]


@pytest.mark.parametrize("names", FLAT_NAMES.values(), ids=FLAT_NAMES)
@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_flat_columns_are_the_image_unless_another_column_has_a_usual_name(names, other):
    pixels = [(name, pa.uint8()) for name in names]
    beside = pa.schema([("id", other), *pixels, ("embedding", other)])
    schema = pa.schema([*pixels, ("Pixels", other)])

    assert find_image_column(beside).names == tuple(names)
    with pytest.raises(DataError, match=f"--image-column Pixels or {names[0]}"):
        find_image_column(schema)
    assert find_image_column(schema, "Pixels").names == ("Pixels",)
    assert find_image_column(schema, names[0]).names == tuple(names)
    with pytest.raises(DataError, match=f"'{names[1]}' holds"):
        find_image_column(schema, names[1])


@pytest.mark.parametrize("sep", ["a", "a/b=2", "a/*", "a/b=2/*", "a/b=*/c=3"])
def test_only_folders_below_an_input_are_columns(sep, tmp_path):
    place, messages = f"{tmp_path}/label=7/{sep}", list[str]()
    file = f"{tmp_path}/label=7/a/b=2/c=3/d=4/e=5.parquet"

    roots = roots_of([place], lambda event: messages.append(str(event)))
    found = find_partitions([file], roots).values(file)

    assert list(found) == ["b", "c", "d"]["b=2" in sep :]
    assert "is no column" in messages[0]  # a folder above the input
    assert roots_of([f"{tmp_path}/rows", f"{tmp_path}/x=*"], messages.append)  # type: ignore[arg-type]
    assert len(messages) == 1


@pytest.mark.parametrize("number", [2, 3])
def test_outermost_input_decides_which_folders_are_columns(number):
    file = "s3://bucket/a/b=2/c.parquet"
    inputs = ["s3://bucket/a/b=2/", file, "s3://bucket/a", "s3://bucket/a/b"][:number]

    values = find_partitions([file], roots_of(inputs)).values(file)

    assert values == ({"b": "2"} if number > 2 else {})


DIGITS = [pa.uint8(), pa.float64(), pa.string(), pa.decimal128(3)]
NO_DIGITS = [pa.bool_(), pa.binary(), pa.list_(pa.int8()), pa.date32(), pa.duration("s")]


@pytest.mark.parametrize("type_", [*DIGITS, pa.dictionary(pa.int8(), pa.string())], ids=str)
@pytest.mark.parametrize("other", NO_DIGITS, ids=str)
def test_label_column_is_the_named_or_first_usual_one_that_can_hold_digits(type_, other):
    fields = [pa.field(name, type_) for name in ("y", "target", "Digit", "label")]
    schema, odd = pa.schema(fields), pa.schema([*fields[:3], ("label", other)])

    found = [find_label_column(pa.schema(fields[: number + 1])) for number in range(4)]
    assert found == [None, "target", "Digit", "label"]
    assert find_label_column(odd) == "Digit"
    # A named column may be in another file.
    named = [find_label_column(schema, name) for name in ("y", "none", "class")]
    assert named == ["y", None, None]
    with pytest.raises(DataError, match="'label' holds"):
        find_label_column(odd, "label")
    with pytest.raises(DataError, match="label or Label; choose with --label-column"):
        find_label_column(schema.append(pa.field("Label", type_)))
