"""Find lines of digits in a picture: the marks of each line, and its ink scaled to one height.

The picture is searched as for a single digit (`pictures.normalise`), but all marks with the height
of digits are kept. Marks side by side form a line.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import compress

import numpy as np
from PIL import Image, ImageFilter

from nanograd.errors import Reason, UnreadableError
from nanograd.numbers.printed import HALO, are_rules, find_kinds, find_printed, with_lines
from nanograd.numbers.rows import (
    are_wires,
    count_boxes,
    cut_rows,
    divide_cells,
    divide_columns,
    find_dense,
    reading_order,
)
from nanograd.numbers.seams import LINE, STRONG, Seams, find_seams
from nanograd.pictures import morphology, normalise, tuning
from nanograd.pictures.marks import is_frame, measure
from nanograd.pictures.paper import Levels
from nanograd.runtime.arrays import Bytes, Floats, Ints, Mask

# Longest side in pixels of the copy in which lines are found.
SEARCH_SIDE = 480
# If digits are less than LOW pixels high in it, the part with all marks is searched again in a
# larger copy, in which they have HIGH pixels, with sides of at most LARGEST_SIDE. Of 996 numbers on
# simulated pages, 749 are right with 16 and 24, and 770 with 24 and 32 (2026-12-07).
LOW, HIGH, LARGEST_SIDE = 24, 32, 1920
# Minimum usual height in pixels of a line of digits that are smaller than those of other lines.
LEAST_HEIGHT = 8
# A mark is as tall as a digit if it has at least TALL of the usual height. A digit may be that much
# smaller than its neighbours, and a zero even more.
TALL = 0.5
# Minimum ink of a mark that is no speck, and of a part of a broken digit, as shares of a usual
# digit's.
LEAST_INK, PART = 0.02, 0.1
# Neighbours on a line share this part of the lower one's height. Their gap is at most GAP heights,
# or FAR heights if it is at most REGULAR times the usual gap of their row.
SHARED, GAP, FAR, REGULAR = 0.35, 2.0, 4.0, 1.4
# A small mark belongs to a line if it is within this many heights above, below or beside it.
NEAR = 0.35
# Width / height above which a mark is wide, and the share of the ink below which others are few.
WIDE, FEW = 1.5, 0.25
# Marks that are more than TALLEST times as tall as usual are no digits. But a digit may be in such
# a mark if a fold or a stamp touches it. So its pixels with less than PALER of the usual ink are
# left out. Of 180 numbers with a fold or a ring of a stamp, 117 are right without this, and 145
# with it (2026-12-01).
TALLEST, PALER = 2.5, 0.7
# Weight of the ink of marks that touch the border, for the usual height. A mark of which over half
# is at the border may be a digit if its height differs from the usual one by less than ALIKE of it.
BORDER_WEIGHT, ALIKE = 0.25, 0.35
# Minimum width / height of a dot of dotted paper, and share of its box that is ink.
ROUND = 0.6
# Other marks may be digits in pale ink if they have PALEST of the strength of ink, and at least the
# share SLIM, and at most 1, of their height as width. With 1/4 for PALEST, 5 of 719
# pictures have a line more that is right, and none has one less (2026-12-02).
PALEST, SLIM = 1 / 3, 0.3
# Surroundings of a sheet cover more of a side than a digit at the border, or have more rings than
# eight lines have digits above each other, at even distances: 0.27 to 0.86 of those between written
# lines are even, and all between rings (2026-12-07). Minimum share of the pixels that is ink.
SHEET, LEAST_SHARE = (0.6, 15, 0.9), 0.0002
# Minimum difference of hue between ink and a coloured sheet, as a share of its brightness.
HUE = 0.12
# A picture is cut closely around digits if they have more than TIGHT of its height. Then digits at
# its border look like surroundings, so paper is added: PADDING of its shorter side. The paper is
# found in a copy whose shorter side has PAPER_SIDE pixels, by a median over STROKES pixels and a
# blur with the standard deviation SMOOTH.
TIGHT, PADDING, PAPER_SIDE, STROKES, SMOOTH = 0.5, 0.3, 40, 25, 4
# A picture whose sides differ by more than CROP is cropped to a line. Faint ink is below FAINT_INK.
CROP, FAINT_INK = 2.5, 0.11
# Thinnest pen in pixels of a line.
THINNEST = 2.0
_MARGIN = 2


@dataclass(frozen=True)
class Line:
    """A line of marks, cut from its picture."""

    ink: Floats  # (height, width) float32, 0 to 1, digits LINE pixels high, level
    top: float  # usual first row of a digit
    bottom: float  # usual row after the last row of a digit
    origin: tuple[float, float]  # position of the upper left corner in the picture
    step: tuple[float, float]  # pixels of the picture for each column and row
    slope: float  # rows for each column by which the line falls in the picture
    num_boxes: int = 0  # boxes of a form with its marks; 0 if it is not in boxes

    @cached_property
    def pen(self) -> float:
        """Width of its strokes in pixels."""
        return max(THINNEST, morphology.pen_width(np.pad(self.ink, 1)))

    @cached_property
    def seams(self) -> Seams:
        """Possible cuts between its digits."""
        return find_seams(self.ink, self.pen)

    def place(self, box: Ints) -> tuple[int, int, int, int]:
        """Convert left, top, right and bottom from pixels of the line to pixels of the picture."""
        x, y = box[[0, 2]], box[[1, 3]] + self.slope * box[[0, 2]].mean()
        left, right = (round(self.origin[0] + self.step[0] * float(each)) for each in x)
        top, bottom = (round(self.origin[1] + self.step[1] * float(each)) for each in y)
        return left, top, right, bottom


@dataclass(frozen=True)
class Way:
    """A way to look for lines in a picture."""

    polarity: str = "auto"  # or `dark-on-light`, `light-on-dark`
    side: int = SEARCH_SIDE  # longest side in pixels of the copy in which lines are found
    sheets: bool = True  # whether bands along the border may be surroundings of a sheet
    spread: bool = False  # see `normalise.Search`
    weaker: bool = False  # see `normalise.Search`
    cut: bool = False  # whether marks that are taller than a digit are cut between rows
    inner: bool = False  # whether marks that touch the border, such as a pen, are left out
    padded: bool = False  # whether paper is added around the picture, for digits at its border
    printed: bool = True  # whether printed lines are removed; else a table is left out as one mark
    most: float = np.inf  # maximum number of lines


@dataclass(frozen=True)
class Found:
    """The lines of a picture in reading order: from top to bottom, then from left to right."""

    lines: Sequence[Line]
    inverted: bool  # whether the ink is lighter than the paper
    has_sheet: bool  # whether bands along the border were taken for surroundings
    is_dense: bool  # whether marks may be digits of several rows
    has_paler: bool  # whether marks that were left out may be digits in pale ink
    has_print: bool  # whether printed lines were removed
    is_tight: bool  # whether the picture may be cut closely around digits
    is_faint: bool  # whether the ink is faint

    def moved(self, left: float, top: float) -> "Found":
        """Return the lines with their places in a picture of which this one was a part."""
        corners = [(line.origin[0] + left, line.origin[1] + top) for line in self.lines]
        pairs = zip(self.lines, corners, strict=True)
        return replace(self, lines=[replace(line, origin=corner) for line, corner in pairs])


def find_lines(picture: Image.Image, way: Way | None = None) -> Found:
    """Find the lines of a picture.

    Raises:
        UnreadableError: `blank`, `low_contrast` or `too_many_marks`.
    """
    way = way or Way()
    picture = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
    if way.padded:
        padded, edge = _pad(picture)
        return find_lines(padded, replace(way, padded=False)).moved(-edge, -edge)
    how = normalise.Search(
        polarity=way.polarity,
        side=way.side,
        sheet=SHEET if way.sheets and max(picture.size) < CROP * min(picture.size) else None,
        share=LEAST_SHARE,
        hue=HUE,
        spread=way.spread,
        surroundings=way.sheets or way.spread,
        weaker=way.weaker,
        choose=partial(choose_marks, cut=way.cut, inner=way.inner),
    )
    plain = found = normalise.find(picture, how)
    printed = find_printed(found, found.levels.weak) if way.printed and found.levels else None
    if printed is not None:
        found = normalise.mark(found, found.paper, printed)
    if found.refused or found.marks is None or found.levels is None:
        why = found.refused or UnreadableError(Reason.BLANK, "there are no marks")
        raise UnreadableError(why.reason, why.detail)  # see `normalise.normalise`
    # Parts of a broken stroke are linked, unless rows are so close that they would be, too.
    links = morphology.running_max(found.marks.view(np.uint8), 1) > 0
    labels, count = morphology.label_marks(found.marks if way.cut else links)
    labels = labels * found.marks
    mass, _, boxes = measure(found.ink, labels, count, found.strength)
    edge = np.array([0, 0, 1, 1]) - np.array([0, 0, *found.marks.shape])
    mass = np.where((boxes <= edge).any(1), BORDER_WEIGHT, 1) * mass
    whole, is_line = with_lines(plain, printed)
    is_rule = are_rules(whole, labels, boxes)
    is_rule &= mass[~is_rule].any()
    mass[is_rule] = 0
    others = found.marks & ~np.append(False, is_rule)[labels]
    usual = usual_height(boxes, mass)
    corner = np.multiply((found.box or (0, 0))[:2], picture.size).tolist()
    has_sheet = found.box is not None or found.spread
    near = morphology.running_max((found.ink > found.levels.weak).view(np.uint8), 1) > 0
    is_dense = len(find_dense(*morphology.label_marks(near), found.ink, found.levels)[0]) > 0
    is_tight = usual > TIGHT * len(near)
    if 0 < usual < LOW and (closer := _look_closer(found, way, boxes.min(0), usual)):
        closer = replace(closer, has_sheet=has_sheet, is_dense=is_dense, is_tight=is_tight)
        return closer.moved(*corner)
    _stack(boxes, mass, usual)
    kinds = find_kinds(whole, is_line, others, plain.strength)
    usual = usual_height(boxes, mass)
    groups = divide_columns(_group(boxes, mass, usual, kinds), boxes, usual)
    around = np.array([boxes[each].min(0) for each in groups])
    groups = [groups[each] for each in reading_order(around)]
    groups = [each for each in groups if not are_wires(boxes[each], boxes[each] - edge)] or groups
    if max(map(len, groups)) > 1:
        # A single mark at the border is a part of something else.
        groups = [each for each in groups if len(each) > 1 or (boxes[each[0]] > edge).all()]
    if len(groups) > way.most:
        raise UnreadableError(Reason.TOO_MANY_MARKS, f"marks form {len(groups)} lines")
    nums = [count_boxes(each, boxes, kinds) if printed is not None else 0 for each in groups]
    lines = [_cut(found, labels, *each, boxes) for each in zip(groups, nums, strict=True)]
    lines = [line for line in lines if (line.ink > STRONG).any()]
    return Found(
        lines=lines,
        inverted=found.inverted,
        has_sheet=has_sheet,
        is_dense=is_dense,
        has_paler=_has_paler(found, usual),
        has_print=printed is not None,
        is_tight=is_tight,
        is_faint=found.strength < FAINT_INK,
    ).moved(*corner)


def _pad(picture: Image.Image) -> tuple[Image.Image, int]:
    """Add paper around a picture; return the result, and the width of the added edge in pixels.

    The paper is that at the border, without strokes: a median removes them.
    """
    scale = PAPER_SIDE / min(picture.size)
    size = [max(PAPER_SIDE // 4, round(side * scale)) for side in picture.size]
    paper = picture.resize(size, Image.Resampling.BOX).filter(ImageFilter.MedianFilter(STROKES))
    paper = paper.filter(ImageFilter.GaussianBlur(SMOOTH)).resize(picture.size)
    edge = round(PADDING * min(picture.size))
    around = [(edge, edge), (edge, edge), (0, 0)]
    pixels = np.asarray(paper)
    padded = Image.fromarray(np.pad(pixels, around[: pixels.ndim], mode="edge"))
    padded.paste(picture, (edge, edge))
    return padded, edge


def _has_paler(found: normalise.Candidate, usual: float) -> bool:
    """Return whether marks that are as tall as a digit were left out because their ink is pale."""
    kept = morphology.running_max(np.asarray(found.marks).view(np.uint8), HALO) > 0
    labels, count = morphology.label_marks((found.ink > PALEST * found.strength) & ~kept)
    boxes = measure(found.ink, labels, count, 0.0)[2]
    heights, widths = (1 - boxes[:, :2] - boxes[:, 2:]).T
    is_inside = (boxes > np.array([0, 0, 1, 1]) - [0, 0, *labels.shape]).all(1)
    is_digit = (np.abs(heights / usual - 1) < ALIKE) & (widths <= heights)
    return bool((is_inside & is_digit & (widths > SLIM * heights)).any())


def _look_closer(
    found: normalise.Candidate, way: Way, around: Floats, usual: float
) -> Found | None:
    """Look for small digits in an enlarged copy of the part with marks; None if it is large."""
    sides = np.tile(np.array(found.ink.shape[::-1]), 2)
    box = np.abs(around - [0, 0, 1, 1])[[1, 0, 3, 2]] + usual * np.array([-2, -2, 2, 2])
    part = np.clip(box, 0, sides)
    scale, side = found.picture.width / sides[0], float(max(part[2:] - part[:2]))
    larger = min(side * HIGH / usual, side * scale, LARGEST_SIDE)
    if side > 0.9 * larger:
        return None
    left, top, right, bottom = np.round(scale * part).astype(int).tolist()
    closer = replace(way, side=round(larger), sheets=False, spread=found.spread)
    return find_lines(found.picture.crop((left, top, right, bottom)), closer).moved(left, top)


def _stack(boxes: Floats, mass: Floats, usual: float) -> None:
    """Join two low marks above each other, such as the bar and the bow of a broken five.

    Both get the box around both, in `boxes` itself, if this box is as tall as a digit.
    """
    heights = 1 - boxes[:, 0] - boxes[:, 2]
    is_low = heights < TALL * usual
    low = np.flatnonzero(is_low & (mass > PART * np.median(mass[~is_low])))
    both = np.minimum(boxes[low, None], boxes[low])
    gaps = boxes[low, None] + np.roll(boxes[low], 2, axis=1)  # positive if boxes are apart
    down, across = np.maximum(gaps, np.roll(gaps, 2, axis=2))[..., :2].transpose(2, 0, 1)
    height = (1 - both[..., 0] - both[..., 2]) / usual
    fits = (across < 0) & (down <= NEAR * usual) & (height >= TALL) & (height <= 1 + ALIKE)
    for one, other in np.argwhere(fits).tolist():
        boxes[low[[one, other]]] = both[one, other]


def choose_marks(ink: Floats, levels: Levels, cut: bool = False, inner: bool = False) -> Mask:
    """Find the pixels of all marks that may be digits or belong to one.

    Raises:
        UnreadableError: `blank`, because no mark is as tall as a digit.
    """
    if cut:
        ink = np.where(cut_rows(ink, levels), np.float32(0), ink)
    labels, count = morphology.label_marks(ink > levels.weak)
    mass, at_border, boxes = measure(ink, labels, count, levels.strong)
    for mark in np.flatnonzero(mass > 0).tolist():
        # Printed boxes around digits, one or a row of them.
        if is_frame(labels, mark, boxes, mass, axes=1):
            mass[mark] = 0
    mass[_dots(labels, boxes, mass)] = 0
    heights = 1 - boxes[:, 0] - boxes[:, 2]
    # A mark at the border is an edge or a part of something else, unless it is as tall as a digit.
    touches = boxes <= np.array([0, 0, *(1 - side for side in ink.shape)])
    mass[touches.any(1) & inner] = 0
    weights = mass * np.where(touches.any(1), BORDER_WEIGHT * (at_border <= 0.5), 1)
    weights *= touches.sum(1) < 3
    usual = usual_height(boxes, weights) or usual_height(boxes, mass)
    mass[(at_border > 0.5) & (np.abs(heights / max(usual, 1) - 1) > ALIKE)] = 0
    tall = (mass > 0) & (heights >= TALL * usual) & (heights <= TALLEST * usual)
    if not usual or not tall.any():
        raise UnreadableError(Reason.BLANK, "no mark in the picture is as tall as a digit")
    too_tall = (mass > 0) & (heights > TALLEST * usual)
    digits, others = (np.concatenate([[False], each])[labels] for each in (tall, too_tall))
    pale = others & (ink > 0) & (ink < PALER * np.median(ink[digits & (ink > levels.strong)]))
    if pale.any():
        return choose_marks(np.where(pale, np.float32(0), ink), levels, inner=inner)
    kept = (mass > LEAST_INK * np.median(mass[tall])) & (heights <= TALLEST * usual)
    return np.concatenate([[False], kept])[labels]


def _dots(labels: Ints, boxes: Floats, mass: Floats) -> Mask:
    """Find the dots of dotted paper: many small, round marks of one size beside taller ones."""
    sizes = 1 - boxes[:, :2] - boxes[:, 2:]
    pixels = np.bincount(labels.ravel(), minlength=len(boxes) + 1)[1:]
    longest = sizes.max(1)
    dots = (mass > 0) & (longest <= tuning.DOT * max(labels.shape))
    dots &= (sizes.min(1) >= ROUND * longest) & (pixels >= ROUND * sizes.prod(1))
    if dots.sum() < tuning.LEAST_DOTS:
        return np.zeros(len(boxes), bool)
    usual = np.median(longest[dots])
    has_taller = (sizes[mass > 0, 0] > 2 * usual).any()
    return np.asarray(dots & has_taller & (longest < 1.7 * usual))


def usual_height(boxes: Floats, mass: Floats) -> float:
    """Return the median height, weighted by ink: digits have most of it. 0 without ink.

    Wide marks, such as words in joined letters, count only if there are few others.
    """
    if not mass.any():
        return 0.0
    heights, widths = (1 - boxes[:, :2] - boxes[:, 2:]).T
    narrow = np.where(widths <= WIDE * heights, mass, 0)
    mass = narrow if narrow.sum() > FEW * mass.sum() else mass
    order = np.argsort(heights)
    share = mass[order].cumsum() / mass.sum()
    return float(heights[order][np.searchsorted(share, 0.5)])


def _group(boxes: Floats, mass: Floats, usual: float, kinds: Bytes) -> list[Ints]:
    """Group marks with ink to lines. Boxes are (top, left, -bottom, -right).

    `usual` is the usual height of a digit, and `kinds` are those of `find_rules`.
    """
    heights = 1 - boxes[:, 0] - boxes[:, 2]
    tall = np.flatnonzero((heights >= TALL * usual) & (mass > 0))
    tall = tall[np.argsort(boxes[tall, 1])]
    line, gap = _join(boxes, tall, np.full(len(boxes), FAR))
    most = np.full(len(boxes), GAP)
    for number in np.unique(line[tall]).tolist():
        gaps = gap[(line == number) & (gap < FAR)]
        if len(gaps):
            most[line == number] = np.clip(REGULAR * np.median(gaps), GAP, FAR)
    line, _ = _join(boxes, tall, most)
    groups = []
    for number in np.unique(line[tall]).tolist():
        members = line == number
        box, reach = boxes[members].min(0), NEAR * usual
        middle = (boxes[:, :2] + 1 - boxes[:, 2:]) / 2 - 0.5
        inside = (middle >= box[:2] - reach).all(1) & (middle <= reach - box[2:]).all(1)
        members |= inside & (line < 0) & (heights < TALL * usual) & (mass > 0)
        whole, own = np.flatnonzero(members), np.flatnonzero(line == number)
        groups += divide_cells(whole, own, boxes, usual, kinds)
    # The marks that are left may be smaller digits, on lines of their own or with the lowest ones.
    # What touches the border is a part of another line.
    touches = (boxes <= np.array([0, 0, 1, 1]) - [0, 0, *kinds.shape]).any(1)
    rest = mass * (heights < TALL * usual) * ~touches
    rest[np.concatenate(groups)] = 0
    smaller = usual_height(boxes, rest)
    if smaller < LEAST_HEIGHT:
        return groups
    is_low = [TALL * heights[each].max() <= smaller for each in groups]
    for each in compress(groups, is_low):
        rest[each] = mass[each]
    below = _group(boxes, rest, smaller, kinds)
    return [each for each, low in zip(groups, is_low, strict=True) if not low] + [
        each for each in below if len(each) > 1 or heights[each[0]] >= TALL * usual
    ]


def _join(boxes: Floats, tall: Ints, reach: Floats) -> tuple[Ints, Floats]:
    """Join tall marks to lines: each mark with the marks on its left that are within `reach`.

    Return the number of each mark's line, -1 for marks that are not tall, and the gap on the left
    of each mark, as a multiple of its height.
    """
    heights = 1 - boxes[:, 0] - boxes[:, 2]
    line, gap = np.full(len(boxes), -1), np.full(len(boxes), np.inf)
    for number, mark in enumerate(tall.tolist()):
        gaps = boxes[mark] + np.roll(boxes, 2, axis=1)  # positive if boxes are apart
        apart = np.maximum(gaps, np.roll(gaps, 2, axis=1))[:, 1] / np.maximum(
            heights, heights[mark]
        )
        shared = 1 - np.maximum(boxes[mark, [0, 2]], boxes[:, [0, 2]]).sum(1)
        close = (apart <= reach[mark]) & (line >= 0)
        close &= shared >= SHARED * np.minimum(heights, heights[mark])
        line[np.isin(line, line[close])] = number
        line[mark], gap[mark] = number, apart[close].min(initial=np.inf)
    return line, gap


def _cut(
    found: normalise.Candidate, labels: Ints, group: Ints, num_boxes: int, boxes: Floats
) -> Line:
    """Cut a line from the picture, level, and so that the usual digit is LINE pixels high."""
    heights = 1 - boxes[group, 0] - boxes[group, 2]
    tall = group[heights >= TALL * heights.max()]
    usual = float(np.median(1 - boxes[tall, 0] - boxes[tall, 2]))
    x, y = (boxes[tall, 1] - boxes[tall, 3]) / 2, (boxes[tall, 0] - boxes[tall, 2]) / 2
    slope = float(np.polyfit(x, y, 1)[0]) if np.ptp(x) > 2 * usual else 0.0
    # Cut at twice the size, at which the width of the pen is adjusted.
    chosen = np.isin(labels, group + 1)
    detail = normalise.cut_out(found, chosen, 2 * LINE / usual)
    strokes = Image.fromarray(np.ascontiguousarray(morphology.adjust_pen(detail), np.float32))
    ink = np.pad(np.clip(np.asarray(strokes.reduce(2)), 0, 1), _MARGIN)
    # The position of the ink in the copy, whose pixels are `pixel` pixels of the line.
    pixel, edge = usual / LINE, _MARGIN + (strokes.height - len(detail)) / 4
    left = max(int(chosen.any(0).argmax()) - 2, 0) - edge * pixel
    above = max(int(chosen.any(1).argmax()) - 2, 0) - edge * pixel
    shift = max(slope, 0.0) * ink.shape[1]
    if slope:
        size = ink.shape[1], len(ink) + round(abs(slope) * ink.shape[1])
        level = (1, 0, 0, slope, 1, -shift)
        bilinear = Image.Resampling.BILINEAR
        turned = Image.fromarray(ink).transform(size, Image.Transform.AFFINE, level, bilinear)
        ink = np.asarray(turned)
    lift = shift - slope * (x - left) / pixel - above / pixel
    step = found.picture.width / chosen.shape[1], found.picture.height / chosen.shape[0]
    return Line(
        ink=ink,
        top=float(np.median(boxes[tall, 0] / pixel + lift)),
        bottom=float(np.median((1 - boxes[tall, 2]) / pixel + lift)),
        origin=(left * step[0], (above - shift * pixel) * step[1]),
        step=(pixel * step[0], pixel * step[1]),
        slope=slope,
        num_boxes=num_boxes,
    )
