import pyarrow as pa
import pytest

from nanograd.errors import DataError
from nanograd.tables.columns import find_image_column, find_label_column

PICKLED = {"ARROW:extension:name": "ray.data.arrow_pickled_object"}


@pytest.mark.parametrize(
    ("schema", "name", "words"),
    [
        ([pa.field("image", pa.large_binary(), metadata=PICKLED)], None, "pickled"),
        ([("name", pa.string()), ("age", pa.int64())], None, r"name, age.*--image-column"),
        ([("left", pa.binary()), ("right", pa.binary())], None, "left, right"),
        ([("image", pa.binary())], "scan", "'scan'"),
    ],
    ids=["pickled", "unknown", "ambiguous", "missing"],
)
def test_schema_without_a_clear_image_column_is_refused(
    schema: list[pa.Field], name: str | None, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        find_image_column(pa.schema(schema), name)


def test_name_decides_between_image_columns() -> None:
    schema = pa.schema([("image", pa.binary()), ("right", pa.binary())])

    assert find_image_column(schema, "right").names == ("right",)


@pytest.mark.parametrize("name", ["label", "digit", "target", "y"])
def test_label_column_is_found_by_its_usual_names(name: str) -> None:
    schema = pa.schema([("image", pa.binary()), (name, pa.uint8())])

    assert find_label_column(schema) == name


def test_column_of_text_is_no_label_column() -> None:
    assert find_label_column(pa.schema([("label", pa.string())])) is None


@pytest.mark.parametrize("name", ["class", "label"])
def test_named_label_column_must_hold_whole_numbers(name: str) -> None:
    with pytest.raises(DataError, match=name):
        find_label_column(pa.schema([("label", pa.float64())]), name)
