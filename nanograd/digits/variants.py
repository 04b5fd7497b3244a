"""Handwriting variants of digits that are rare in MNIST, which was written in the United States.

A net that has not seen a variant mistakes it for another digit. So some training images are added
once more, deskewed and redrawn: ones with a flag, fours of three straight strokes, nines with a
tail.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanograd.data.dataset import SIDE, Dataset
from nanograd.digits.deskew import deskew
from nanograd.digits.form import LONGEST_SIDE, centre
from nanograd.runtime.randomness import FLAGS, STROKES, TAILS, stream

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]

# Rows of ink. A mark of fewer is a dot or a dash and has no stroke to extend.
_MIN_HEIGHT = 6

# Ones. Length of the flag as a share of the digit's height, its pen as a share of the stem's.
_FLAG_LENGTH, _FLAG_PEN = (0.2, 0.55), (0.8, 1.1)
# Start of the flag below the top of the stem, as a share of the height; half of them start there.
_FLAG_DROP = (-0.3, 0.3)
# Degrees between flag and stem: below the least they merge. At the top of the stem, a flag at more
# than the greatest would be the bar of a 7; further down it may be level.
_FLAG_ANGLE, _FLAG_LEVEL = (25.0, 65.0), 90.0
# Share of ones that get a foot, and its reach to either side as a share of the height.
_FOOTED, _FOOT_REACH = 0.3, (0.1, 0.4)

# Fours, as shares of the height: left end of the bar to the stem; top to the bar; reach of the bar
# beyond the stem; slant of the stem. Then the start of the stem as a share of the way to the bar;
# half of them start at the top, as the stroke to the bar does. For the others, start of that stroke
# as a share of the width. Last, the pen in pixels.
_FOUR_SHAPE = ((0.4, 0.8), (0.45, 0.9), (0.0, 0.3), (-0.15, 0.15))
_FOUR_LIMITS = (*_FOUR_SHAPE, (-0.6, 0.6), (0.5, 1.0), (1.5, 4.0))

# Nines. Reach of the tail as a share of the digit's height, rise of its end as a share of that.
_TAIL_REACH, _TAIL_RISE = (0.25, 0.65), (-0.1, 0.4)

_Y, _X = np.mgrid[:SIDE, :SIDE]


class Variant(NamedTuple):
    """A handwriting variant of a digit."""

    digit: int  # its class
    # Deskewed image, (28, 28) uint8, and draws in [0, 1) to the redrawn image.
    redraw: Callable[[Bytes, Floats], Bytes]
    num_draws: int
    purpose: int  # of the random stream they come from


def num_variants(digits: Dataset, share: float) -> int:
    """Return the number of images that `add_variants` adds."""
    return sum(_number(digits, variant, share) for variant in _VARIANTS)


def add_variants(digits: Dataset, share: float, seed: int) -> Dataset:
    """Append redrawn copies, centred, of a share of the ones, fours and nines.

    Args:
        digits: N images.
        share: 0 to 1, of each of these digits.
        seed: 0 to 2**63 - 1; determines the choice and the drawing.
    """
    added = [_redraw_some(digits, variant, share, seed) for variant in _VARIANTS]
    return Dataset(
        np.concatenate([digits.images, *(each.images for each in added)]),
        np.concatenate([digits.labels, *(each.labels for each in added)]),
    )


def _redraw_some(digits: Dataset, variant: Variant, share: float, seed: int) -> Dataset:
    index = np.flatnonzero(digits.labels == variant.digit)
    shape = len(index), 1 + variant.num_draws
    raw = stream(seed, variant.purpose).random_raw(shape[0] * shape[1])
    draws = np.asarray((raw >> np.uint64(11)) * 2.0**-53, np.float64).reshape(shape)
    chosen = np.sort(np.argsort(draws[:, 0])[: _number(digits, variant, share)])
    originals = digits.take(index[chosen])
    deskewed = deskew(originals.images).reshape(-1, SIDE, SIDE)
    images = np.empty_like(originals.images)
    for position, (image, draw) in enumerate(zip(deskewed, draws[chosen, 1:], strict=True)):
        images[position] = variant.redraw(image, draw).ravel()
    return Dataset(images, originals.labels)


def _number(digits: Dataset, variant: Variant, share: float) -> int:
    return round(share * int((digits.labels == variant.digit).sum()))


def add_flag(one: Bytes, draw: Floats) -> Bytes:
    """Add a flag to the left of the upper end of a one, and perhaps a foot.

    Args:
        one: (28, 28) uint8, ink 255 on 0, deskewed; returned as it is if blank or a dash.
        draw: (7,) in [0, 1): of the flag's length, angle and pen; of whether there is a foot, and
            its reach to the left and to the right; of the flag's start on the stem.
    """
    if (extent := _tall_extent(one)) is None:
        return one
    top, bottom, height = extent
    stem = one.sum() / 255 / height
    length, pen = _between(_FLAG_LENGTH, draw[0]), stem * _between(_FLAG_PEN, draw[2])
    drop = max(0.0, _between(_FLAG_DROP, draw[6]))
    greatest = _between((_FLAG_ANGLE[1], _FLAG_LEVEL), drop / _FLAG_DROP[1])
    angle = np.radians(_between((_FLAG_ANGLE[0], greatest), draw[1]))
    head = np.array([_mean_column(one[top : top + 2]), top + (stem - 1) / 2 + drop * height])
    flag = np.array([-np.sin(angle), np.cos(angle)]) * height * length
    ink = np.maximum(one / 255, _draw_line(head, head + flag, pen))
    if draw[3] < _FOOTED:
        heel = np.array([_mean_column(one[bottom - 1 : bottom + 1]), bottom - (stem - 1) / 2])
        left, right = (
            _between(_FOOT_REACH, each) * height * np.array([1, 0]) for each in draw[4:6]
        )
        ink = np.maximum(ink, _draw_line(heel - left, heel + right, pen))
    return _centre_ink(ink)


def draw_four(four: Bytes, draw: Floats) -> Bytes:
    """Draw a four of three straight strokes, closed at the top or with a stem across the bar.

    Args:
        four: (28, 28) uint8; not used.
        draw: (7,) in [0, 1): of its width, its bar's height and reach, its slant, the start of its
            stem and of the stroke to the bar, and the pen.
    """
    width, bar, beyond, slant, drop, tip, pen = (
        _between(limits, each) for limits, each in zip(_FOUR_LIMITS, draw, strict=True)
    )
    drop = max(0.0, drop) * bar
    top, bottom = np.array([width, 0.0]), np.array([width + slant, 1.0])
    start, crossing = (top + share * (bottom - top) for share in (drop, bar))
    left, right = np.array([0.0, bar]), crossing + np.array([beyond, 0.0])
    # The longest side is 19 from edge to edge of the pen, 20 with its faint rim.
    scale = (LONGEST_SIDE - 1 - pen) / max(1.0, right[0], bottom[0])
    corner = np.full(2, (SIDE - LONGEST_SIDE + pen) / 2)
    strokes = ((start, bottom), (left, right), (top * (tip if drop else 1), left))
    return _centre_ink(
        np.max(
            [_draw_line(corner + scale * a, corner + scale * b, pen) for a, b in strokes], axis=0
        )
    )


def add_tail(nine: Bytes, draw: Floats) -> Bytes:
    """Extend the stem of a nine to the left at its lower end, and perhaps up a little.

    Args:
        nine: (28, 28) uint8, ink 255 on 0, deskewed; returned as it is if blank or a dash.
        draw: (2,) in [0, 1): of the tail's reach and of its rise.
    """
    if (extent := _tall_extent(nine)) is None:
        return nine
    _, bottom, height = extent
    lower = nine[bottom - height // 3 : bottom - 1]
    pen = lower.sum() / 255 / len(lower)
    reach = _between(_TAIL_REACH, draw[0]) * height
    end = np.array([_mean_column(nine[bottom - 1 : bottom + 1]), bottom - (pen - 1) / 2])
    bend = end - np.array([0.6 * reach, 0])
    tip = end - np.array([reach, _between(_TAIL_RISE, draw[1]) * reach])
    tail = np.maximum(_draw_line(end, bend, pen), _draw_line(bend, tip, pen))
    return _centre_ink(np.maximum(nine / 255, tail))


_VARIANTS = (
    Variant(1, add_flag, 7, FLAGS),
    Variant(4, draw_four, len(_FOUR_LIMITS), STROKES),
    Variant(9, add_tail, 2, TAILS),
)


def _tall_extent(image: Bytes) -> tuple[np.int64, np.int64, np.int64] | None:
    """First and last row of the ink and its height; None for a blank image, a dot or a dash."""
    rows = np.flatnonzero((image > 127).any(axis=1))
    if not len(rows) or rows[-1] - rows[0] + 1 < _MIN_HEIGHT:
        return None
    return rows[0], rows[-1], rows[-1] - rows[0] + 1


def _between(limits: tuple[float, float], draw: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * draw


def _mean_column(rows: Bytes) -> float:
    ink = rows.sum(axis=0, dtype=np.float64)
    return float(ink @ np.arange(SIDE) / ink.sum())


def _draw_line(start: Floats, end: Floats, pen: float) -> Floats:
    """Draw a round pen's stroke between two points, (column, row): (28, 28) float64, 0 to 1."""
    along = end - start
    x, y = _X - start[0], _Y - start[1]
    share = np.clip((x * along[0] + y * along[1]) / (along @ along), 0, 1)
    distance = np.hypot(x - share * along[0], y - share * along[1])
    stroke: Floats = np.clip(pen / 2 + 0.5 - distance, 0, 1)
    return stroke


def _centre_ink(ink: Floats) -> Bytes:
    """Convert ink, (28, 28), 0 to 1, to an image with its centre of mass in the middle."""
    image = np.round(255 * ink).astype(np.uint8)
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    return centre(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
