"""Bilinear interpolation of images."""

import numpy as np

from nanograd.digits.dataset import SIDE
from nanograd.runtime.arrays import Bytes, Doubles, Floats

# Images are padded with zeros to ROW x ROW: one row above, one column at the left, and three rows
# and columns below and at the right.
ROW = 32
_INSIDE = slice(1, 1 + SIDE)

# In `resample_rows`, a row has _CANVAS_ROW pixels, and those of the image begin at _BEFORE. The
# others are 0, because a piece of _PIECE pixels may begin up to SIDE + 1 pixels outside the image.
_BEFORE, _CANVAS_ROW = 32, 64
_NUM_WORDS = _CANVAS_ROW // 8
_CORNERS = (0, 1, _CANVAS_ROW, _CANVAS_ROW + 1)  # a pixel and its neighbours
_PIECE = SIDE + 1  # the pixels of a row, and the right neighbour of the last one
# Row k + SIDE + 1 has the numbers k, k + 1, ..., k + SIDE.
_STEPS = (np.arange(-SIDE - 1, SIDE + 2)[:, None] + np.arange(_PIECE)).astype(np.float32)


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
    above, below = _mix(left_above, above, x, above), _mix(left, beside, x, beside)
    return _mix(above, below, y, below)


def resample_rows(
    images: Bytes, columns: Doubles, shifts: Doubles, y: Floats, *, unit_steps: bool
) -> Bytes:
    """Interpolate as `resample` does at x = columns + shifts, and round; y is constant in a row.

    The bits are those of `resample`, in less time, because rows without ink are left out. If the
    columns have steps of 1, a row of pixels is read at once.

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
    if unit_steps:
        columns = np.column_stack([columns, columns[:, -1] + 1])
    x = columns.take(inked // SIDE, axis=0)
    x += shifts.take(inked)[:, None]
    share = x.astype(np.float32)
    del x  # the next array takes its place in the cache
    share += 1
    first, down = _CANVAS_ROW * source.take(inked) + (_BEFORE - 1), down.take(inked)
    if unit_steps:
        start = np.clip(np.floor(share[:, 0]), -SIDE - 1, SIDE + 1).astype(np.intp)
        share -= _STEPS.take(start + SIDE + 1, axis=0)
        # In rare cases, rounding to float32 moves only some of the columns past a whole number.
        if len(inked) and not 0 <= share.min() <= share.max() < 1:
            return resample_rows(images, columns[:, :SIDE], shifts, y, unit_steps=False)
        first += start
        # A view in which item i is the piece that begins at pixel i.
        pieces = np.ndarray((max(canvas.size - _PIECE, 0),), f"V{_PIECE}", canvas, strides=(1,))
        # The pieces of the upper and of the lower row, one behind the other. All pixels but the
        # last have a right neighbour. The result of the last pixel of each piece is not used.
        pixels = np.empty((2, len(inked) * _PIECE), np.float32)
        for row, step in zip(pixels, (0, _CANVAS_ROW), strict=True):
            row[...] = pieces[step:][first].view(np.uint8)
        upper, lower = _mix(pixels[:, :-1], pixels[:, 1:], share.reshape(-1)[:-1])
        mixed = np.zeros(pixels.shape[1], np.uint8)
        mixed[:-1] = np.rint(_mix(upper, lower, down.repeat(_PIECE)[:-1], lower), out=lower)
        found = mixed.reshape(-1, _PIECE)[:, :SIDE]
    else:
        np.clip(share, 0, SIDE + 1, out=share)
        whole = np.floor(share)
        share -= whole
        index = first[:, None] + whole.astype(np.intp)
        left_above, above, left, beside = (
            canvas.reshape(-1)[step:].take(index, mode="clip").astype(np.float32)
            for step in _CORNERS
        )
        upper, lower = _mix(left_above, above, share, above), _mix(left, beside, share, beside)
        found = np.rint(_mix(upper, lower, down[:, None], lower), out=lower).astype(np.uint8)
    rows = np.zeros((SIDE * len(images), SIDE), np.uint8)
    rows.view(f"V{SIDE}")[inked] = found.view(f"V{SIDE}")
    return rows.reshape(-1, SIDE * SIDE)


def _mix(first: Floats, second: Floats, share: Floats, out: Floats | None = None) -> Floats:
    # first + share (second - first). With share 0 it is exactly `first`.
    mixed = np.subtract(second, first, out=out)
    mixed *= share
    mixed += first
    return mixed
