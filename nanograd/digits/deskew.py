"""Deskewing: turn slanted digits upright, and centre them."""

from typing import NamedTuple

import numpy as np

from nanograd.digits.dataset import SIDE
from nanograd.digits.resample import resample_rows
from nanograd.runtime.arrays import Bytes, Doubles, Floats, Ints

# Number of images to deskew together; for more, the working arrays do not fit into the cache.
_BLOCK = 48
_CENTRE = 14
# Maximum slant in horizontal pixels per row. Handwriting is never more slanted, but the measured
# slant of a short dash can be larger.
MAX_SLANT = 1.0
# Maximum factor of scaling. A "1" has almost no width; with a larger factor, a "1" with a flag
# would become as wide as a "7" (docs/accuracy.md).
MAX_STRETCH = 1.2

_FROM_CENTRE = np.arange(SIDE) - _CENTRE
_ROW, _COLUMN = (axis.reshape(-1) for axis in np.mgrid[:SIDE, :SIDE])


def _monomials(x: Ints, y: Ints) -> Ints:
    """Return 1, x, y, xx, xy, yy of each pixel, (784, 6)."""
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


MONOMIALS = _monomials(_COLUMN, _ROW).astype(np.float64)
_CENTRED = _monomials(_COLUMN - _CENTRE, _ROW - _CENTRE).astype(np.float32)
# (6, 6) whole numbers: MONOMIALS = _CENTRED @ _MOVED
_MOVED = np.rint(np.linalg.pinv(_CENTRED.astype(np.float64)) @ MONOMIALS)


class Size(NamedTuple):
    """Target size of deskewed digits. They are scaled by a factor of at most MAX_STRETCH."""

    width: float = 0.0  # standard deviation of the ink along x, in pixels; 0 keeps the width
    height: float = 0.0  # standard deviation of the ink along y, in pixels; 0 keeps the height


UNCHANGED = Size()


def deskew(images: Bytes, size: Size = UNCHANGED) -> Bytes:
    """Shear each image until its slant is 0, and move its centre of mass to (14, 14).

    slant = sum p (x - mx) (y - my) / sum p (y - my)^2 over the pixels p, with centre (mx, my)

    Args:
        images: (B, 784) uint8, ink 255 on 0.
        size: width and height to which digits are scaled; by default they keep their size.

    Returns:
        (B, 784) uint8; a blank image stays blank.

    References:
        LeCun, Bottou, Bengio & Haffner (1998), "Gradient-based learning applied to document
        recognition", section III.A (deslanting by second moments of inertia);
        Meier, Ciresan, Gambardella & Schmidhuber (2011), "Better digit recognition with a
        committee of simple neural nets", section 2 (nets that see digits of different widths).
    """
    deskewed = np.empty_like(images)
    columns, shifts, y = _coordinates(images, size)
    for start in range(0, len(images), _BLOCK):
        block = slice(start, start + _BLOCK)
        rows = columns[block], shifts[block], y[block].astype(np.float32)
        deskewed[block] = resample_rows(images[block], *rows, unit_steps=not size.width)
    return deskewed


def deskewed_coordinates(images: Bytes | Floats, size: Size = UNCHANGED) -> Floats:
    """Compute the coordinates, (2, B, 784) float32, at which `resample` deskews the images."""
    columns, shifts, y = _coordinates(images, size)
    coordinates = np.empty((2, len(images), SIDE, SIDE), np.float32)
    np.add(columns[:, None, :], shifts[:, :, None], out=coordinates[0], casting="same_kind")
    coordinates[1] = y[:, :, None]
    return coordinates.reshape(2, len(images), SIDE * SIDE)


def _coordinates(images: Bytes | Floats, size: Size) -> tuple[Doubles, Doubles, Doubles]:
    """Return x of each column, what a row adds to it, and y of each row, as (B, 28) each."""
    mean_x, mean_y, slant, deviation_x, deviation_y = _measure(images)
    down = _scaled_distances(deviation_y, size.height)
    return mean_x + _scaled_distances(deviation_x, size.width), slant * down, mean_y + down


def _scaled_distances(deviation: Doubles, target: float) -> Doubles | Ints:
    """Return for each column or row of the result its distance from the centre in the source."""
    if not target:
        return _FROM_CENTRE
    return _FROM_CENTRE * np.clip(deviation / target, 1 / MAX_STRETCH, MAX_STRETCH)


def _measure(images: Bytes | Floats) -> tuple[Doubles, Doubles, Doubles, Doubles, Doubles]:
    """Measure centre x and y, slant, and deviation x (without slant) and y, as (B, 1) each."""
    if images.dtype == np.uint8:
        # These sums are exact, so an image does not depend on the others of the batch: from the
        # centre, all partial sums are whole numbers below 2^24. float32 takes half of the time.
        centred = np.empty((len(images), len(_MOVED)), np.float32)
        for start in range(0, len(images), _BLOCK):
            block = slice(start, start + _BLOCK)
            np.matmul(images[block].astype(np.float32), _CENTRED, out=centred[block])
        sums = centred.astype(np.float64) @ _MOVED
    else:
        sums = images.astype(np.float64) @ MONOMIALS
    mass, sum_x, sum_y, sum_xx, sum_xy, sum_yy = sums.T[..., None]
    mass = np.maximum(mass, 1)
    mean_x, mean_y = sum_x / mass, sum_y / mass
    spread = sum_yy - sum_y * mean_y
    covariance = sum_xy - sum_x * mean_y
    # If all ink is in one row, `spread` is 0 or a rounding error far below 1, and slant is 0.
    slant = np.clip(covariance / np.maximum(spread, 1), -MAX_SLANT, MAX_SLANT)
    # Shearing removes the part of the variance that is correlated with y.
    variance = np.maximum(sum_xx - sum_x * mean_x - slant * covariance, 0) / mass
    return mean_x, mean_y, slant, np.sqrt(variance), np.sqrt(np.maximum(spread, 0) / mass)
