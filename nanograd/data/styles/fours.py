"""Fours of three straight strokes, as they are written in much of the world.

MNIST's fours are open at the top and reach far below their bar; a net that has seen no others takes
a closed one for a 9, and one that ends at its bar for a 6.
"""

import numpy as np
from numpy.typing import NDArray

from nanograd.data.styles.pen import Floats, between, centred, line
from nanograd.resample import SIDE

# As shares of the four's height: from the bar's left end to the stem; from the top to the bar; how
# far the bar reaches beyond the stem, and how far the stem leans.
_WIDTH, _PLACE, _BEYOND, _LEAN = (0.4, 0.8), (0.45, 0.9), (0.0, 0.3), (-0.15, 0.15)
# Where the stem begins, as a share of the way to the bar; half of the stems begin at the top, where
# the stroke to the bar does. Where that begins otherwise, as a share of the width.
_DROP, _TIP = (-0.6, 0.6), (0.5, 1.0)
# Pixels
_PEN = (1.5, 4.0)
_LIMITS = (_WIDTH, _PLACE, _BEYOND, _LEAN, _DROP, _TIP, _PEN)
# The longest side of MNIST's digits
_LONGEST = 20

NUM_DRAWS = len(_LIMITS)


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
        between(limits, each) for limits, each in zip(_LIMITS, draw, strict=True)
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
