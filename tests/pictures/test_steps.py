from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from nanograd.pictures.lines import trace
from nanograd.pictures.morphology import adjust_pen, label_marks, running_max
from nanograd.pictures.paper import ink_levels
from nanograd.runtime.arrays import Floats, Ints, Mask

SPIRAL = np.array(
    [[1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]], bool
)


def flood_fill(mask: Mask) -> Ints:
    labels = np.zeros(mask.shape, np.int64)
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    while left:
        number, edge = labels.max() + 1, {min(left)}
        while edge:
            left -= edge
            y, x = edge.pop()
            labels[y, x] = number
            edge |= {(y + down, x + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
    return labels


@example(SPIRAL)
@example(np.zeros((3, 4), bool))
@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_labels_equal_those_of_flood_filling(mask):
    expected = flood_fill(mask)

    labels, count = label_marks(mask)

    assert labels.tolist() == expected.tolist()
    assert count == expected.max()


def maximum(values: NDArray[Any], radius: int) -> NDArray[Any]:
    widest = np.empty_like(values)
    for y, x in np.ndindex(values.shape[-2:]):
        top, left = max(0, y - radius), max(0, x - radius)
        window = values[..., top : y + radius + 1, left : x + radius + 1]
        widest[..., y, x] = window.max(axis=(-2, -1))
    return widest


@pytest.mark.parametrize(("radius", "dtype"), [(0, np.uint8), (2, np.float32), (9, np.uint8)])
def test_running_max_equals_the_definition(radius, dtype):
    values = (np.random.default_rng(radius).random((2, 7, 5)) * 200).astype(dtype)

    widest = running_max(values, radius)

    assert widest.dtype == dtype
    assert np.array_equal(widest, maximum(values, radius))


def test_thinning_keeps_a_stroke_beside_a_filled_loop():
    ink = np.zeros((80, 50), np.float32)
    ink[:40, :] = ink[40:, 20:30] = 1

    assert (adjust_pen(ink)[60:80].max(1) > 0.5).all()


def marked(digit: float, *, across: float) -> Floats:
    """Ink of a square digit near the top, and of a band from side to side at the bottom."""
    ink = np.zeros((200, 200), np.float32)
    ink[10:80, 60:80] = digit
    ink[188:194] = across
    return ink


def test_pale_digit_beside_a_dark_edge_is_ink_and_a_pale_line_below_a_dark_digit_is_not():
    assert ink_levels(marked(0.4, across=0.9)).strong < 0.4
    assert 0.4 < ink_levels(marked(0.9, across=0.4)).strong < 0.9


def test_a_line_needs_a_pixel_for_each_strip():
    ink = np.zeros((40, 40), np.float32)
    ink[20] = 1

    assert [len(list(trace(ink[:, :width], 1.0, 0.5))) for width in (5, 15, 16, 40)] == [0, 0, 1, 1]
