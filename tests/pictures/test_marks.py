import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from nanograd.pictures.morphology import label_marks

SPIRAL = np.array(
    [[1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]], bool
)


def flood_fill(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Labels of connected marks, found one pixel at a time."""
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
def test_labels_equal_those_of_flood_filling(mask: NDArray[np.bool_]) -> None:
    expected = flood_fill(mask)

    labels, count = label_marks(mask)

    assert labels.tolist() == expected.tolist()
    assert count == expected.max()
