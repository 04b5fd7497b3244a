"""Ones with a flag, as they are written in much of the world.

MNIST's ones are bare strokes, as the United States write them; a net that has seen no others takes
a one with a flag for a 7 or a 4. So some of the training images get flags.
"""

import numpy as np
from numpy.typing import NDArray

from nanograd.data.dataset import Dataset
from nanograd.data.form import centre
from nanograd.deslant import deslant
from nanograd.randomness import FLAGS, stream
from nanograd.resample import SIDE

Floats = NDArray[np.float64]

# The flag's length as a share of the one's height, its pen as a share of the stem's.
_LENGTH, _PEN = (0.2, 0.45), (0.8, 1.1)
# Degrees between flag and stem: with less they merge, with more the flag is the bar of a 7. From 25
# to 55 degrees, sevens among 10,000 held-out images were misread 11.7 times instead of 7.3, so 8.3.
_ANGLE = (20.0, 45.0)
_NUM_DRAWS = 3

_Y, _X = np.mgrid[:SIDE, :SIDE]


def add_flags(digits: Dataset, share: float, seed: int) -> Dataset:
    """The same digits, a share of the ones set upright and given a flag.

    Args:
        digits: N images.
        share: 0 to 1, the probability that a one is chosen.
        seed: 0 to 2**63 - 1.
    """
    ones = np.flatnonzero(digits.labels == 1)
    raw = stream(seed, FLAGS).random_raw(len(ones) * (1 + _NUM_DRAWS))
    draws = (raw >> np.uint64(11)).reshape(len(ones), -1) * 2.0**-53
    chosen = draws[:, 0] < share
    images = digits.images.copy()
    for place, upright, draw in zip(
        ones[chosen], deslant(images[ones[chosen]]), draws[chosen, 1:], strict=True
    ):
        images[place] = flagged(upright.reshape(SIDE, SIDE), draw).ravel()
    return Dataset(images, digits.labels)


def flagged(one: NDArray[np.uint8], draw: Floats) -> NDArray[np.uint8]:
    """A one with a flag that hangs to the left of its upper end.

    Args:
        one: (28, 28) uint8, ink 255 on 0, upright.
        draw: (3,) in [0, 1): of length, angle and pen.

    Returns:
        (28, 28) uint8, its centre of mass in the middle; the same image if it is blank.
    """
    rows = np.flatnonzero((one > 127).any(axis=1))
    if not len(rows):
        return one
    top, height = rows[0], rows[-1] - rows[0] + 1
    stem = one.sum() / 255 / height
    length, angle, pen = (
        least + (most - least) * each
        for (least, most), each in zip((_LENGTH, _ANGLE, _PEN), draw, strict=True)
    )
    end = one[top : top + 2].sum(axis=0, dtype=np.float64)
    start = float(end @ np.arange(SIDE) / end.sum()), float(top + (stem - 1) / 2)
    along = np.array([-np.sin(np.radians(angle)), np.cos(np.radians(angle))]) * height * length
    ink = np.maximum(one / 255, _line(start, along, stem * pen))
    return _centred(np.round(255 * ink).astype(np.uint8))


def _line(start: tuple[float, float], along: Floats, pen: float) -> Floats:
    """(28, 28): a straight stroke of a round pen, from a point, so far to the right and down."""
    x, y = _X - start[0], _Y - start[1]
    share = np.clip((x * along[0] + y * along[1]) / (along @ along), 0, 1)
    distance = np.hypot(x - share * along[0], y - share * along[1])
    line: Floats = np.clip(pen / 2 + 0.5 - distance, 0, 1)
    return line


def _centred(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    return centre(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
