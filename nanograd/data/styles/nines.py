"""Nines with a tail that curls to the left, as they are written in much of the world.

The stem of MNIST's nines ends where it comes down; a net that has seen no others takes a nine with
a tail for a 3.
"""

import numpy as np
from numpy.typing import NDArray

from nanograd.data.styles.pen import LEAST_HEIGHT, Floats, between, centred, column, line

# The tail's reach to the left as a share of the nine's height, and how far its end rises of that.
_REACH, _RISE = (0.25, 0.65), (-0.1, 0.4)
NUM_DRAWS = 2


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
    reach = between(_REACH, draw[0]) * height
    end = np.array([column(nine[bottom - 1 : bottom + 1]), bottom - (pen - 1) / 2])
    bend = end - np.array([0.6 * reach, 0])
    tip = end - np.array([reach, between(_RISE, draw[1]) * reach])
    ink = np.maximum(line(end, bend, pen), line(bend, tip, pen))
    return centred(np.maximum(nine / 255, ink))
