"""The columns of a table without rules."""

import numpy as np
import pytest

from nanograd.numbers.rows import divide_columns
from nanograd.runtime.arrays import Floats

HEIGHT = 20.0


def boxes_of(rows: list[list[float]], widths: float = 0.6, slope: float = 0.0) -> Floats:
    """Return the boxes of digits that follow each other at these gaps, in heights of a digit."""
    boxes = []
    for number, gaps in enumerate(rows):
        x = 40.0
        for gap in gaps:
            x += gap * HEIGHT
            top = 30 + 1.8 * HEIGHT * number + slope * x
            boxes.append([top, x, 1 - top - HEIGHT, 1 - x - widths * HEIGHT])
            x += widths * HEIGHT
    return np.round(np.array(boxes))


def texts(rows: list[list[float]], **how: float) -> list[list[int]]:
    """Return the numbers of digits of the lines into which each row is divided."""
    ends = np.cumsum([len(gaps) for gaps in rows])
    groups = [np.arange(end - len(gaps), end) for end, gaps in zip(ends, rows, strict=True)]

    divided = divide_columns(groups, boxes_of(rows, **how), HEIGHT)

    assert sorted(np.concatenate(divided).tolist()) == list(range(ends[-1]))
    return [[len(each) for each in divided if np.isin(each, group).all()] for group in groups]


PAIRS = [0, 0.2, 1.8, 0.2, 1.8, 0.2]
SHORT = [0, 0.2, 1.8, 0.2]
PHONE = [0, 0.2, 0.2, 0.8, 0.2, 0.2, 0.8, 0.2]


@pytest.mark.parametrize("slope", [0, 0.03, -0.03])
def test_lines_are_divided_at_gutters_that_cross_three_rows(slope: float) -> None:
    assert texts([PAIRS] * 3, slope=slope) == [[2, 2, 2]] * 3
    assert texts([PAIRS, SHORT, PAIRS, PAIRS], slope=slope) == [[2, 2, 2], [2, 2], *[[2, 2, 2]] * 2]


def test_gaps_in_fewer_rows_or_at_other_places_divide_no_line() -> None:
    assert texts([PAIRS] * 2) == [[6]] * 2
    shifted = [[0, 0.2, 1.8, 0.2, 0.2], [0, 0.2, 0.2, 0.2, 1.8, 0.2], [0, 1.8, 0.2, 0.2, 0.2]]
    assert texts(shifted) == [[len(row)] for row in shifted]


def test_groups_of_phone_numbers_and_boxes_of_a_form_are_no_columns() -> None:
    assert texts([PHONE] * 5) == [[8]] * 5
    assert texts([[0, *[1.3] * 7]] * 5) == [[8]] * 5


def test_pairs_of_digits_that_touch_are_columns() -> None:
    assert texts([[0, 1.8, 1.8]] * 4, widths=1.3) == [[1, 1, 1]] * 4


def test_line_that_crosses_a_gutter_is_not_divided() -> None:
    rows = [PAIRS] * 4 + [[0, *[0.2] * 8]]

    assert texts(rows) == [*[[2, 2, 2]] * 4, [9]]


def test_picture_without_lines_has_no_columns() -> None:
    assert divide_columns([], np.zeros((0, 4)), HEIGHT) == []
