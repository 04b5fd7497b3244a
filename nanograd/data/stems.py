"""Fours whose stem ends at the bar or little below it, as they are written in much of the world.

MNIST's fours reach far below their bar; a net that has seen no others takes one that does not for
a 6 or a 9.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nanograd.data.form import centre
from nanograd.resample import SIDE

Floats = NDArray[np.float64]

NUM_DRAWS = 1

# Of the four's height: what is above the bar at least; how far the stem reaches below it at most.
_ABOVE, _BELOW = 0.35, 0.25
# A bar reaches across so much of the four, and ends in the first row with so much less ink.
_BAR, _EDGE = 0.45, 0.6
# The longest side of MNIST's digits
_LONGEST = 20


def shortened(four: NDArray[np.uint8], draw: Floats) -> NDArray[np.uint8]:
    """A four cut off below its bar, and as large as it was.

    Args:
        four: (28, 28) uint8, ink 255 on 0, upright.
        draw: (1,) in [0, 1): how much of the stem is left.

    Returns:
        (28, 28) uint8, its centre of mass in the middle; the same image if no bar or nothing below
        one is found.
    """
    ink = four > 127
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if not len(rows):
        return four
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    strength = four.sum(axis=1) / 255
    first = rows[0] + int(_ABOVE * height)
    bar = first + int(np.argmax(strength[first : rows[-1] + 1]))
    fainter = np.flatnonzero(strength[bar:] < _EDGE * strength[bar])
    edge = bar + (fainter[0] if len(fainter) else SIDE)
    if strength[bar] < _BAR * width or edge >= rows[-1] - 1:
        return four
    cut = four[: edge + int(draw[0] * _BELOW * height)]
    columns = np.flatnonzero(cut.any(axis=0))
    return _as_large(cut[rows[0] :, columns[0] : columns[-1] + 1])


def _as_large(digit: NDArray[np.uint8]) -> NDArray[np.uint8]:
    scale = _LONGEST / max(digit.shape)
    size = [max(1, round(side * scale)) for side in digit.shape[::-1]]
    return centre(np.asarray(Image.fromarray(digit).resize(size, Image.Resampling.BILINEAR)))
