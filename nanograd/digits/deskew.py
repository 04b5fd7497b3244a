"""Bilinear interpolation of images, and deskewing, which turns slanted digits upright."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanograd.digits.dataset import SIDE
from nanograd.runtime.arrays import Bytes, Doubles, Floats, Ints

# Images are padded with zeros to ROW x ROW: one row above, one column at the left, and three rows
# and columns below and at the right.
ROW = 32
_INSIDE = slice(1, 1 + SIDE)

# Numbers of images whose moments are computed together, that are deskewed together, and of rows
# that are interpolated together; for more, the working arrays do not fit into the cache.
_BLOCK, _BLOCK_IMAGES, _BLOCK_ROWS = 64, 512, 768
_CENTRE = 14
# Maximum slant in horizontal pixels per row. Handwriting is never more slanted, but the measured
# slant of a short dash can be larger.
MAX_SLANT = 1.0
# Maximum factor of scaling. A "1" has almost no width; with a larger factor, a "1" with a flag
# would become as wide as a "7" (docs/accuracy.md).
MAX_STRETCH = 1.2

_FROM_CENTRE = np.arange(SIDE) - _CENTRE
_ROW, _COLUMN = (axis.reshape(-1).astype(np.float64) for axis in np.mgrid[:SIDE, :SIDE])
# (784, 6): 1, x, y, xx, xy, yy of each pixel
MONOMIALS = np.stack(
    [np.ones_like(_ROW), _COLUMN, _ROW, _COLUMN * _COLUMN, _COLUMN * _ROW, _ROW * _ROW], axis=1
)


class Size(NamedTuple):
    """Target size of deskewed digits. They are scaled by a factor of at most MAX_STRETCH."""

    width: float = 0.0  # standard deviation of the ink along x, in pixels; 0 keeps the width
    height: float = 0.0  # standard deviation of the ink along y, in pixels; 0 keeps the height


UNCHANGED = Size()


def deskew(images: Bytes, size: Size = UNCHANGED) -> Bytes:
    """Shear each image until its slant is 0, and move its centre of mass to (14, 14).

    slant = sum p (x - mx) (y - my) / sum p (y - my)^2 over the pixels p, with centre (mx, my)

    The images are (B, 784) uint8, ink 255 on 0, as is the result, in which digits have this `size`.

    References:
        LeCun, Bottou, Bengio & Haffner (1998), "Gradient-based learning applied to document
        recognition", section III.A (deslanting by second moments of inertia);
        Meier, Ciresan, Gambardella & Schmidhuber (2011), "Better digit recognition with a
        committee of simple neural nets", section 2 (nets that see digits of different widths).
    """
    deskewed = np.empty_like(images)
    columns, shifts, y = _coordinates(images, size)
    for start in range(0, len(images), _BLOCK_IMAGES):
        block = slice(start, start + _BLOCK_IMAGES)
        rows = columns[block], shifts[block], y[block].astype(np.float32)
        deskewed[block] = resample_rows(images[block], *rows)
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
    # Of uint8 images, these sums are exact, so an image does not depend on the others of the batch.
    sums = np.empty((len(images), MONOMIALS.shape[1]))
    for start in range(0, len(images), _BLOCK):
        block = slice(start, start + _BLOCK)
        np.matmul(images[block].astype(np.float64), MONOMIALS, out=sums[block])
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


def resample(images: Bytes | Floats, coordinates: Floats) -> Floats:
    """Interpolate each image at the given coordinates; pixels outside the image are 0.

    `coordinates` has for each pixel of the result column x and row y in the (B, 784) images, in
    pixels from the centre of the first pixel, (2, B, 784) float32. If they are whole numbers, the
    result, (B, 784) float32, is exactly the value of that pixel.
    """
    pixels = _pad(images, np.float32)
    fraction = np.clip(coordinates, -1, SIDE)
    fraction += 1
    whole = np.floor(fraction)
    fraction -= whole
    x, y = fraction
    column, row = whole
    row *= ROW
    row += column
    index = row.astype(np.intp)
    index += ROW * ROW * np.arange(len(images))[:, None]
    return _interpolate(pixels, index, x, y)


def resample_rows(images: Bytes, columns: Doubles, shifts: Doubles, y: Floats) -> Bytes:
    """Interpolate images at x = columns + shifts, with one y for each row; round the result.

    The result has the same bits as with `resample`, but takes less time, because rows without ink
    are left out.

    Args:
        images: (B, 784) uint8.
        columns: (B, 28) float64, source column of each column of the result.
        shifts: (B, 28) float64, added to the source columns of each row of the result.
        y: (B, 28) float32, source row of each row of the result.

    Returns:
        (B, 784) uint8.
    """
    pixels = _pad(images, np.uint8)
    ink = np.bitwise_or.reduce(pixels.view(np.uint64).reshape(-1, ROW // 8), axis=1)
    ink[:-1] |= ink[1:]
    down = np.clip(y, -1, SIDE)
    down += 1
    row = np.floor(down)
    down -= row
    source = row.astype(np.intp)
    source += ROW * np.arange(len(images))[:, None]
    inked = np.flatnonzero(ink.take(source))
    rows = np.zeros((SIDE * len(images), SIDE), np.uint8)
    for start in range(0, len(inked), _BLOCK_ROWS):
        some = inked[start : start + _BLOCK_ROWS]
        x = columns.take(some // SIDE, axis=0)
        x += shifts.take(some)[:, None]
        share = x.astype(np.float32)
        share += 1
        share = np.clip(share, 0, SIDE + 1)
        whole = np.floor(share)
        share -= whole
        index = whole.astype(np.intp)
        index += ROW * source.take(some)[:, None]
        rows[some] = np.rint(_interpolate(pixels, index, share, down.take(some)[:, None]))
    return rows.reshape(-1, SIDE * SIDE)


def _pad(images: Bytes | Floats, dtype: type) -> NDArray[Any]:
    """Return the pixels of the padded images, one image after the other."""
    padded: NDArray[Any] = np.zeros((len(images), ROW, ROW), dtype)
    padded[:, _INSIDE, _INSIDE] = images.reshape(-1, SIDE, SIDE)
    return padded.reshape(-1)


def _interpolate(pixels: NDArray[Any], index: Ints, x: Floats, y: Floats) -> Floats:
    """Mix pixels with their right neighbours by the share x, and these with those below by y."""
    # One index finds all four neighbours, in four views with different starts. The index is always
    # in bounds, because coordinates are clipped; mode="clip" only avoids numpy's slower check.
    left_above, above, left, beside = (
        pixels[start:].take(index, mode="clip").astype(np.float32, copy=False)
        for start in (0, 1, ROW, ROW + 1)
    )
    above, below = _mix(left_above, above, x, above), _mix(left, beside, x, beside)
    return _mix(above, below, y, below)


def _mix(first: Floats, second: Floats, share: Floats, out: Floats | None = None) -> Floats:
    # first + share (second - first). With share 0 it is exactly `first`.
    mixed = np.subtract(second, first, out=out)
    mixed *= share
    mixed += first
    return mixed
