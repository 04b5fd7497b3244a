from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nanograd.digits.form import is_mnist_like
from nanograd.digits.variants import straight

_ANY = st.floats(0, 0.999)


def rows_of_straight_four(draw: list[float], where: float) -> list[NDArray[np.bool_]]:
    """The rows of a four with a stem that begins there, of which each has ink."""
    draw = [*draw[:4], where, *draw[4:]]
    image = straight(np.zeros((28, 28), np.uint8), np.array(draw))
    assert is_mnist_like(image)
    return [row for row in image > 127 if row.any()]


@given(st.lists(_ANY, min_size=6, max_size=6), _ANY)
def test_straight_four_has_mnists_form_and_a_stroke_down_to_the_left_end_of_its_bar(
    draw: list[float], where: float
) -> None:
    leftmost = [np.flatnonzero(row)[0] for row in rows_of_straight_four(draw, where)]

    bar = int(np.argmin(leftmost))
    assert bar / len(leftmost) >= 0.3
    assert all(below <= above for above, below in pairwise(leftmost[: bar + 1]))


@pytest.mark.parametrize(("where", "crosses"), [(0.0, False), (0.9, True)])
def test_stem_begins_at_the_top_or_crosses_the_bar(where: float, crosses: bool) -> None:
    rows = rows_of_straight_four([0.5, 0.5, 0.5, 0.5, 0.1, 0.2], where)

    strokes = [(np.diff(row.astype(int)) == 1).sum() for row in (rows[0], rows[9])]
    assert strokes == [1, 2]
    assert (np.flatnonzero(rows[0])[-1] < np.flatnonzero(rows[9])[-1] - 2) == crosses
