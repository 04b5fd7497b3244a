import numpy as np

from nanograd.pictures.marks import label_marks


def test_label_marks_joins_corners_and_separates_gaps() -> None:
    mask = np.array(
        [[1, 0, 0, 1, 1], [0, 1, 0, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 1, 1]], dtype=bool
    )

    labels, count = label_marks(mask)

    assert count == 3
    assert labels.tolist() == [[1, 0, 0, 2, 2], [0, 1, 0, 0, 0], [1, 0, 0, 3, 0], [0, 0, 0, 3, 3]]


def test_label_marks_follows_a_spiral() -> None:
    spiral = np.array(
        [[1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]],
        dtype=bool,
    )

    assert label_marks(spiral)[1] == 1


def test_label_marks_of_nothing_is_nothing() -> None:
    assert label_marks(np.zeros((3, 4), bool))[1] == 0
