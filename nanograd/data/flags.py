"""Ones with a flag, some with a foot, as they are written in much of the world.

MNIST's ones are bare strokes, as the United States write them; a net that has seen no others takes
a one with a flag for a 7 or a 4.
"""

import numpy as np
from numpy.typing import NDArray

from nanograd.data.form import centre
from nanograd.resample import SIDE

Floats = NDArray[np.float64]

# The flag's length as a share of the one's height, its pen as a share of the stem's.
_LENGTH, _PEN = (0.2, 0.55), (0.8, 1.1)
# Degrees between flag and stem: with less they merge, with more the flag is the bar of a 7.
_ANGLE = (25.0, 65.0)
# How many of them have a foot, and how far it reaches to either side, as a share of the height.
_FOOTED, _REACH = 0.3, (0.1, 0.4)
NUM_DRAWS = 6

_Y, _X = np.mgrid[:SIDE, :SIDE]


def flagged(one: NDArray[np.uint8], draw: Floats) -> NDArray[np.uint8]:
    """A one with a flag that hangs to the left of its upper end, and perhaps a foot below.

    Args:
        one: (28, 28) uint8, ink 255 on 0, upright.
        draw: (6,) in [0, 1): of the flag's length, angle and pen; of whether there is a foot, and
            its reach to the left and to the right.

    Returns:
        (28, 28) uint8, its centre of mass in the middle; the same image if it is blank.
    """
    rows = np.flatnonzero((one > 127).any(axis=1))
    if not len(rows):
        return one
    top, bottom = rows[0], rows[-1]
    height = bottom - top + 1
    stem = one.sum() / 255 / height
    length, pen = _between(_LENGTH, draw[0]), stem * _between(_PEN, draw[2])
    angle = np.radians(_between(_ANGLE, draw[1]))
    head = np.array([_column(one[top : top + 2]), top + (stem - 1) / 2])
    flag = np.array([-np.sin(angle), np.cos(angle)]) * height * length
    ink = np.maximum(one / 255, _line(head, head + flag, pen))
    if draw[3] < _FOOTED:
        heel = np.array([_column(one[bottom - 1 : bottom + 1]), bottom - (stem - 1) / 2])
        left, right = (_between(_REACH, each) * height * np.array([1, 0]) for each in draw[4:])
        ink = np.maximum(ink, _line(heel - left, heel + right, pen))
    return _centred(np.round(255 * ink).astype(np.uint8))


def _between(limits: tuple[float, float], draw: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * draw


def _column(rows: NDArray[np.uint8]) -> float:
    """Where the ink of some rows is, in the mean."""
    ink = rows.sum(axis=0, dtype=np.float64)
    return float(ink @ np.arange(SIDE) / ink.sum())


def _line(start: Floats, end: Floats, pen: float) -> Floats:
    """(28, 28): a straight stroke of a round pen between two points (column, row)."""
    along = end - start
    x, y = _X - start[0], _Y - start[1]
    share = np.clip((x * along[0] + y * along[1]) / (along @ along), 0, 1)
    distance = np.hypot(x - share * along[0], y - share * along[1])
    line: Floats = np.clip(pen / 2 + 0.5 - distance, 0, 1)
    return line


def _centred(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    return centre(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
