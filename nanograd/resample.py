"""Images looked up at other places: the one interpolation of this program."""

import numpy as np
from numpy.typing import NDArray

SIDE = 28

# Zeros around an image: one row and column before it, and behind it as many as make rows of 32.
_ROW = 32
_INSIDE = slice(1, 1 + SIDE)


def resample(
    images: NDArray[np.uint8] | NDArray[np.float32], places: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What each image shows at the given places: bilinear, zero outside.

    The four pixels around (x, y) are weighed by their nearness; at a whole x and y the pixel's own
    value comes out, bit for bit.

    Args:
        images: (B, 784) uint8 or float32.
        places: (2, B, 784) float32, in pixels: for each pixel of the result the column x and the
            row y of its source, counted from the middle of the first pixel.

    Returns:
        (B, 784) float32, on the scale of the images.
    """
    pixels = _padded(images).reshape(-1)
    fraction = np.clip(places, -1, SIDE)
    fraction += 1
    whole = np.floor(fraction)
    fraction -= whole
    x, y = fraction
    index = (whole[1] * _ROW + whole[0]).astype(np.intp)
    index += _ROW * _ROW * np.arange(len(images))[:, None]
    # One index for all four neighbours, each in a view of its own. The places are clipped, so no
    # index is out of bounds; "clip" only spares the check.
    far = _ROW + 1
    left_above, above, left, beside = (
        pixels[start : len(pixels) - far + start].take(index, mode="clip")
        for start in (0, 1, _ROW, far)
    )
    return _between(_between(left_above, above, x), _between(left, beside, x), y)


def _between(
    here: NDArray[np.float32], there: NDArray[np.float32], share: NDArray[np.float32]
) -> NDArray[np.float32]:
    # here + share (there - here), in place of `there`: with share 0 the bits of `here`.
    there -= here
    there *= share
    there += here
    return there


def _padded(images: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
    padded = np.zeros((len(images), _ROW, _ROW), np.float32)
    padded[:, _INSIDE, _INSIDE] = images.reshape(-1, SIDE, SIDE)
    return padded
