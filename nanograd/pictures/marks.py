"""Connected marks of ink, and the choice of those that form the digit."""

import numpy as np

from nanograd.errors import Reason, UnreadableError
from nanograd.pictures import tuning
from nanograd.pictures.morphology import label_marks, running_max
from nanograd.pictures.paper import Levels
from nanograd.runtime.arrays import Floats, Ints, Mask


def choose_marks(ink: Floats, levels: Levels) -> Mask:
    """Find the pixels of the digit: its largest mark and the marks close to it.

    Raises:
        UnreadableError: `blank` (only specks and marks at the border) or `too_many_marks`.
    """
    labels, count = label_marks(ink > levels.weak)
    mass, at_border, boxes = measure(ink, labels, count, levels.strong)
    # A digit may touch the border, but marks inside the picture take precedence.
    inner = mass * np.where(at_border > 0, tuning.BORDER_WEIGHT * (1 - at_border), 1)
    if not inner.any():
        raise UnreadableError(Reason.BLANK, "the picture shows nothing but specks and a border")
    main = int(inner.argmax())
    for mark in np.flatnonzero((boxes <= boxes[main]).all(1) & (mass > 0)).tolist():
        if is_frame(labels, mark, boxes, mass):
            mass[mark] = inner[mark] = 0
    main = int(inner.argmax())
    # If the main mark does not touch the border, marks at the border are not part of the digit.
    limit = max(0.5, at_border[main]) if at_border[main] else 0
    sizeable = (at_border <= limit) & (mass > tuning.LEAST_INK * mass[main])
    # Dotted paper has many small dots of similar size.
    small = (1 - (boxes[:, :2] + boxes[:, 2:]).min(1) <= tuning.DOT * max(ink.shape)) & (mass > 0)
    if small.sum() >= tuning.LEAST_DOTS:
        ratio = mass / np.median(mass[small])
        sizeable &= ~(small & (ratio > 1 / tuning.ALIKE) & (ratio < tuning.ALIKE))
    sizeable[main] = True
    kept = _grow(main, boxes, sizeable, mass > tuning.BAR_INK * mass[main])
    height, width = ink.shape
    has_room = width >= tuning.WIDE * height and max(ink.shape) <= tuning.BITMAP_SIDE
    are_several = _are_two(boxes[sizeable], mass[sizeable]) or _are_ones(labels, boxes, mass * kept)
    if are_several or (has_room and _is_one_left(boxes, mass, kept)):
        detail = "several digits stand side by side; `nanograd predict --digits many` reads numbers"
        raise UnreadableError(Reason.TOO_MANY_MARKS, detail)
    if kept.sum() > tuning.MAX_MARKS:
        raise UnreadableError(Reason.TOO_MANY_MARKS, f"{kept.sum()} marks lie close together")
    return np.concatenate([[False], kept])[labels]


def measure(ink: Floats, labels: Ints, count: int, level: float) -> tuple[Floats, Floats, Floats]:
    """Measure each mark: its ink, the share of this ink at the picture's border, and its box.

    The ink is 0 if no pixel of the mark is above `level`. A box is (top, left, -bottom, -right),
    so the minimum of several boxes is the box around them.
    """
    y, x = np.nonzero(labels > 0)
    number, values = labels[y, x] - 1, ink[y, x]
    mass = np.bincount(number, values, count).astype(np.float32)
    ring = max(1, round(tuning.RING * min(ink.shape)))
    inside = np.zeros(ink.shape, bool)
    inside[ring:-ring, ring:-ring] = True
    at_border = np.bincount(number, values * ~inside[y, x], count).astype(np.float32) / mass
    # `at` takes ten times as long if dtypes differ or if a side is a column of the array.
    sides = np.full((4, count), max(ink.shape))
    for side, position in zip(sides, (y, x, -y, -x), strict=True):
        np.minimum.at(side, number, position)
    strong = np.bincount(number, values > level, count) > 0
    return mass * strong, at_border, sides.T.astype(np.float32)


def is_frame(labels: Ints, mark: int, boxes: Floats, mass: Floats, axes: int = 2) -> bool:
    """Return whether a mark is a frame or ring around other marks that are nearly as large.

    With `axes` 1, another mark must only be nearly as high as the frame, as in a row of boxes.
    """
    sizes = (1 - boxes[:, :2] - boxes[:, 2:])[:, :axes]
    inner = (boxes > boxes[mark]).all(1) & (sizes > tuning.FRAMED * sizes[mark]).all(1) & (mass > 0)
    if not inner.any():
        return False
    frame = running_max(np.pad(labels == mark + 1, 2).view(np.uint8), 1)  # no gaps at corners
    around = label_marks(frame == 0)[0]
    within = labels[((around > 0) & (around != around[0, 0]))[2:-2, 2:-2]]
    return bool(inner[within[within > 0] - 1].any())


def _grow(start: int, boxes: Floats, allowed: Mask, bars: Mask) -> Mask:
    """Add to a mark the `allowed` marks that are close to it, then those close to these, and so on.

    A mark in `bars`, such as the bar of a five, may be further away if it is above or below the
    marks that were added.
    """
    kept = np.zeros(len(boxes), bool)
    kept[start] = True
    while True:
        box = boxes[kept].min(0)
        reach = tuning.REACH * (1 - min(box[2] + box[0], box[3] + box[1]))
        # A gap is positive if the boxes do not overlap.
        down, across = (boxes + np.roll(box, 2)).reshape(-1, 2, 2).max(1).T
        close = np.maximum(down, across) <= reach
        heights = 1 - np.minimum(boxes, box)[:, ::2].sum(1)
        close |= bars & (across <= 0) & (down <= tuning.BAR_REACH * heights)
        more = kept | (allowed & close)
        if (more == kept).all():
            return kept
        kept = more


def _are_two(boxes: Floats, mass: Floats) -> bool:
    """Return whether marks are two digits: alike and apart, or tall and wide side by side."""
    heights = 1 - boxes[:, 2] - boxes[:, 0]
    height = heights[mass.argmax()]
    tall = heights > tuning.TALL * height
    big = boxes[tall & (mass > tuning.MUCH_INK * mass.max())]
    gaps = (big[:, None] + np.roll(big, 2, axis=1)).max(2)
    beside = boxes[tall & (mass > tuning.BESIDE_INK * mass.max())]
    across = (beside[:, None] + np.roll(beside, 2, axis=1))[..., 1::2].max(2)
    widths = 1 - np.minimum(beside[:, None], beside)[..., 1::2].sum(2)
    is_wide = ((across > 0) & (widths > tuning.WIDEST * height)).any()
    return bool(gaps.max() > tuning.REACH * height or is_wide)


def _are_ones(labels: Ints, boxes: Floats, mass: Floats) -> bool:
    """Return whether two marks are narrow strokes side by side, and not the halves of a zero."""
    heights = 1 - boxes[:, 2] - boxes[:, 0]
    height = heights[mass > 0].max(initial=0)
    strokes = np.flatnonzero(
        (heights > tuning.TALL * height) & (mass > tuning.MUCH_INK * mass.max())
    )
    if len(strokes) != 2:
        return False
    strokes = strokes[np.argsort(boxes[strokes, 1] - boxes[strokes, 3])]
    left, right = (labels == mark + 1 for mark in strokes.tolist())
    rows = left.any(1) & right.any(1)
    if rows.sum() < height / 2:
        return False
    starts, ends = (
        np.stack([side[rows].argmax(1) for side in sides])
        for sides in ((left, right), (left[:, ::-1], right[:, ::-1]))
    )
    ends = labels.shape[1] - ends
    above, middle, below = (np.median(each) for each in np.array_split(starts[1] - ends[0], 3))
    is_bent = abs(middle - (above + below) / 2) > tuning.BENT * height
    return bool((ends - starts).max() < tuning.NARROW * height and not is_bent)


def _is_one_left(boxes: Floats, mass: Floats, kept: Mask) -> bool:
    """Return whether the marks that were not kept may be another digit."""
    rest = ~kept & (mass > tuning.LEAST_INK * mass[kept].max())
    if not rest.any():
        return False
    digit, other = (boxes[some].min(0) for some in (kept, rest))
    heights = [1 - box[2] - box[0] for box in (digit, other)]
    is_tall = heights[1] > tuning.HALF_AS_TALL * heights[0]
    return bool(is_tall and mass[rest].sum() > tuning.BESIDE_INK * mass[kept].sum())
