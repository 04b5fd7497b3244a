"""Strokes drawn into an image, and the image put back where MNIST has it."""

import numpy as np
from numpy.typing import NDArray

from nanograd.data.form import centre
from nanograd.resample import SIDE

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
