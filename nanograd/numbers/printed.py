"""Printed lines and boxes around digits: ruled and squared paper, boxes of forms, underlines."""

import numpy as np

from nanograd.pictures import morphology, normalise, tuning
from nanograd.pictures.lines import find_lines, find_sides, trace
from nanograd.pictures.marks import is_frame, measure
from nanograd.pictures.paper import ink_strength
from nanograd.runtime.arrays import Bytes, Floats, Ints, Mask

# Minimum side in pixels of a printed box. Its sides are in a rim of RIM of its height or width, and
# cover the share ALONG of it. A row of boxes is more than ROW times as wide as high.
LEAST_BOX, RIM, ALONG, ROW = 16, 0.15, 0.8, 1.5
# A mark with more than this share of the picture's height and width may be squared paper. Lines are
# looked for in the whole picture if no digit has more than the share LOWER of its height.
ACROSS, LOWER = 0.75, 0.5
# Sides of boxes, and underlines, have ink along the share FULL of their mark; a one in a box is no
# side. An underline, alone or with digits that it touches, is at least RULE times as wide as
# high, and has LONG of the picture's width. Alone, its columns are SOLID.
FULL, RULE, LONG, SOLID = 0.85, 2.5, 0.25, 0.9
# A rule between digits is this share of their height longer at both ends, and has ink along the
# share COVERED of this length.
LONGER, COVERED = 0.25, 0.9
# Kinds of pixels. Pale print absorbs less than CREASE of the light. Pixels up to HALO from a mark
# may be its faint rim. A rule has FREE of its length elsewhere; a one as tall as its cell has less,
# with the rules above and below it.
PAPER, PALE, PRINT, MARK = range(4)
CREASE, HALO, FREE = 0.25, 2, 1 / 3
# A straight mark is at most STRAIGHT of its height wide, apart from its slope. It is a piece of a
# rule if ink goes on above and below it, along the share COVERED of BEYOND of its height, with more
# than SAME of its strength: a one that was written on a rule is darker than the rule.
STRAIGHT, BEYOND, SAME = 0.2, 0.5, 0.7
# Slopes of lines that are tried, up to 11 degrees, and minimum width in pixels of a mark to turn.
SLOPES, TURNED = np.arange(-20, 21) / 100, 48


def find_printed(found: normalise.Candidate, weak: float) -> Floats | None:
    """Find the share of light that printed lines and boxes absorb, as `pictures.lines.find_lines`.

    The lines of ruled and squared paper go from one side of the picture to the other. The sides of
    a box, or of a row of boxes, and an underline that touches digits are shorter: each goes from
    one side of its mark (connected ink) to the other.
    """
    ink = found.ink
    labels, count = morphology.label_marks(ink > weak)
    mass, _, boxes = measure(ink, labels, count, weak)
    printed = np.zeros_like(ink)
    heights, widths = 1 - boxes[:, 0] - boxes[:, 2], 1 - boxes[:, 1] - boxes[:, 3]
    # A mark of `found` may touch a line, and with it all lines of the picture.
    marks = np.zeros(ink.shape, bool) if found.marks is None else found.marks
    digits = measure(ink, *morphology.label_marks(marks), weak)[2]
    if found.lines is None and (1 - digits[:, 0] - digits[:, 2] < LOWER * len(ink)).all():
        lines = find_lines(ink)
        printed = printed if lines is None else lines
    is_rule = widths >= np.maximum(RULE * heights, LONG * ink.shape[1])
    for mark in np.flatnonzero(is_rule | (np.minimum(heights, widths) > LEAST_BOX)).tolist():
        top, left, bottom, right = boxes[mark].astype(int).tolist()
        place = slice(top, 1 - bottom), slice(left, 1 - right)
        own = labels[place] == mark + 1
        rims = [max(2, round(RIM * length)) for length in own.shape]
        middle = tuple(slice(rim, size - rim) for rim, size in zip(rims, own.shape, strict=True))
        # No digit touches this frame. The corners of a turned frame would look like ones.
        if not own[middle].any() and is_frame(labels, mark, boxes, mass, axes=1):
            printed[place] = np.maximum(printed[place], ink[place] * own)
            continue
        # Make a wide mark level, and turn back what was found in it, a pixel wider.
        slope = _slope(own) if widths[mark] > TURNED else 0.0
        rows, columns = _level(own, slope)
        level = np.zeros((2, rows.max() + 1, columns.max() + 1), np.float32)
        level[0, rows[own], columns[own]] = ink[place][own]
        inner = tuple(slice(each[own].min(), each[own].max() + 1) for each in (rows, columns))
        # Digits that touch may fill a picture, too, and have level strokes after a turn.
        is_wide = not slope and bool((np.array(own.shape) > ACROSS * np.array(ink.shape)).all())
        sides = _sides(level[0][inner], is_rule[mark], is_wide, found.strength)
        if sides is not None:
            if slope:  # a turned line has steps, which make its mean course paler
                on_line = sides > sides.max() / 2
                most = np.quantile(level[0][inner][on_line], tuning.LINE_QUANTILE)
                sides[on_line] = np.maximum(sides[on_line], most)
            level[1][inner] = sides
            sides = morphology.running_max(level[1], int(slope != 0))[rows, columns]
            np.maximum(printed[place], sides, out=printed[place])
    return printed if printed.any() else None


def _slope(mark: Mask) -> float:
    """Return the slope of most of the strokes of a mark."""
    y, x = np.nonzero(mark)

    def concentration(slope: float) -> int:
        level = y - np.round(slope * x).astype(int)
        return int((np.bincount(level - level.min()) ** 2).sum())

    return float(max(SLOPES, key=concentration))


def _level(mark: Mask, slope: float) -> tuple[Ints, Ints]:
    """Return the row and the column of each pixel after a turn that makes a slope level."""
    rows, columns = np.indices(mark.shape)
    rows -= np.round(slope * columns).astype(int)
    columns += np.round(slope * rows).astype(int)
    return rows - rows.min(), columns - columns.min()


def _sides(part: Floats, is_rule: bool, is_wide: bool, strength: float) -> Floats | None:
    """Find the light that the sides of a box, or an underline, absorb in a level mark."""
    own = part > 0
    turned = [np.rot90(own, turns) for turns in range(4)]
    is_side = [side[: max(2, round(RIM * len(side)))].any(0).mean() >= ALONG for side in turned]
    # A box has three sides and the corners between them. A three has no corners at the right.
    corner = (slice(max(2, round(RIM / 2 * min(own.shape)))),) * 2
    corners = [is_side[n - 1] and is_side[n] and turned[n][corner].any() for n in range(4)]
    is_row = own.shape[1] > ROW * len(own)
    is_box = is_wide or (sum(is_side) >= 3 if is_row else sum(corners) >= 2)
    if min(own.shape) > LEAST_BOX and is_box:
        return find_sides(part, FULL)
    if not is_rule:
        return None
    is_bar = own.sum() > SOLID * (len(own) - own.argmax(0) - own[::-1].argmax(0)).sum()
    rules = (each for each in trace(part, 1.0, FULL) if each.max() > strength)
    return part if is_bar else max(rules, key=np.sum, default=None)


def with_lines(found: normalise.Candidate, printed: Floats | None) -> tuple[Floats, Mask]:
    """Return the ink of a picture with its printed lines, and which pixels may be on a line."""
    sheet, is_line = found.paper, np.zeros(found.ink.shape, bool)
    if found.lines is not None:  # they are a part of the paper
        sheet = sheet / (1 - np.minimum(found.lines, tuning.MOST_LINE))
    for lines in (found.lines, printed):
        is_line |= False if lines is None else lines > tuning.LEAST_LINE
    return ink_strength(found.search, sheet), is_line


def find_kinds(ink: Floats, is_line: Mask, marks: Mask, strength: float) -> Bytes:
    """Return for each pixel whether it is paper, pale print, print or a mark."""
    visible = (ink > strength / 2) | (is_line & (ink > tuning.LEAST_LINE))
    is_mark = morphology.running_max(marks.view(np.uint8), HALO) > 0
    wide = morphology.running_max(visible.view(np.uint8), 1)  # a rule may be slanted
    kinds = np.select([is_mark, ink > CREASE], [np.uint8(MARK), np.uint8(PRINT)], np.uint8(PALE))
    return np.asarray(kinds * wide)


def find_rules(boxes: Floats, kinds: Bytes, covered: float = COVERED) -> Floats:
    """Find the columns of rules from top to bottom between marks, and of the next on both sides.

    Args:
        boxes: (n, 4) top, left, -bottom and -right of the marks of a line.
        kinds: (height, width) uint8, the result of `find_kinds`.
        covered: minimum share of the length of a rule that has ink.

    Returns:
        The middle of each rule, from left to right.
    """
    height, width = kinds.shape
    boxes = boxes[np.argsort(boxes[:, 1])]
    middles = (boxes[:, 1] + 1 - boxes[:, 3]) / 2
    ends = [0, *((middles[1:] + middles[:-1]) / 2).astype(int).tolist(), width]
    is_rule = np.zeros(width, bool)
    for (top, _, bottom, _), left, right in zip(boxes.tolist(), ends, ends[1:], strict=False):
        reach = LONGER * (1 - bottom - top)
        rows = slice(max(round(top - reach), 0), min(round(1 - bottom + reach), height))
        free = kinds[rows, left:right] != MARK
        printed = (free & (kinds[rows, left:right] != PAPER)).sum(0)
        is_rule[left:right] = (printed >= covered * free.sum(0)) & (free.mean(0) >= FREE)
    edges = np.flatnonzero(np.diff(is_rule, prepend=False, append=False)).reshape(-1, 2)
    found = edges.mean(1)
    first, last = np.searchsorted(found, middles[[0, -1]])
    return np.asarray(found[max(first - 1, 0) : last + 1])


def are_rules(ink: Floats, labels: Ints, boxes: Floats) -> Mask:
    """Return whether marks are pieces of rules from top to bottom, such as a margin.

    Args:
        ink: (height, width) the ink of the picture, with printed lines.
        labels: (height, width) the number of each mark, from 1; 0 for paper.
        boxes: (n, 4) top, left, -bottom and -right of the n marks.

    Returns:
        (n,) bool.
    """
    found = np.zeros(len(boxes), bool)
    heights, widths = 1 - boxes[:, 0] - boxes[:, 2], 1 - boxes[:, 1] - boxes[:, 3]
    for mark in np.flatnonzero((widths < heights / 2) & (heights > 2 * HALO)).tolist():
        top, left, bottom, right = np.abs(boxes[mark]).astype(int).tolist()
        part = np.s_[top : bottom + 1, left : right + 1]
        own = labels[part] == mark + 1
        y, x = np.nonzero(own)
        slope, start = np.polyfit(y, x, 1)
        if np.ptp(np.quantile(x - slope * y, (0.05, 0.95))) > STRAIGHT * heights[mark]:
            continue
        length = round(BEYOND * heights[mark])
        rows = np.arange(1, length + 1) + HALO
        beyond = np.stack([-rows, rows + bottom - top])
        columns = np.round(left + start + slope * beyond).astype(int)
        rows = beyond + top
        inside = (rows >= 0) & (rows < len(ink)) & (columns > 0) & (columns < ink.shape[1] - 1)
        rows, columns = np.where(inside, rows, 0), np.where(inside, columns, 1)
        around = np.max([ink[rows, columns + step] for step in (-1, 0, 1)], axis=0)
        covered = inside & (around > SAME * np.median(ink[part][own]))
        found[mark] = inside.any() and (covered.sum(1) >= COVERED * inside.sum(1)).all()
    return found
