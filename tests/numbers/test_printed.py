"""Printed lines, on ink that was measured before."""

import numpy as np
import pytest
from PIL import Image

from nanograd.numbers.printed import are_rules, find_printed
from nanograd.pictures.marks import measure
from nanograd.pictures.morphology import label_marks
from nanograd.pictures.normalise import Candidate
from nanograd.pictures.paper import Levels


def test_rules_are_found_where_a_digit_joins_them_to_the_margin() -> None:
    rules, ink = range(30, 360, 33), np.zeros((360, 480), np.float32)
    ink[rules, :380] = ink[30, :] = 0.2
    ink[:, 60] = 0.2
    ink[100:130, 200:206] = 0.8
    levels, page = Levels(strong=0.3, weak=0.15), Image.new("L", (480, 360))

    found = find_printed(Candidate(picture=page, ink=ink, levels=levels, marks=ink > 0.5), 0.15)

    assert found is not None
    assert (found[rules, 300] > 0.15).all()


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_piece_of_a_margin_is_a_rule_and_a_one_on_a_pale_rule_is_not(slope: float) -> None:
    ink = np.zeros((90, 130), np.float32)
    marks = np.zeros(ink.shape, bool)
    rows = np.arange(len(ink))
    for left, rule in ((20, 0.8), (60, 0.3), (100, 0.0)):
        columns = np.round(left + slope * rows).astype(int)
        ink[rows, columns] = rule
        ink[rows[30:60], columns[30:60]] = 0.8
        marks[rows[30:60], columns[30:60]] = True
    labels, count = label_marks(marks)
    boxes = measure(ink, labels, count, 0.5)[2]

    found = are_rules(ink, labels, boxes)

    assert boxes[found, 1].tolist() == [20 + round(30 * slope)]


@pytest.mark.parametrize("margins", [(2, 2), (5, 1), (0, 6), (12, 3)])
def test_one_is_no_rule_however_closely_the_picture_is_cut(margins: tuple[int, int]) -> None:
    above, below = margins
    ink = np.zeros((above + 60 + below, 40), np.float32)
    ink[above : above + 60, 18:22] = 0.8
    labels, count = label_marks(ink > 0.5)

    found = are_rules(ink, labels, measure(ink, labels, count, 0.5)[2])

    assert not found.any()
