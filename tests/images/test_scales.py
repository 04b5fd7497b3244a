"""The scale of zeros and ones is that of the column in its file, however its rows are cut."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from nanograd.images.parquet import RowRange
from nanograd.images.reader import read_rows, read_table
from nanograd.settings.specs import ReadOptions
from tests.helpers.image_columns import (
    FLAT_NAMES,
    NUMBER_COLUMNS,
    bar_image,
    csv_text,
    fixed_list,
    reasons,
    variable_tensors,
)

Numbers = NDArray[Any]
NAMES = FLAT_NAMES["pixel0"]


def lists(type_: pa.DataType) -> Callable[[Numbers], pa.Table]:
    return lambda images: pa.table({"image": pa.array(images.tolist(), pa.list_(type_))})


def flat(type_: pa.DataType) -> Callable[[Numbers], pa.Table]:
    return lambda images: pa.table(
        {name: pa.array(column, type_) for name, column in zip(NAMES, images.T, strict=True)}
    )


WHOLE = {
    **{f"lists of {type_}": lists(type_) for type_ in (pa.uint8(), pa.int64(), pa.uint64())},
    **{f"flat {type_}": flat(type_) for type_ in (pa.uint8(), pa.int32())},
    "fixed-size lists": lambda images: pa.table({"image": fixed_list(images)}),
    "tensors": lambda images: pa.table({"image": NUMBER_COLUMNS["tensor"](images)}),
    "nested": lambda images: pa.table({"image": NUMBER_COLUMNS["28 x 28 lists"](images)}),
    "own shapes": lambda images: pa.table({"id": [3] * 5, "image": variable_tensors(images)}),
}
REAL = {
    **{f"lists of {type_}": lists(type_) for type_ in (pa.float16(), pa.float64())},
    "flat float": flat(pa.float32()),
    "decimals": lists(pa.decimal128(4)),
}
FORMS: dict[str, Callable[[Numbers], pa.Table]] = WHOLE | REAL


def faint(largest: int) -> Numbers:
    """A bar of ones in the first three of five rows, and of another level in the others."""
    images = np.resize(bar_image() // 255, (5, 784))
    images[3:] *= largest
    return images


def read_in_parts(place: Path, cuts: list[int]) -> tuple[list[int], list[int], list[str]]:
    """Return the rows that are images, the largest pixel of each, and why others are none."""
    rows, most, bad = list[int](), list[int](), list[str]()
    groups = 3 if place.suffix == ".parquet" else 1
    for start, end in zip([0, *cuts], [*cuts, 5], strict=True):
        part, done = RowRange((0, groups), start, start, end - start), start
        batches = read_rows(str(place), part, lambda schema: schema.names) if end > start else ()
        for batch in batches:
            assert isinstance(batch, pa.RecordBatch)
            found, rejected = read_table(pa.Table.from_batches([batch]), ReadOptions())
            rows += [done + row for row in found.rows.tolist()]
            most += found.images.max(axis=1).tolist()
            bad += [reason for _, reason in reasons(rejected)]
            done += len(batch)
    return rows, most, bad


@pytest.mark.parametrize("form", [*FORMS, "csv"])
@pytest.mark.parametrize("largest", [1, 9, 255])
def test_column_of_a_file_has_one_scale(form, largest, tmp_path):
    place = tmp_path / ("a.csv" if form == "csv" else "a.parquet")
    if form == "csv":
        place.write_text(csv_text(NAMES, *faint(largest).T))
    else:
        pq.write_table(FORMS[form](faint(largest)), place, row_group_size=2)

    rows, most, bad = read_in_parts(place, [2, 3])

    if largest == 1:
        assert (rows, most, bad) == ([0, 1, 2, 3, 4], [255] * 5, [])
    elif largest == 9:
        assert (rows, bad) == ([], ["bad_pixel"] * 5)
    else:
        assert (rows, most, bad) == ([3, 4], [255, 255], ["blank"] * 3)


@pytest.mark.parametrize("form", FORMS)
def test_whole_numbers_of_a_file_without_statistics_are_unclear(form, tmp_path):
    place = tmp_path / "a.parquet"
    pq.write_table(FORMS[form](faint(255)), place, row_group_size=2, write_statistics=False)

    rows, most, bad = read_in_parts(place, [2])

    if form in WHOLE:
        assert (rows, bad) == ([3, 4], ["bad_pixel"] * 3)
    else:
        assert (rows, most) == ([0, 1, 2, 3, 4], [255] * 5)
