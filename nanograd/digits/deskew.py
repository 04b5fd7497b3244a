"""Deskewing: shear digits until they are upright, and centre them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanograd.data.dataset import SIDE
from nanograd.digits.resample import PIECE, resample, resample_rows

# Images at once: the working arrays of more fall out of cache.
_BLOCK = 128
_CENTRE = 14
# Pixels a row. No handwriting is slanted more; a short horizontal dash could seem to be.
MAX_SLANT = 1.0
# A "1" has next to no width: widened by half its flag, it would have the width of a 7
# (docs/accuracy.md).
MAX_STRETCH = 1.2

_FROM_CENTRE = np.arange(SIDE) - _CENTRE
_PIECE_FROM_CENTRE = np.arange(PIECE) - _CENTRE
_ROW, _COLUMN = (axis.reshape(-1) for axis in np.mgrid[:SIDE, :SIDE])
# 1, x, y, xx, xy, yy of every pixel
MONOMIALS = np.stack(
    [np.ones_like(_ROW), _COLUMN, _ROW, _COLUMN * _COLUMN, _COLUMN * _ROW, _ROW * _ROW], axis=1
).astype(np.float64)

Values = NDArray[np.float64]


class Size(NamedTuple):
    """Size to which deskewed digits are scaled, by a factor of at most MAX_STRETCH."""

    width: float = 0.0  # standard deviation of the ink in x, in pixels; 0 keeps the width
    height: float = 0.0  # the same in y


UNCHANGED = Size()


def deskew(images: NDArray[np.uint8], size: Size = UNCHANGED) -> NDArray[np.uint8]:
    """Shear each image until its slant is 0, and move its centre of mass to (14, 14).

    slant = sum p (x - mx) (y - my) / sum p (y - my)^2, over the pixels p with centre (mx, my)

    Args:
        images: (B, 784) uint8, ink 255 on 0.
        size: size of the result.

    Returns:
        (B, 784) uint8; a blank image stays blank.

    References:
        LeCun, Bottou, Bengio & Haffner (1998), "Gradient-based learning applied to document
        recognition", section III.A (deslanting by second moments of inertia);
        Meier, Ciresan, Gambardella & Schmidhuber (2011), "Better digit recognition with a
        committee of simple neural nets", section 2 (nets that see digits of different widths).
    """
    deskewed = np.empty_like(images)
    for start in range(0, len(images), _BLOCK):
        block = slice(start, start + _BLOCK)
        if size == UNCHANGED:
            deskewed[block] = np.rint(_deskew_rows(images[block]))
        else:
            coordinates = deskewed_coordinates(images[block], size)
            deskewed[block] = np.rint(resample(images[block], coordinates))
    return deskewed


def _deskew_rows(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Resample at `deskewed_coordinates`, bit for bit, in three quarters of the time."""
    mean_x, mean_y, slant, *_ = _measure(images)
    x = np.empty((len(images), SIDE, PIECE), np.float32)
    across, along = (mean_x + _PIECE_FROM_CENTRE)[:, None], (slant * _FROM_CENTRE)[:, :, None]
    np.add(across, along, out=x, casting="same_kind")
    return resample_rows(images, x, (mean_y + _FROM_CENTRE).astype(np.float32))


def deskewed_coordinates(
    images: NDArray[np.uint8] | NDArray[np.float32], size: Size = UNCHANGED
) -> NDArray[np.float32]:
    """Return the coordinates, (2, B, 784) float32, at which `resample` deskews the images."""
    mean_x, mean_y, slant, deviation_x, deviation_y = _measure(images)
    beside = _scaled_distances(deviation_x, size.width)
    down = _scaled_distances(deviation_y, size.height)
    coordinates = np.empty((2, len(images), SIDE, SIDE), np.float32)
    across, along = (mean_x + beside)[:, None, :], (slant * down)[:, :, None]
    np.add(across, along, out=coordinates[0], casting="same_kind")
    coordinates[1] = (mean_y + down)[:, :, None]
    return coordinates.reshape(2, len(images), SIDE * SIDE)


def _scaled_distances(deviation: Values, target: float) -> Values | NDArray[np.int64]:
    """Distances from the centre, in the source, of the result's 28 rows or columns."""
    if not target:
        return _FROM_CENTRE
    return _FROM_CENTRE * np.clip(deviation / target, 1 / MAX_STRETCH, MAX_STRETCH)


def _measure(
    images: NDArray[np.uint8] | NDArray[np.float32],
) -> tuple[Values, Values, Values, Values, Values]:
    """Centre (x, y), slant and, of the deskewed ink, standard deviation (x, y); (B, 1) each."""
    # Of bytes these sums are whole numbers below 2^53: an image is deskewed to the same bits alone
    # and among others.
    mass, sum_x, sum_y, sum_xx, sum_xy, sum_yy = (images.astype(np.float64) @ MONOMIALS).T[
        ..., None
    ]
    mass = np.maximum(mass, 1)
    mean_x, mean_y = sum_x / mass, sum_y / mass
    spread = sum_yy - sum_y * mean_y
    covariance = sum_xy - sum_x * mean_y
    # Ink in a single row has no slant; what rounding leaves of its spread is far below 1.
    slant = np.clip(covariance / np.maximum(spread, 1), -MAX_SLANT, MAX_SLANT)
    # The shear removes the part of the variance that is correlated with y.
    variance = np.maximum(sum_xx - sum_x * mean_x - slant * covariance, 0) / mass
    return mean_x, mean_y, slant, np.sqrt(variance), np.sqrt(np.maximum(spread, 0) / mass)
