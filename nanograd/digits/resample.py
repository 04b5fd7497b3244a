"""Bilinear interpolation of images."""

import numpy as np

from nanograd.digits.dataset import SIDE
from nanograd.runtime.arrays import Bytes, Doubles, Floats

# Images are padded with zeros to ROW x ROW: one row above, one column at the left, and three rows
# and columns below and at the right.
ROW = 32
_INSIDE = slice(1, 1 + SIDE)

# In `resample_rows`, a row has _CANVAS_ROW pixels, and those of the image begin at _BEFORE. The
# others are 0, because a piece of SIDE pixels may begin up to SIDE + 1 pixels outside the image.
_BEFORE, _CANVAS_ROW = 32, 64
_NUM_WORDS = _CANVAS_ROW // 8
_CORNERS = (0, 1, _CANVAS_ROW, _CANVAS_ROW + 1)  # a pixel and its neighbours
# Row k + SIDE + 1 has the numbers k, k + 1, ..., k + SIDE - 1.
_STEPS = (np.arange(-SIDE - 1, SIDE + 2)[:, None] + np.arange(SIDE)).astype(np.float32)


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


def resample_rows(
    images: Bytes, columns: Doubles, shifts: Doubles, y: Floats, *, unit_steps: bool
) -> Bytes:
    """Interpolate as `resample` does at x = columns + shifts, and round; y is constant in a row.

    The bits are those of `resample`, in less time, because rows without ink are left out. If the
    columns have steps of 1, the pixels of a row are read at once.

    Args:
        images: (B, 784) uint8.
        columns: (B, 28) float64, source column of each column of the result.
        shifts: (B, 28) float64, added to the source columns of each row of the result.
        y: (B, 28) float32, source row of each row of the result.
        unit_steps: whether the source columns increase in steps of 1.

    Returns:
        (B, 784) uint8.
    """
    canvas = np.zeros((len(images), ROW, _CANVAS_ROW), np.uint8)
    canvas[:, _INSIDE, _BEFORE : _BEFORE + SIDE] = images.reshape(-1, SIDE, SIDE)
    words = canvas.reshape(-1).view(np.uint64).reshape(-1, _NUM_WORDS)
    ink = words[:, 4] | words[:, 5] | words[:, 6] | words[:, 7]
    ink[:-1] |= ink[1:]
    down = np.clip(y, -1, SIDE)
    down += 1
    row = np.floor(down)
    down -= row
    source = row.astype(np.intp)
    source += ROW * np.arange(len(images))[:, None]
    inked = np.flatnonzero(ink.take(source))
    x = columns.take(inked // SIDE, axis=0)
    x += shifts.take(inked)[:, None]
    share = x.astype(np.float32)
    share += 1
    first = _CANVAS_ROW * source.take(inked) + (_BEFORE - 1)
    if unit_steps:
        start = np.clip(np.floor(share[:, 0]), -SIDE - 1, SIDE + 1).astype(np.intp)
        steps = share - _STEPS.take(start + SIDE + 1, axis=0)
        # In rare cases, rounding to float32 moves only some of the columns past a whole number.
        unit_steps = not len(inked) or 0 <= steps.min() <= steps.max() < 1
    if unit_steps:
        share, first = steps, first + start
        # A view in which item i is the SIDE pixels that begin at pixel i.
        pieces = np.ndarray((max(canvas.size - SIDE, 0),), f"V{SIDE}", canvas, strides=(1,))
        corners = [pieces[step:][first] for step in _CORNERS]
    else:
        np.clip(share, 0, SIDE + 1, out=share)
        whole = np.floor(share)
        share -= whole
        index = first[:, None] + whole.astype(np.intp)
        corners = [canvas.reshape(-1)[step:].take(index, mode="clip") for step in _CORNERS]
    left_above, above, left, beside = (
        each.view(np.uint8).astype(np.float32).reshape(-1, SIDE) for each in corners
    )
    above, below = _mix(left_above, above, share), _mix(left, beside, share)
    mixed = _mix(above, below, down.take(inked)[:, None])
    rows = np.zeros((SIDE * len(images), SIDE), np.uint8)
    rows.view(f"V{SIDE}")[inked] = np.rint(mixed, out=mixed).astype(np.uint8).view(f"V{SIDE}")
    return rows.reshape(-1, SIDE * SIDE)


def _mix(first: Floats, second: Floats, share: Floats) -> Floats:
    # first + share (second - first), computed in `second`. With share 0 it is exactly `first`.
    second -= first
    second *= share
    second += first
    return second
