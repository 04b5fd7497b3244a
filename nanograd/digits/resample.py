"""Bilinear resampling of images: the only interpolation in this package."""

import numpy as np
from numpy.typing import NDArray

from nanograd.data.dataset import SIDE

# An image is padded with zeros to ROW x ROW: one row and column before it, the rest after it.
ROW = 32
_INSIDE = slice(1, 1 + SIDE)

# `resample_rows` reads SIDE + 1 neighbouring pixels as one item, rounded up to a power of two.
PIECE = 32
_STEPS = np.arange(PIECE, dtype=np.float32)
# Zeros between two rows of an image, so that a piece may begin this far before or after one.
_BEFORE, _CANVAS_ROW = SIDE + 1, 64


def resample(
    images: NDArray[np.uint8] | NDArray[np.float32], coordinates: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Sample each image at the given coordinates: bilinear, zero outside.

    At a whole x and y the result is the pixel's own value, bit for bit.

    Args:
        images: (B, 784) uint8 or float32.
        coordinates: (2, B, 784) float32, pixels: column x and row y of the source of each pixel of
            the result, counted from the centre of the first pixel.

    Returns:
        (B, 784) float32, on the scale of the images.
    """
    padded = np.zeros((len(images), ROW, ROW), np.float32)
    padded[:, _INSIDE, _INSIDE] = images.reshape(-1, SIDE, SIDE)
    pixels = padded.reshape(-1)
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
    # One index for all four neighbours, each in its own view. The coordinates are clipped, so no
    # index is out of bounds; mode="clip" only skips numpy's check.
    far = ROW + 1
    left_above, above, left, beside = (
        pixels[start : len(pixels) - far + start].take(index, mode="clip")
        for start in (0, 1, ROW, far)
    )
    return _mix(_mix(left_above, above, x), _mix(left, beside, x), y)


def resample_rows(
    images: NDArray[np.uint8], x: NDArray[np.float32], y: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Sample as `resample` does, bit for bit, where each row of the result follows a source row.

    The pixels of a row are read together and share one vertical fraction, which is faster.

    Args:
        images: (B, 784) uint8.
        x: (B, 28, PIECE) float32, source columns, in steps of 1; the first 28 count.
        y: (B, 28) float32, source row of each row of the result.

    Returns:
        (B, 784) float32.
    """
    down = np.clip(y, -1, SIDE)
    down += 1
    row = np.floor(down)
    down -= row
    share = x + 1
    start = np.floor(share[:, :, 0])
    share -= start[:, :, None] + _STEPS
    # Rounding to float32 may carry one column over a whole number, and not its neighbours.
    if len(x) and not 0 <= share.min() <= share.max() < 1:
        rows = np.broadcast_to(y[:, :, None], (len(y), SIDE, SIDE))
        return resample(images, np.stack([x[:, :, :SIDE], rows]).reshape(2, -1, SIDE * SIDE))
    column = np.clip(start, -SIDE, SIDE + 1).astype(np.intp) + (_BEFORE - 1)
    index = (np.arange(len(x))[:, None] * ROW + row.astype(np.intp)) * _CANVAS_ROW + column
    canvas = np.zeros((len(images), ROW, _CANVAS_ROW), np.uint8)
    canvas[:, _INSIDE, _BEFORE : _BEFORE + SIDE] = images.reshape(-1, SIDE, SIDE)
    # A view of every run of PIECE pixels, by its start.
    pieces = np.ndarray((max(canvas.size - PIECE, 0),), f"V{PIECE}", canvas, strides=(1,))
    above, below = (
        _mix_along(pieces[at].view(np.uint8).astype(np.float32).reshape(-1), share.reshape(-1))
        for at in (index, index + _CANVAS_ROW)
    )
    result = _mix(above, below, np.repeat(down, PIECE))
    return result.reshape(-1, SIDE, PIECE)[:, :, :SIDE].reshape(-1, SIDE * SIDE)


def _mix_along(pixels: NDArray[np.float32], share: NDArray[np.float32]) -> NDArray[np.float32]:
    """Interpolate between each pixel and the next; the last one of a piece is not used."""
    step = np.zeros_like(pixels)
    np.subtract(pixels[1:], pixels[:-1], out=step[:-1])
    step *= share
    step += pixels
    return step


def _mix(
    first: NDArray[np.float32], second: NDArray[np.float32], share: NDArray[np.float32]
) -> NDArray[np.float32]:
    # first + share (second - first), in place of `second`: with share 0 the bits of `first`.
    second -= first
    second *= share
    second += first
    return second
