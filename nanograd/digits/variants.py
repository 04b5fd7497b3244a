"""Digits in styles that MNIST, written in the United States, has few of or none.

A net that has not seen a style takes its digits for others. So it is trained on some images twice,
as they are and redrawn.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Philox
from numpy.typing import NDArray

from nanograd.data.dataset import Dataset
from nanograd.digits.deskew import deslant
from nanograd.digits.form import centre
from nanograd.digits.resample import SIDE
from nanograd.runtime.randomness import FLAGS, STROKES, TAILS, stream

Floats = NDArray[np.float64]

# A mark of fewer rows is a dot or a dash: no stroke of it can be gone on with.
LEAST_HEIGHT = 6

_Y, _X = np.mgrid[:SIDE, :SIDE]


def between(limits: tuple[float, float], draw: float) -> float:
    """A draw in [0, 1) brought between two limits."""
    return limits[0] + (limits[1] - limits[0]) * draw


def column(rows: NDArray[np.uint8]) -> float:
    """Where the ink of some rows, (n, 28), is in the mean; they must not be blank."""
    ink = rows.sum(axis=0, dtype=np.float64)
    return float(ink @ np.arange(SIDE) / ink.sum())


def line(start: Floats, end: Floats, pen: float) -> Floats:
    """A straight stroke of a round pen.

    Args:
        start: (2,), column and row.
        end: the same; another point.
        pen: its thickness in pixels.

    Returns:
        (28, 28) float64, 0 to 1.
    """
    along = end - start
    x, y = _X - start[0], _Y - start[1]
    share = np.clip((x * along[0] + y * along[1]) / (along @ along), 0, 1)
    distance = np.hypot(x - share * along[0], y - share * along[1])
    stroke: Floats = np.clip(pen / 2 + 0.5 - distance, 0, 1)
    return stroke


def centred(ink: Floats) -> NDArray[np.uint8]:
    """The image of ink, (28, 28), 0 to 1, with its centre of mass in the middle."""
    image = np.round(255 * ink).astype(np.uint8)
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    return centre(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


# The flag's length as a share of the one's height, its pen as a share of the stem's.
_FLAG_LENGTH, _FLAG_PEN = (0.2, 0.55), (0.8, 1.1)
# How far below the stem's end it begins, as a share of the height; half of them begin at the end.
_FLAG_DROP = (-0.3, 0.3)
# Degrees between flag and stem: with less they merge; at the end of the stem, though not below it,
# a flag at more than the second is the bar of a 7.
_FLAG_ANGLE, _FLAG_LEVEL = (25.0, 65.0), 90.0
# How many of them have a foot, and how far it reaches to either side, as a share of the height.
_FOOTED, _FOOT_REACH = 0.3, (0.1, 0.4)
_NUM_FLAG_DRAWS = 7


def flagged(one: NDArray[np.uint8], draw: Floats) -> NDArray[np.uint8]:
    """A one with a flag that hangs to the left of its upper end, and perhaps a foot below.

    Args:
        one: (28, 28) uint8, ink 255 on 0, upright.
        draw: (7,) in [0, 1): of the flag's length, angle and pen; of whether there is a foot, and
            its reach to the left and to the right; of where on the stem the flag begins.

    Returns:
        (28, 28) uint8, its centre of mass in the middle; the same image if it is blank or a dash.
    """
    rows = np.flatnonzero((one > 127).any(axis=1))
    if not len(rows) or np.ptp(rows) + 1 < LEAST_HEIGHT:
        return one
    top, bottom = rows[0], rows[-1]
    height = bottom - top + 1
    stem = one.sum() / 255 / height
    length, pen = between(_FLAG_LENGTH, draw[0]), stem * between(_FLAG_PEN, draw[2])
    drop = max(0.0, between(_FLAG_DROP, draw[6]))
    steepest, flattest = (
        _FLAG_ANGLE[0],
        between((_FLAG_ANGLE[1], _FLAG_LEVEL), drop / _FLAG_DROP[1]),
    )
    angle = np.radians(between((steepest, flattest), draw[1]))
    head = np.array([column(one[top : top + 2]), top + (stem - 1) / 2 + drop * height])
    flag = np.array([-np.sin(angle), np.cos(angle)]) * height * length
    ink = np.maximum(one / 255, line(head, head + flag, pen))
    if draw[3] < _FOOTED:
        heel = np.array([column(one[bottom - 1 : bottom + 1]), bottom - (stem - 1) / 2])
        left, right = (between(_FOOT_REACH, each) * height * np.array([1, 0]) for each in draw[4:6])
        ink = np.maximum(ink, line(heel - left, heel + right, pen))
    return centred(ink)


# As shares of the four's height: from the bar's left end to the stem; from the top to the bar; how
# far the bar reaches beyond the stem, and how far the stem leans.
_FOUR_WIDTH, _FOUR_BAR, _FOUR_BEYOND, _FOUR_LEAN = (
    (0.4, 0.8),
    (0.45, 0.9),
    (0.0, 0.3),
    (-0.15, 0.15),
)
# Where the stem begins, as a share of the way to the bar; half of the stems begin at the top, where
# the stroke to the bar does. Where that begins otherwise, as a share of the width.
_FOUR_DROP, _FOUR_TIP = (-0.6, 0.6), (0.5, 1.0)
# Pixels
_FOUR_PEN = (1.5, 4.0)
_FOUR_LIMITS = (_FOUR_WIDTH, _FOUR_BAR, _FOUR_BEYOND, _FOUR_LEAN, _FOUR_DROP, _FOUR_TIP, _FOUR_PEN)
# The longest side of MNIST's digits
_LONGEST = 20

_NUM_FOUR_DRAWS = len(_FOUR_LIMITS)


def straight(four: NDArray[np.uint8], draw: Floats) -> NDArray[np.uint8]:
    """A four of three straight strokes, closed at the top or with a stem that crosses the bar.

    Args:
        four: (28, 28) uint8, which gives nothing but its place.
        draw: (7,) in [0, 1): of its width, its bar's height and reach, its lean, where its stem
            and the stroke to the bar begin, and the pen.

    Returns:
        (28, 28) uint8, its centre of mass in the middle.
    """
    width, place, beyond, lean, drop, tip, pen = (
        between(limits, each) for limits, each in zip(_FOUR_LIMITS, draw, strict=True)
    )
    drop = max(0.0, drop) * place
    top, bottom = np.array([width, 0.0]), np.array([width + lean, 1.0])
    start, crossing = (top + share * (bottom - top) for share in (drop, place))
    left, right = np.array([0.0, place]), crossing + np.array([beyond, 0.0])
    # The longest side is 19 from edge to edge of the pen, 20 with its faint rim.
    scale = (_LONGEST - 1 - pen) / max(1.0, right[0], bottom[0])
    corner = np.full(2, (SIDE - _LONGEST + pen) / 2)
    strokes = ((start, bottom), (left, right), (top * (tip if drop else 1), left))
    return centred(
        np.max([line(corner + scale * a, corner + scale * b, pen) for a, b in strokes], axis=0)
    )


# The tail's reach to the left as a share of the nine's height, and how far its end rises of that.
_TAIL_REACH, _TAIL_RISE = (0.25, 0.65), (-0.1, 0.4)
_NUM_TAIL_DRAWS = 2


def tailed(nine: NDArray[np.uint8], draw: Floats) -> NDArray[np.uint8]:
    """A nine whose stem goes on to the left at its lower end, and perhaps up a little.

    Args:
        nine: (28, 28) uint8, ink 255 on 0, upright.
        draw: (2,) in [0, 1): of the tail's reach and of its rise.

    Returns:
        (28, 28) uint8, its centre of mass in the middle; the same image if it is blank or a dash.
    """
    rows = np.flatnonzero((nine > 127).any(axis=1))
    if not len(rows) or np.ptp(rows) + 1 < LEAST_HEIGHT:
        return nine
    bottom, height = rows[-1], rows[-1] - rows[0] + 1
    lower = nine[bottom - height // 3 : bottom - 1]
    pen = lower.sum() / 255 / len(lower)
    reach = between(_TAIL_REACH, draw[0]) * height
    end = np.array([column(nine[bottom - 1 : bottom + 1]), bottom - (pen - 1) / 2])
    bend = end - np.array([0.6 * reach, 0])
    tip = end - np.array([reach, between(_TAIL_RISE, draw[1]) * reach])
    ink = np.maximum(line(end, bend, pen), line(bend, tip, pen))
    return centred(np.maximum(nine / 255, ink))


class Style(NamedTuple):
    """How some images of a digit are redrawn.

    Args:
        digit: which.
        redraw: an upright image, (28, 28) uint8, and draws in [0, 1) to the image redrawn.
        num_draws: how many it takes.
        purpose: of the stream that they come from.
    """

    digit: int
    redraw: Callable[[NDArray[np.uint8], NDArray[np.float64]], NDArray[np.uint8]]
    num_draws: int
    purpose: int


_STYLES = (
    Style(1, flagged, _NUM_FLAG_DRAWS, FLAGS),
    Style(4, straight, _NUM_FOUR_DRAWS, STROKES),
    Style(9, tailed, _NUM_TAIL_DRAWS, TAILS),
)


def num_redrawn(digits: Dataset, share: float) -> int:
    """How many images `add_styles` adds."""
    return sum(_number(digits, style, share) for style in _STYLES)


def add_styles(digits: Dataset, share: float, seed: int) -> Dataset:
    """The digits, and a share of the ones, fours and nines once more, set upright and redrawn.

    Args:
        digits: N images.
        share: 0 to 1, of each of these digits.
        seed: 0 to 2**63 - 1; says which are redrawn, and how.
    """
    added = [_redrawn(digits, style, share, seed) for style in _STYLES]
    return Dataset(
        np.concatenate([digits.images, *(each.images for each in added)]),
        np.concatenate([digits.labels, *(each.labels for each in added)]),
    )


def _redrawn(digits: Dataset, style: Style, share: float, seed: int) -> Dataset:
    places = np.flatnonzero(digits.labels == style.digit)
    draws = _draws(stream(seed, style.purpose), len(places), 1 + style.num_draws)
    chosen = np.sort(np.argsort(draws[:, 0])[: _number(digits, style, share)])
    redrawn = digits.take(places[chosen])
    upright = deslant(redrawn.images).reshape(-1, SIDE, SIDE)
    images = np.empty_like(redrawn.images)
    for place, (image, draw) in enumerate(zip(upright, draws[chosen, 1:], strict=True)):
        images[place] = style.redraw(image, draw).ravel()
    return Dataset(images, redrawn.labels)


def _number(digits: Dataset, style: Style, share: float) -> int:
    return round(share * int((digits.labels == style.digit).sum()))


def _draws(generator: Philox, num_images: int, num_draws: int) -> NDArray[np.float64]:
    raw = generator.random_raw(num_images * num_draws)
    draws = np.asarray((raw >> np.uint64(11)) * 2.0**-53, np.float64)
    return draws.reshape(num_images, num_draws)
