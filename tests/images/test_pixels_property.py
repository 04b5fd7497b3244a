"""Whatever lists and tensors hold, each row is an image or a rejection, and nothing fails."""

from math import prod
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.image_columns import read_column

NUMBERS = [pa.int8(), pa.uint8(), pa.int64(), pa.uint64(), pa.float32(), pa.float64()]
SHAPES = [(784,), (28, 28), (1, 28, 28), (28, 28, 1), (14, 14, 4), (3, 5, 4), (5, 4, 3), (2,), (0,)]
VALUES = [None, 0, 1, 17, 127]
OTHER_SHAPES = [None, [], [-28, -28], [None, 28], [10**9, 10**9], [2**62, 4, 784], [0, 784]]
OPTIONS = {
    "polarity": st.sampled_from(["auto", "dark-on-light", "light-on-dark"]),
    "normalise": st.sampled_from(["auto", "never"]),
}


@st.composite
def nested(draw: st.DrawFn) -> pa.Array:
    """Lists of one depth, some of them null, ragged or of other lengths."""
    type_, shape = draw(st.sampled_from(NUMBERS)), draw(st.sampled_from(SHAPES))
    value = draw(st.sampled_from(VALUES))

    def row(shape: tuple[int, ...]) -> Any:
        if not shape:
            return value
        length = draw(st.sampled_from([shape[0]] * 9 + [0, 1, 3, None])) if len(shape) < 3 else 1
        return None if length is None else [row(shape[1:])] * length

    for _ in shape:
        type_ = draw(st.sampled_from([pa.list_, pa.large_list]))(type_)
    return pa.array([row(shape) for _ in range(draw(st.integers(0, 4)))], type_)


@st.composite
def variable_shape_tensors(draw: st.DrawFn) -> pa.Array:
    number = draw(st.sampled_from(NUMBERS))
    type_ = pa.struct([("data", pa.list_(number)), ("shape", pa.list_(pa.int64()))])
    rows: list[Any] = []
    for _ in range(draw(st.integers(0, 4))):
        shape = draw(st.sampled_from(SHAPES))
        stated = draw(st.sampled_from([list(shape)] * 7 + OTHER_SHAPES))
        data = [draw(st.sampled_from(VALUES))] * prod(shape)
        row = {"data": draw(st.sampled_from([data, data, None])), "shape": stated}
        rows.append(draw(st.sampled_from([row, row, row, None])))
    return pa.array(rows, type_)


@settings(max_examples=200)
@given(st.one_of(nested(), variable_shape_tensors()), st.fixed_dictionaries(OPTIONS))
def test_each_row_is_an_image_or_a_rejection(column, options):
    found, rejections = read_column(column, **options)

    rows = [*found.rows.tolist(), *(each.origin.source_row for each in rejections)]
    assert sorted(rows) == list(range(len(column)))
    assert (found.images.shape, found.images.dtype) == ((len(found.rows), 784), np.uint8)
