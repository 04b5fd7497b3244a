"""Rows of digits: their order, the cells of a table, and cuts where a row reaches into the next.

A mark that is taller than a digit is cut along a path from its left to its right. The path crosses
little of its ink, and goes where the rows around it have little ink.
"""

from collections.abc import Sequence

import numpy as np

from nanograd.numbers.printed import PRINT, find_rules
from nanograd.numbers.seams import sweep
from nanograd.pictures.marks import measure
from nanograd.pictures.morphology import label_marks
from nanograd.pictures.paper import Levels
from nanograd.runtime.arrays import Bytes, Floats, Ints, Mask

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


# A binding has more than this number of wires. Maximum width / height of a wire, and maximum usual
# difference between their distances, as a share of the distance.
WIRES, NARROW, EQUAL = 10, 0.45, 0.05
# A gutter between columns is a strip that crosses at least ROWS rows of digits. Each of them has no
# digit for GUTTER heights there. OPEN times as many rows may have one. A table has gaps inside its
# cells, too, FEW of those at gutters or more. Gutters are WIDER times as wide as the usual one of
# these. Marks that are wider than TWO heights are several digits that touch. Only marks of HIGH
# of the height of their line count. Lines are in one row if their levels differ by less than LEVEL
# heights. Of 1,484 numbers in 97 pictures, most of them tables, 617 were right without this and
# `Way.printed`, and 1,146 with both (2026-12-03).
ROWS, GUTTER, OPEN, FEW, WIDER, TWO, HIGH, LEVEL = 3, 1.0, 3, 0.25, 2.5, 1.1, 0.6, 0.5

# Rules from top to bottom that are at least CELL heights apart divide a row into the cells of a
# table. Boxes of a form, with a digit each, are narrower, and LIKELY of a rule is enough. Rules of
# squared paper, or of a table that fills the picture, go on to the EDGE rows at the top or the
# bottom of the picture, at most TURNED times its height to the side. There, squared paper has MANY
# rules less than CELL heights apart, of which digits hide some elsewhere. Narrow cells are those of
# a table if the widest one is less than EVEN times as wide as the narrowest, and a cell has more
# than SEVERAL digits on average, and room for them. If rules go on to the edge, the gaps between
# digits across them are also WIDER times as wide as the usual other one, or as CLOSE heights: of
# 200 numbers across large squares, 154 are right without this, and 192 with it (2026-12-04). Rules
# that go on to the edge, and of which less than DARK is dark, are creases.
CELL, LIKELY, EDGE, TURNED, MANY, EVEN, SEVERAL, DARK = 2.0, 0.6, 4, 0.04, 6, 1.25, 1.5, 0.5
CLOSE = 0.1
# A row of a form has BOXES boxes or more, each at most WIDEST heights wide. A mark reaches out of
# its box by less than OUT of it, and is a dash if it is DASH times as wide as high.
BOXES, WIDEST, OUT, DASH = 3, 3.0, 0.15, 2.5


def divide_cells(group: Ints, tall: Ints, boxes: Floats, usual: float, kinds: Bytes) -> list[Ints]:
    """Divide a line into the cells of a table, but not at creases or rules of squared paper.

    Args:
        group: the numbers of the marks of the line.
        tall: those that are as tall as a digit.
        boxes: (n, 4) top, left, -bottom and -right of all marks.
        usual: the usual height of a digit.
        kinds: (height, width) uint8, the result of `printed.find_kinds`.
    """
    rules = find_rules(boxes[tall], kinds)
    if len(rules) < 2:
        return [group]
    widths, likely = np.diff(rules), find_rules(boxes[tall], kinds, LIKELY)  # boxes may be turned
    middles = (boxes[:, 1] - boxes[:, 3]) / 2
    num_cells = len(np.unique(np.searchsorted(likely, middles[tall])))
    num_digits = len(tall) + (1 - boxes[tall, 1] - boxes[tall, 3] > TWO * usual).sum()
    is_even = len(widths) > 1 and widths.max() < EVEN * widths.min()
    has_room = widths.min() > TWO * usual
    is_table = is_even and has_room and num_digits > SEVERAL * num_cells
    row = tall[np.argsort(boxes[tall, 1])]
    gaps = boxes[row[1:], 1] - np.maximum.accumulate(1 - boxes[row, 3])[:-1]
    is_across = np.diff(np.searchsorted(rules, middles[row])) > 0
    is_apart = is_across.any() and not is_across.all()
    is_apart = is_apart and np.median(gaps[is_across]) >= WIDER * max(
        np.median(gaps[~is_across]), CLOSE * usual
    )
    is_form = np.diff(likely).min(initial=widths.min()) < CELL * usual
    reach, ends = max(2, round(TURNED * len(kinds))), np.zeros(kinds.shape[1], bool)
    for rows in (kinds[:EDGE], kinds[-EDGE:]):
        ends |= rows.any(0)
        starts = np.flatnonzero(np.diff(rows.any(0).view(np.int8)) > 0)
        is_form |= len(starts) >= MANY and np.median(np.diff(starts)) < CELL * usual
    around = [slice(max(round(x) - reach, 0), round(x) + reach) for x in rules.tolist()]
    at_ends = [place for place in around if ends[place].any()]
    if (is_form and not is_table) or (at_ends and not is_apart):
        return [group]
    if any((kinds[:, place] == PRINT).any(1).mean() < DARK for place in at_ends):
        return [group]
    cells = np.searchsorted(rules, middles[group])
    return [group[cells == each] for each in np.unique(cells[np.isin(group, tall)])]


def count_boxes(group: Ints, boxes: Floats, kinds: Bytes) -> int:
    """Return how many boxes of a form have marks of a line; 0 if it is not in such boxes.

    A form has a digit in each box: the boxes are equally wide, no mark reaches out of its box, and
    no box has two marks that are as tall as a digit. The arguments are those of `divide_cells`.
    """
    heights, widths = (1 - boxes[group, :2] - boxes[group, 2:]).T
    is_tall = heights > heights.max() / 2
    rules = find_rules(boxes[group[is_tall]], kinds, LIKELY)
    cells = np.searchsorted(rules, (boxes[group, 1] - boxes[group, 3]) / 2)
    used = np.unique(cells)
    if len(used) < BOXES or used[0] == 0 or used[-1] == len(rules):
        return 0
    sides = rules[used] - rules[used - 1]
    reach = OUT * sides.max()
    is_inside = rules[cells - 1] - reach < boxes[group, 1]
    is_inside &= 1 - boxes[group, 3] < rules[cells] + reach
    is_one = len(np.unique(cells[is_tall])) == is_tall.sum()
    is_narrow = sides.max() < min(EVEN * sides.min(), WIDEST * np.median(heights[is_tall]))
    is_dash = widths > DASH * heights
    is_form = is_one and is_narrow and is_inside.all()
    return len(np.unique(cells[~is_dash])) if is_form else 0


def divide_columns(groups: Sequence[Ints], boxes: Floats, usual: float) -> list[Ints]:
    """Divide the lines of a table without rules at the gutters between its columns.

    Args:
        groups: the numbers of the marks of each line.
        boxes: (n, 4) top, left, -bottom and -right of all marks.
        usual: the usual height of a digit.
    """
    if not groups:
        return []
    heights, widths = (1 - boxes[:, :2] - boxes[:, 2:]).T
    y, x = ((boxes[:, :2] - boxes[:, 2:]) / 2).T
    lines = [each[heights[each] >= HIGH * heights[each].max()] for each in groups]
    slopes = [np.polyfit(x[each], y[each], 1)[0] for each in lines if np.ptp(x[each]) > 4 * usual]
    # Levels and left ends, as if the picture was level.
    slope = float(np.median(slopes or [0.0]))
    level, left = y - slope * x, boxes[:, 1] + slope * y
    left -= left.min()
    right, place = left + widths, np.arange(round((left + widths).max()) + 2)
    levels = np.array([np.median(level[each]) for each in lines])
    order = np.argsort(levels)
    numbers = np.zeros(len(lines), int)
    numbers[order] = np.cumsum(np.diff(levels[order], prepend=levels[order[:1]]) > LEVEL * usual)
    opened, closed = np.zeros(len(place), int), np.zeros(len(place), int)
    wide, inside = list[tuple[float, float]](), list[float]()
    for number in range(numbers.max() + 1):
        row = np.concatenate([lines[each] for each in np.flatnonzero(numbers == number)])
        row = row[np.argsort(left[row])]
        ends = np.maximum.accumulate(right[row])
        inside += [0.0] * int((widths[row] > TWO * usual).sum())
        closed += (place >= left[row[0]]) & (place < ends[-1])
        for start, end in zip(ends[:-1].tolist(), left[row[1:]].tolist(), strict=True):
            within = (place >= start) & (place < end)
            if end - start >= GUTTER * usual:
                wide.append((start, end))
                opened += within
                closed -= within
            else:
                inside.append(max(end - start, 0.0))
    gutters = (opened >= ROWS) & (opened >= OPEN * closed)
    others = [gap for gap in wide if not gutters[(place >= gap[0]) & (place < gap[1])].any()]
    inside += [end - start for start, end in others]
    if len(inside) < FEW * (len(wide) - len(others)):
        return list(groups)
    least = max(GUTTER * usual, WIDER * float(np.median(inside or [0.0])))
    divided = list[Ints]()
    for group, line in zip(groups, lines, strict=True):
        row = line[np.argsort(left[line])]
        ends = np.maximum.accumulate(right[row])[:-1]
        middles = (ends + left[row[1:]]) / 2
        is_cut = (left[row[1:]] - ends >= least) & gutters[middles.astype(int).clip(0)]
        cells = np.searchsorted(middles[is_cut], (left + right)[group] / 2)
        divided += [group[cells == each] for each in np.unique(cells)]
    return divided


def are_wires(boxes: Floats, inside: Floats) -> bool:
    """Return whether marks of a line are many, narrow and at equal distances, as in a binding.

    Wires are at most half of their height `inside` the border of the picture.
    """
    sizes = 1 - boxes[:, :2] - boxes[:, 2:]
    steps = np.diff(np.sort((boxes[:, 1] - boxes[:, 3]) / 2))
    if len(steps) < WIRES or np.median(sizes[:, 1] / sizes[:, 0]) > NARROW:
        return False
    if 2 * inside[:, ::2].min() > np.median(sizes[:, 0]):
        return False
    usual = np.median(steps)
    return bool(np.median(np.abs(steps - usual)) <= EQUAL * usual)


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
