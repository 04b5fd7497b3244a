"""Ones with a flag, some with a foot, as they are written in much of the world.

MNIST's ones are bare strokes, as the United States write them; a net that has seen no others takes
a one with a flag for a 7 or a 4.
"""

import numpy as np
from numpy.typing import NDArray

from nanograd.data.styles.pen import LEAST_HEIGHT, Floats, between, centred, column, line

# The flag's length as a share of the one's height, its pen as a share of the stem's.
_LENGTH, _PEN = (0.2, 0.55), (0.8, 1.1)
# How far below the stem's end it begins, as a share of the height; half of them begin at the end.
_DROP = (-0.3, 0.3)
# Degrees between flag and stem: with less they merge; at the end of the stem, though not below it,
# a flag at more than the second is the bar of a 7.
_ANGLE, _LEVEL = (25.0, 65.0), 90.0
# How many of them have a foot, and how far it reaches to either side, as a share of the height.
_FOOTED, _REACH = 0.3, (0.1, 0.4)
NUM_DRAWS = 7


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
    length, pen = between(_LENGTH, draw[0]), stem * between(_PEN, draw[2])
    drop = max(0.0, between(_DROP, draw[6]))
    steepest, flattest = _ANGLE[0], between((_ANGLE[1], _LEVEL), drop / _DROP[1])
    angle = np.radians(between((steepest, flattest), draw[1]))
    head = np.array([column(one[top : top + 2]), top + (stem - 1) / 2 + drop * height])
    flag = np.array([-np.sin(angle), np.cos(angle)]) * height * length
    ink = np.maximum(one / 255, line(head, head + flag, pen))
    if draw[3] < _FOOTED:
        heel = np.array([column(one[bottom - 1 : bottom + 1]), bottom - (stem - 1) / 2])
        left, right = (between(_REACH, each) * height * np.array([1, 0]) for each in draw[4:6])
        ink = np.maximum(ink, line(heel - left, heel + right, pen))
    return centred(ink)
