"""Digits set upright and centred, whichever way their writer leans."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanograd.digits.resample import PIECE, SIDE, resample, resample_rows

# Images at once: the working arrays of more fall out of cache.
_BLOCK = 128
_MIDDLE = 14
# No writer leans more than this many pixels a row; a short dash across could seem to.
MOST_SLANT = 1.0
# Nor are digits stretched or squeezed by more than this factor: a "1" has next to no width, and
# widened by half its flag would be that of a 7 (docs/accuracy.md).
MOST_STRETCH = 1.2

_FROM_MIDDLE = np.arange(SIDE) - _MIDDLE
_BESIDE = np.arange(PIECE) - _MIDDLE
# 1, x, xx of a pixel in its row; 1, y, yy of a row
_POWERS = np.arange(SIDE)[:, None] ** np.arange(3)

_ROW, _COLUMN = (axis.reshape(-1) for axis in np.mgrid[:SIDE, :SIDE])
# 1, x, y, xx, xy, yy of every pixel
MONOMIALS = np.stack(
    [np.ones_like(_ROW), _COLUMN, _ROW, _COLUMN * _COLUMN, _COLUMN * _ROW, _ROW * _ROW], axis=1
).astype(np.float64)

Sums = NDArray[np.float64]


class Size(NamedTuple):
    """How large digits become when they are set upright.

    Args:
        width: standard deviation of the ink in x, in pixels, that digits are stretched or squeezed
            to, as far as a factor of 1.2 goes; 0 leaves them as wide as they are.
        height: the same in y.
    """

    width: float = 0.0
    height: float = 0.0


AS_THEY_ARE = Size()


def deslant(images: NDArray[np.uint8], size: Size = AS_THEY_ARE) -> NDArray[np.uint8]:
    """Shear each image until its ink leans neither way, and move its centre of mass to (14, 14).

    slant = sum p (x - mx) (y - my) / sum p (y - my)^2, over the pixels p with centre (mx, my)

    The sums are whole numbers, so an image comes out the same alone and among others.

    Args:
        images: (B, 784) uint8, ink 255 on 0.
        size: how large they become.

    Returns:
        (B, 784) uint8; a blank image stays blank.

    References:
        LeCun, Bottou, Bengio & Haffner (1998), "Gradient-based learning applied to document
        recognition", section III.A (deslanting by second moments of inertia);
        Meier, Ciresan, Gambardella & Schmidhuber (2011), "Better digit recognition with a
        committee of simple neural nets", section 2 (nets that see digits of different widths).
    """
    upright = np.empty_like(images)
    for start in range(0, len(images), _BLOCK):
        block = slice(start, start + _BLOCK)
        upright[block] = np.rint(_upright(images[block], size))
    return upright


def _upright(images: NDArray[np.uint8], size: Size) -> NDArray[np.float32]:
    if size != AS_THEY_ARE:
        return resample(images, upright_places(images, size))
    mean_x, mean_y, slant, *_ = _lean(_whole_sums(images))
    x = np.empty((len(images), SIDE, PIECE), np.float32)
    np.add(
        (mean_x + _BESIDE)[:, None], (slant * _FROM_MIDDLE)[:, :, None], out=x, casting="same_kind"
    )
    return resample_rows(images, x, (mean_y + _FROM_MIDDLE).astype(np.float32))


def upright_places(
    images: NDArray[np.uint8] | NDArray[np.float32], size: Size = AS_THEY_ARE
) -> NDArray[np.float32]:
    """Where the pixels of the upright images come from.

    Args:
        images: (B, 784) uint8 or float32, ink 255 on 0.
        size: how large they become.

    Returns:
        (2, B, 784) float32: column and row, counted from the middle of the first pixel.
    """
    sums = (images.astype(np.float64) @ MONOMIALS).T[:, :, None]
    mean_x, mean_y, slant, deviation_x, deviation_y = _lean(sums)
    beside = _stretched(deviation_x, size.width)
    down = _stretched(deviation_y, size.height)
    places = np.empty((2, len(images), SIDE, SIDE), np.float32)
    across, along = (mean_x + beside)[:, None, :], (slant * down)[:, :, None]
    np.add(across, along, out=places[0], casting="same_kind")
    places[1] = (mean_y + down)[:, :, None]
    return places.reshape(2, len(images), SIDE * SIDE)


def _stretched(deviation: Sums, to: float) -> Sums | NDArray[np.int64]:
    """How far from its middle a digit has what will be in each of the 28 rows or columns."""
    if not to:
        return _FROM_MIDDLE
    return _FROM_MIDDLE * np.clip(deviation / to, 1 / MOST_STRETCH, MOST_STRETCH)


def _lean(sums: Sums) -> tuple[Sums, Sums, Sums, Sums, Sums]:
    """Centre (x, y), slant and, of the ink set upright, standard deviation (x, y); (B, 1) each."""
    mass, sum_x, sum_y, sum_xx, sum_xy, sum_yy = sums
    mass = np.maximum(mass, 1)
    mean_x, mean_y = sum_x / mass, sum_y / mass
    spread = sum_yy - sum_y * mean_y
    covariance = sum_xy - sum_x * mean_y
    # Ink in a single row has no slant; what rounding leaves of its spread is far below 1.
    slant = np.clip(covariance / np.maximum(spread, 1), -MOST_SLANT, MOST_SLANT)
    # What the shear takes away is the part that goes with y.
    variance = np.maximum(sum_xx - sum_x * mean_x - slant * covariance, 0) / mass
    return mean_x, mean_y, slant, np.sqrt(variance), np.sqrt(np.maximum(spread, 0) / mass)


def _whole_sums(images: NDArray[np.uint8]) -> Sums:
    """The sums of p times 1, x, y, xx, xy, yy, row by row first: (6, B, 1) float64.

    They are whole numbers, of a row below 2^24 and together below 2^53, so nothing is rounded.
    """
    rows = images.reshape(-1, SIDE).astype(np.float32) @ _POWERS.astype(np.float32)
    by_row = rows.astype(np.float64).reshape(-1, SIDE, 3)
    plain, x, xx = (by_row[:, :, power] @ _POWERS.astype(np.float64) for power in range(3))
    sums = [plain[:, 0], x[:, 0], plain[:, 1], xx[:, 0], x[:, 1], plain[:, 2]]
    return np.stack(sums)[:, :, None]
