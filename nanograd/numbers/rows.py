"""Rows of digits: their order, and cuts where a tail reaches into the row below.

A mark that is taller than a digit is cut along a path from its left to its right. The path crosses
little of its ink, and goes where the rows around it have little ink.
"""

import numpy as np

from nanograd.numbers.seams import sweep
from nanograd.pictures.marks import measure
from nanograd.pictures.morphology import label_marks
from nanograd.pictures.paper import Levels
from nanograd.runtime.arrays import Floats, Ints, Mask

# Marks of the height of a digit, or lower ones, have SHARE of the ink: in a dense list, most ink is
# in marks of several rows. A mark of several rows is SPAN to MOST times as tall. It is cut at least
# LEAST of the height of a digit from its ends. Digits are at least LOWEST pixels high. Of 287 lines
# of training digits, in rows 1.0 to 1.35 digit heights apart, 165 are right without cuts, and 215
# with them. With 0.25 for SHARE and 1.5 for SPAN, they were 217, but no line was right in pages in
# which nearly all rows touch (2026-12-02).
SHARE, SPAN, MOST, LEAST, LOWEST = 0.1, 2.0, 12, 0.6, 8
# Price of a pixel of the path if it is ink of the mark. A row with the mean ink costs BUSY for each
# pixel; its ink is counted up to AROUND heights to the left and right of the mark.
CROSSED, BUSY, AROUND = 3.0, 0.3, 3.0


def find_dense(labels: Ints, count: int, ink: Floats, levels: Levels) -> tuple[Ints, float, Floats]:
    """Find the marks that may have digits of several rows.

    Return their numbers from 0, the height of a digit in pixels, and the boxes of all marks.
    """
    mass, at_border, boxes = measure(ink, labels, count, levels.strong)
    heights = 1 - boxes[:, 0] - boxes[:, 2]
    order = np.argsort(heights)
    share = mass[order].cumsum() / max(mass.sum(), 1)
    # Without ink, the height is 0.
    usual = float(np.append(heights[order], 0)[int(np.searchsorted(share, SHARE))])
    is_dense = (mass > 0) & (at_border == 0) & (usual >= LOWEST)
    is_dense &= (heights > SPAN * usual) & (heights < MOST * usual)
    return np.flatnonzero(is_dense), usual, boxes


def cut_rows(ink: Floats, levels: Levels) -> Mask:
    """Find the pixels of the cuts between rows, (height, width) bool."""
    is_ink, cuts = ink > levels.weak, np.zeros(ink.shape, bool)
    for _ in range(MOST):
        labels, count = label_marks(is_ink & ~cuts)
        dense, usual, boxes = find_dense(labels, count, ink, levels)
        for mark in dense.tolist():
            top, left, bottom, right = np.abs(boxes[mark]).astype(int).tolist()
            margin, reach = round(LEAST * usual), round(AROUND * usual)
            rows = slice(top + margin, bottom + 1 - margin)
            busy = is_ink[rows, max(left - reach, 0) : right + reach].sum(1)
            price = CROSSED * (labels[rows, left : right + 1] == mark + 1)
            price = price + BUSY * (busy / max(busy.mean(), 1))[:, None]
            # A seam of the transposed mark: it goes from column to column, and along a column.
            (costs,), (origins,) = sweep(price.T[None].astype(np.float32))
            y = int(costs[-1].argmin())
            for x in range(right, left - 1, -1):
                low, high = sorted((y, int(origins[x - left, y])))
                cuts[rows.start + low : rows.start + high + 1, x] = True
                y = int(origins[x - left, y])
        if not len(dense):
            break
    return cuts


def reading_order(boxes: Floats) -> list[int]:
    """Order boxes by rows. The middle of a box is within the height of the first in its row.

    Rows fall by the usual slope to the nearest box on the right; heights count four times there.
    """
    y, x = (boxes[:, :2] - boxes[:, 2:]).T / 2
    down, across = np.abs(y - y[:, None]), boxes[:, 1] + boxes[:, [3]]
    heights = 1 - boxes[:, 0] - boxes[:, 2]
    is_beside = (across > 0) & (down < np.minimum(heights, heights[:, None]))
    far = np.where(is_beside, across + 4 * down, np.inf)
    start = np.flatnonzero(is_beside.any(1))
    end = far[start].argmin(1)
    y = y - x * float(np.median((y[end] - y[start]) / (x[end] - x[start])) if len(start) else 0)
    order, row = list[int](), list[int]()
    for number in np.argsort(y, kind="stable").tolist():
        if row and y[number] > y[row[0]] + heights[row[0]] / 2:
            order += sorted(row, key=lambda each: boxes[each, 1])
            row = []
        row.append(number)
    return order + sorted(row, key=lambda each: boxes[each, 1])
