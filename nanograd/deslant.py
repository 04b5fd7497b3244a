"""Digits set upright and centred, whichever way their writer leans."""

import numpy as np
from numpy.typing import NDArray

from nanograd.resample import SIDE, resample

# Images at once: the working arrays of more fall out of cache.
_BLOCK = 64
_MIDDLE = 14
# No writer leans more than this many pixels a row; a short dash across could seem to.
_MOST_SLANT = 1.0

_ROW, _COLUMN = (axis.reshape(-1) for axis in np.mgrid[:SIDE, :SIDE])
# 1, x, y, xy, y^2 of every pixel
_MONOMIALS = np.stack(
    [np.ones_like(_ROW), _COLUMN, _ROW, _COLUMN * _ROW, _ROW * _ROW], axis=1
).astype(np.float64)


def deslant(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shear each image until its ink leans neither way, and move its centre of mass to (14, 14).

    slant = sum p (x - mx) (y - my) / sum p (y - my)^2, over the pixels p with centre (mx, my)

    The sums are whole numbers, so an image comes out the same alone and among others.

    Args:
        images: (B, 784) uint8, ink 255 on 0.

    Returns:
        (B, 784) uint8; a blank image stays blank.

    References:
        LeCun, Bottou, Bengio & Haffner (1998), "Gradient-based learning applied to document
        recognition", section III.A (deslanting by second moments of inertia).
    """
    upright = np.empty_like(images)
    for start in range(0, len(images), _BLOCK):
        block = slice(start, start + _BLOCK)
        upright[block] = np.rint(resample(images[block], _sources(images[block])))
    return upright


def _sources(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(2, B, 784): where the pixels of the upright images come from."""
    mass, sum_x, sum_y, sum_xy, sum_yy = (images.astype(np.float64) @ _MONOMIALS).T[:, :, None]
    mass = np.maximum(mass, 1)
    mean_x, mean_y = sum_x / mass, sum_y / mass
    spread = sum_yy - sum_y * mean_y
    covariance = sum_xy - sum_x * mean_y
    # Ink in a single row has no slant; what rounding leaves of its spread is far below 1.
    slant = np.clip(covariance / np.maximum(spread, 1), -_MOST_SLANT, _MOST_SLANT)
    down = _ROW - _MIDDLE
    x = mean_x + (_COLUMN - _MIDDLE) + slant * down
    return np.stack([x, mean_y + down]).astype(np.float32)
