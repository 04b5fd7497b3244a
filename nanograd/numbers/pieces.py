"""Pieces of a line: the ink between two seams. A good piece is one digit.

Pieces overlap, because a line has more seams than digits. Pieces are the edges of a graph, the
lattice, whose nodes are the seams. Each path through it is a way to divide the line into digits.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from nanograd.digits.dataset import SIDE
from nanograd.digits.form import LONGEST_SIDE
from nanograd.numbers.seams import FAINT, LEAST, LINE, STRONG, Seams
from nanograd.runtime.arrays import Bytes, Floats, Ints, Mask

# Maximum width of a piece in heights of the line, and the number of seams that it may cross.
WIDEST, REACH = 1.4, 40
# A piece of less than this height is only kept if no stroke is cut on either side.
LOW = 0.5
# No piece crosses a seam in a gap that is wider than this many heights.
GAP = 0.35
# Height and width in pixels of the picture of the ink around a piece, at half the scale.
CONTEXT = (14, 22)
# Columns of this picture that the image of the piece shows.
_INSIDE = slice((CONTEXT[1] - SIDE // 2) // 2, (CONTEXT[1] + SIDE // 2) // 2)


@dataclass(frozen=True)
class Pieces:
    """The P pieces of a line, in the order of their first seam."""

    num_nodes: int
    first: Ints  # (P,) the seam on the left
    last: Ints  # (P,) the seam on the right
    boxes: Ints  # (P, 4) left, top, right and bottom, in pixels of the line
    images: Bytes  # (P, 784) in MNIST's form
    context: Bytes  # (P, 14 * 22) the other ink around the piece
    geometry: Floats  # (P, 10) float32: gaps, sizes, positions, costs of cuts, ink, pen

    def take(self, chosen: Mask) -> "Pieces":
        """Return some pieces, by a mask, (P,)."""
        names = ("first", "last", "boxes", "images", "context", "geometry")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})


class _Ink:
    """Tables of a line's ink: what lies before or after each column, in each row."""

    def __init__(self, ink: Floats) -> None:
        self.height, self.width = ink.shape
        self.rows, columns = np.arange(self.height), np.arange(self.width)
        self.strong = ink > STRONG
        ink = np.where(ink > FAINT, ink, 0).astype(np.float32)
        # The next strong column at or after a column, and the last one before it.
        self.after = np.full((self.height, self.width + 2), self.width)
        following = np.where(self.strong, columns, self.width)[:, ::-1]
        self.after[:, :-2] = np.minimum.accumulate(following, 1)[:, ::-1]
        self.before = np.full((self.height, self.width + 2), -1)
        self.before[:, 1:-1] = np.maximum.accumulate(np.where(self.strong, columns, -1), 1)
        self.before[:, -1] = self.before[:, -2]
        # Sums before a column, of the ink and of ink x column.
        self.sums, self.moments = np.zeros((2, self.height, self.width + 2), np.float32)
        self.sums[:, 1:-1] = ink.cumsum(1)
        self.moments[:, 1:-1] = (ink * (columns + 0.5).astype(np.float32)).cumsum(1)
        self.sums[:, -1], self.moments[:, -1] = self.sums[:, -2], self.moments[:, -2]
        # Sums of the ink above a row and before a column.
        self.areas = np.zeros((self.height + 2, self.width + 2), np.float32)
        self.areas[1:-1] = self.sums.cumsum(0)
        self.areas[-1] = self.areas[-2]


def cut(ink: Floats, seams: Seams, pen: float, top: float, bottom: float) -> Pieces:
    """Cut the pieces of a line whose digits are between the rows `top` and `bottom`."""
    table = _Ink(ink)
    first, last, boxes, mass = _choose(table, seams, pen)
    edge, rows = np.minimum(seams.last + 1, table.width), table.rows
    low, high = edge[first], np.maximum(edge[last], edge[first])
    row_mass = table.sums[rows, high] - table.sums[rows, low]
    total, size = row_mass.sum(1), boxes[:, 2:] - boxes[:, :2]
    x = (table.moments[rows, high] - table.moments[rows, low]).sum(1) / total
    y = row_mass @ (rows + 0.5) / total
    scale = LONGEST_SIDE / size.max(1)
    # A digit stays in its image even if its centre of mass is far from the middle of its box.
    half = SIDE / 2 / scale
    middle = (
        np.clip(x, boxes[:, 2] - half, boxes[:, 0] + half),
        np.clip(y, boxes[:, 3] - half, boxes[:, 1] + half),
    )
    images = _resample(table.sums, (low, high), middle, scale, (SIDE, SIDE))
    peaks = np.maximum(images.max((1, 2), keepdims=True), 1e-6)
    # The ink around a piece is all ink less its own. An image shows a piece at twice the scale of
    # its context, unless the piece is small or far from the middle of its image.
    near, own = np.minimum(scale, 1.0) / 2, np.zeros((len(first), *CONTEXT), np.float32)
    around = _resample_all(table.areas, (x, y), near, CONTEXT)
    own[:, :, _INSIDE] = images.reshape(-1, CONTEXT[0], 2, CONTEXT[0], 2).mean((2, 4))
    others = np.flatnonzero((scale > 1) | (middle[0] != x) | (middle[1] != y))
    span, centre = (low[others], high[others]), (x[others], y[others])
    own[others] = _resample(table.sums, span, centre, near[others], CONTEXT)
    around -= own
    geometry = [
        _inner_gaps(table.strong, low, high, boxes) / LINE,
        size[:, ::-1] / LINE,
        np.stack([boxes[:, 1] - top, bottom - boxes[:, 3]], 1) / LINE,
        np.stack([seams.cost[first], seams.cost[last]], 1) / (3 * pen),
        (mass / (3 * pen * LINE))[:, None],
        np.full((len(first), 1), pen / 6),
    ]
    return Pieces(
        num_nodes=len(edge),
        first=first,
        last=last,
        boxes=boxes,
        images=np.round(255 * images / peaks).astype(np.uint8).reshape(-1, SIDE * SIDE),
        context=np.round(255 * np.clip(around, 0, 1)).astype(np.uint8).reshape(len(first), -1),
        geometry=np.concatenate(geometry, 1).astype(np.float32),
    )


def _choose(table: _Ink, seams: Seams, pen: float) -> tuple[Ints, Ints, Ints, Floats]:
    """Return the first and last seam, the box and the ink of each piece."""
    edge, rows, count = seams.last + 1, table.rows, len(seams.last)
    starts, ends, left = (each[rows, edge] for each in (table.after, table.before, table.sums))
    # A piece ends at the first seam in a wide gap.
    gaps = np.where((starts < table.width) & (ends >= 0), starts - ends - 1, table.width).min(1)
    walls = np.zeros(count, np.int64)
    walls[1:-1] = (gaps > GAP * LINE)[1:-1].cumsum()
    walls[-1] = walls[-2]
    pairs = np.arange(count)[:, None] + np.arange(1, min(REACH, count - 1) + 1)
    first, last = np.nonzero(pairs < count)
    last = pairs[first, last]
    is_whole = walls[np.maximum(last - 1, first)] == walls[first]
    first, last = first[is_whole], last[is_whole]
    between = left[last] - left[first]
    filled = starts[first] <= np.minimum(ends[last], edge[last] - 1)
    sides = [
        np.where(filled, starts[first], table.width).min(1),
        filled.argmax(1),
        np.where(filled, ends[last], -1).max(1) + 1,
        table.height - filled[:, ::-1].argmax(1),
    ]
    boxes, mass = np.stack(sides, axis=1), np.maximum(between, 0).sum(1)
    least = LEAST * pen * pen
    good = (mass >= least) & (-np.minimum(between, 0).sum(1) <= least) & filled.any(1)
    good &= boxes[:, 2] - boxes[:, 0] <= WIDEST * LINE
    is_cut = np.maximum(seams.cost[first], seams.cost[last]) > pen / 2
    good &= (boxes[:, 3] - boxes[:, 1] >= LOW * LINE) | ~is_cut
    # A piece between neighbours is kept if it has ink, so that there is a way through the lattice.
    good |= (last == first + 1) & filled.any(1) & (mass > 0)
    return first[good], last[good], boxes[good], mass[good]


def _resample(
    sums: Floats,
    span: tuple[Ints, Ints],
    middle: tuple[Floats, Floats],
    scale: Floats,
    size: tuple[int, int],
) -> Floats:
    """Scale P pieces of a line to small pictures of equal size, (P, *size) float32.

    A pixel of the result is the mean of the ink on its area in the line.

    Args:
        sums: (height, line's width + 2), the sum of the ink to the left of each column of the line.
        span: the first column of each row of a piece, and the end of its columns, (P, height).
        middle: column and row of the line in the middle of each picture, (P,).
        scale: (P,) pixels of the picture for a pixel of the line.
        size: height and width of the pictures.
    """
    (x, y), (height, width), sums = middle, sums.shape, sums.ravel()
    down, across = (
        ((np.arange(side + 1) - side / 2) / scale[:, None] + centre[:, None]).astype(np.float32)
        for side, centre in zip(size, (y, x), strict=True)
    )
    # Between two columns or rows, the sum of the ink grows linearly.
    low, high = (each.astype(np.float32)[..., None] for each in span)
    place = np.minimum(np.maximum(across[:, None], low), high)
    whole = np.floor(place)
    place -= whole
    column = whole.astype(np.intp)
    column = column + width * np.arange(height)[:, None]
    value = sums.take(column)
    column += 1
    value += place * (sums.take(column) - value)
    within = np.zeros((len(x), height + 2, size[1]), np.float32)
    np.cumsum(np.diff(value, axis=2), axis=1, out=within[:, 1:-1])
    within[:, -1] = within[:, -2]
    place = np.clip(down, 0, height)
    row, number = place.astype(np.intp), np.arange(len(x))[:, None]
    value = within[number, row]
    value += (place - row)[..., None] * (within[number, row + 1] - value)
    return np.asarray(np.diff(value, axis=1) * (scale**2)[:, None, None], np.float32)


def _resample_all(
    areas: Floats, middle: tuple[Floats, Floats], scale: Floats, size: tuple[int, int]
) -> Floats:
    """Scale all ink around P places to small pictures, as `_resample` does with one piece.

    Args:
        areas: (line's height + 2, line's width + 2), the sum of the ink above each row and to the
            left of each column.
        middle: column and row of the line in the middle of each picture, (P,).
        scale: (P,) pixels of the picture for a pixel of the line.
        size: height and width of the pictures.
    """
    places = []
    for side, centre, end in zip(size, middle[::-1], areas.shape, strict=True):
        place = (np.arange(side + 1) - side / 2) / scale[:, None] + centre[:, None]
        places.append(np.clip(place, 0, end - 2).astype(np.float32))
    down, across = places[0][:, :, None], places[1][:, None]
    row, column = np.floor(down).astype(np.intp), np.floor(across).astype(np.intp)
    down, across, corner = down - row, across - column, row * areas.shape[1] + column
    flat, width = areas.ravel(), areas.shape[1]
    upper, lower = (
        flat.take(each) * (1 - across) + flat.take(each + 1) * across
        for each in (corner, corner + width)
    )
    value = np.diff(np.diff(upper + down * (lower - upper), axis=1), axis=2)
    return np.asarray(value * (scale**2)[:, None, None], np.float32)


def _inner_gaps(strong: Mask, low: Ints, high: Ints, boxes: Ints) -> Floats:
    """Return the widest gap inside each piece, (P, 2): columns, then rows without strong ink."""
    width = int((boxes[:, 2] - boxes[:, 0]).max(initial=1))
    windows = sliding_window_view(np.pad(strong, ((0, 0), (0, width))), width, 1)
    mask = windows[:, boxes[:, 0]]  # (height, P, width)
    columns = np.arange(width, dtype=np.int16)
    start, end = ((each - boxes[:, :1]).T[..., None].astype(np.int16) for each in (low, high))
    mask &= (columns >= start) & (columns < end)
    gaps = np.zeros((len(low), 2))
    for axis, filled in enumerate(map(np.asarray, (mask.any(0), mask.any(2).T))):
        places = np.arange(filled.shape[1])
        before = np.maximum.accumulate(np.where(filled, places, -1), 1)[:, :-1]
        widths = np.where(filled[:, 1:] & (before >= 0), places[1:] - before, 1)
        gaps[:, axis] = widths.max(1, initial=1) - 1
    return gaps
