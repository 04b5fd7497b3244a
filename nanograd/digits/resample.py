"""Bilinear interpolation of images."""

import numpy as np

from nanograd.digits.dataset import SIDE
from nanograd.runtime.arrays import Bytes, Floats

# Images are padded with zeros to ROW x ROW: one row above, one column at the left, and three rows
# and columns below and at the right.
ROW = 32
_INSIDE = slice(1, 1 + SIDE)

# `resample_rows` needs SIDE + 1 neighbouring pixels of a row. It reads PIECE pixels at a time, the
# next power of two.
PIECE = 32
_STEPS = np.arange(PIECE, dtype=np.float32)
# In `resample_rows`, each row is padded with `_BEFORE` zeros before it and zeros after it to
# `_CANVAS_ROW` pixels, because a piece may begin outside the image.
_BEFORE, _CANVAS_ROW = SIDE + 1, 64


def resample(images: Bytes | Floats, coordinates: Floats) -> Floats:
    """Interpolate each image at the given coordinates; pixels outside the image are 0.

    If x and y are whole numbers, the result is exactly the value of that pixel.

    Args:
        images: (B, 784) uint8 or float32.
        coordinates: (2, B, 784) float32, column x and row y in the source for each pixel of the
            result, in pixels from the centre of the first pixel.

    Returns:
        (B, 784) float32, in the scale of the images.
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
    # One index finds all four neighbours, in four views with different starts. The index is always
    # in bounds, because coordinates are clipped; mode="clip" only avoids numpy's slower check.
    far = ROW + 1
    left_above, above, left, beside = (
        pixels[start : len(pixels) - far + start].take(index, mode="clip")
        for start in (0, 1, ROW, far)
    )
    return _mix(_mix(left_above, above, x), _mix(left, beside, x), y)


def resample_rows(images: Bytes, x: Floats, y: Floats) -> Floats:
    """Interpolate as `resample` does, with the same bits, if y is constant in a row of the result.

    This is faster, because the pixels of a row are read at once and share one vertical fraction.

    Args:
        images: (B, 784) uint8.
        x: (B, 28, PIECE) float32, source columns in steps of 1; only the first 28 are used.
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
    # In rare cases, rounding to float32 moves only some of the columns past a whole number.
    if len(x) and not 0 <= share.min() <= share.max() < 1:
        coordinates = [x[:, :, :SIDE], np.broadcast_to(y[:, :, None], (len(y), SIDE, SIDE))]
        return resample(images, np.stack(coordinates).reshape(2, -1, SIDE * SIDE))
    column = np.clip(start, -SIDE, SIDE + 1).astype(np.intp) + (_BEFORE - 1)
    index = (np.arange(len(x))[:, None] * ROW + row.astype(np.intp)) * _CANVAS_ROW + column
    canvas = np.zeros((len(images), ROW, _CANVAS_ROW), np.uint8)
    canvas[:, _INSIDE, _BEFORE : _BEFORE + SIDE] = images.reshape(-1, SIDE, SIDE)
    # A view in which item i is the PIECE pixels that begin at pixel i.
    pieces = np.ndarray((max(canvas.size - PIECE, 0),), f"V{PIECE}", canvas, strides=(1,))
    rows = []
    for at in (index, index + _CANVAS_ROW):
        # Interpolate between each pixel and the next; the last result of a piece is unused.
        pixels = pieces[at].view(np.uint8).astype(np.float32).reshape(-1)
        step = np.zeros_like(pixels)
        np.subtract(pixels[1:], pixels[:-1], out=step[:-1])
        step *= share.reshape(-1)
        step += pixels
        rows.append(step)
    result = _mix(rows[0], rows[1], np.repeat(down, PIECE))
    return result.reshape(-1, SIDE, PIECE)[:, :, :SIDE].reshape(-1, SIDE * SIDE)


def _mix(first: Floats, second: Floats, share: Floats) -> Floats:
    # first + share (second - first), computed in `second`. With share 0 it is exactly `first`.
    second -= first
    second *= share
    second += first
    return second
