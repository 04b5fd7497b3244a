import pyarrow as pa
import pytest

from nanograd.errors import DataError
from nanograd.tables.columns import find_image_column, find_label_column


def test_a_pickled_column_is_refused() -> None:
    metadata = {"ARROW:extension:name": "ray.data.arrow_pickled_object"}
    schema = pa.schema([pa.field("image", pa.large_binary(), metadata=metadata)])

    with pytest.raises(DataError, match="pickled"):
        find_image_column(schema)


def test_an_unknown_schema_names_its_columns_and_the_flag() -> None:
    schema = pa.schema([("name", pa.string()), ("age", pa.int64())])

    with pytest.raises(DataError, match=r"name, age.*--image-column"):
        find_image_column(schema)


def test_two_unnamed_candidates_are_not_guessed_at() -> None:
    schema = pa.schema([("left", pa.binary()), ("right", pa.binary())])

    with pytest.raises(DataError, match="left, right"):
        find_image_column(schema)


def test_the_users_word_decides_between_candidates() -> None:
    schema = pa.schema([("image", pa.binary()), ("right", pa.binary())])

    column = find_image_column(schema, "right")

    assert column.names == ("right",)


def test_a_missing_image_column_is_named() -> None:
    with pytest.raises(DataError, match="'scan'"):
        find_image_column(pa.schema([("image", pa.binary())]), "scan")


@pytest.mark.parametrize("name", ["label", "digit", "target", "y"])
def test_the_label_column_is_found_by_its_usual_names(name: str) -> None:
    schema = pa.schema([("image", pa.binary()), (name, pa.uint8())])

    assert find_label_column(schema) == name


def test_a_column_of_text_is_no_label_column() -> None:
    assert find_label_column(pa.schema([("label", pa.string())])) is None


@pytest.mark.parametrize("name", ["class", "label"])
def test_a_named_label_column_must_hold_whole_numbers(name: str) -> None:
    with pytest.raises(DataError, match=name):
        find_label_column(pa.schema([("label", pa.float64())]), name)
