"""Bilinear interpolation of images, and deskewing, which turns slanted digits upright."""

from typing import NamedTuple

import numpy as np

from nanograd.digits.dataset import SIDE
from nanograd.runtime.arrays import Bytes, Doubles, Floats, Ints

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
# A pixel of `_mix_pieces` is off by less than this, because coordinates are not rounded (255 times
# 2 ** -19 for coordinates below 32) and rows are mixed in another order (a few times 2 ** -17).
_MARGIN = np.float32(2**-10)

# Numbers of images whose moments are computed together, that are deskewed together, and of rows
# that are interpolated together; for more, the working arrays do not fit into the cache.
_BLOCK, _BLOCK_IMAGES, _BLOCK_ROWS = 48, 512, 768
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


def resample(images: Bytes | Floats, coordinates: Floats) -> Floats:
    """Interpolate each image at the given coordinates; pixels outside the image are 0.

    `coordinates` has for each pixel of the result column x and row y in the (B, 784) images, in
    pixels from the centre of the first pixel, (2, B, 784) float32. If they are whole numbers, the
    result, (B, 784) float32, is exactly the value of that pixel.
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
    """Interpolate images at x = columns + shifts, with one y for each row; round the result.

    The result has the same bits as with `resample`, but takes less time, because rows without ink
    are left out. If the columns have steps of 1, a row of pixels is read at once.

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
    owners, shifts, down = inked // SIDE, shifts.take(inked), down.take(inked)
    first = _CANVAS_ROW * source.take(inked) + (_BEFORE - 1)
    rows = np.zeros((SIDE * len(images), SIDE), np.uint8)
    x = columns[:, 0].take(owners) + shifts + 1
    whole = np.floor(x)
    share = (x - whole).astype(np.float32)
    starts = first + np.clip(whole, -_PIECE, _PIECE).astype(np.intp)
    unsure = [np.zeros(0, np.intp)]
    for start in range(0, len(inked), _BLOCK_ROWS):
        some = slice(start, start + _BLOCK_ROWS)
        if unit_steps:
            found, near = _mix_pieces(canvas, starts[some], share[some], down[some])
            unsure.append(near + _PIECE * start)
        else:
            x = columns.take(owners[some], axis=0)
            x += shifts[some, None]
            found = _mix_pixels(canvas, first[some], x, down[some])
        rows.view(f"V{SIDE}")[inked[some]] = found.view(f"V{SIDE}")
    # Compute the pixels again that may be rounded to another number.
    at, column = np.divmod(np.concatenate(unsure), _PIECE)
    at, column = at[column < SIDE], column[column < SIDE]
    x = columns[owners[at], column] + shifts[at]
    rows[inked[at], column] = _mix_pixels(canvas, first[at], x[:, None], down[at])[:, 0]
    return rows.reshape(-1, SIDE * SIDE)


def _mix_pieces(canvas: Bytes, starts: Ints, share: Floats, down: Floats) -> tuple[Bytes, Ints]:
    """Interpolate n rows, (n, SIDE) uint8, whose adjacent pixels come from adjacent columns.

    So all pixels of a row have the same weights: `share` of the right neighbour, and `down` of the
    lower source row. `starts` are the indices in the canvas of the first pixels of the upper rows.

    Also return the indices, in (n, _PIECE) pixels, of those that may be wrong by 1, because their
    value before rounding is within _MARGIN of a half.
    """
    # A view in which item i is the piece that begins at pixel i.
    pieces = np.ndarray((canvas.size - _PIECE,), f"V{_PIECE}", canvas, strides=(1,))
    # The pieces are one behind the other. All pixels but the last have a right neighbour. The
    # result of the last pixel of each piece is not used.
    above = pieces[starts].view(np.uint8).astype(np.float32)
    below = pieces[_CANVAS_ROW:][starts].view(np.uint8).astype(np.float32)
    mixed = _mix(above, below, down.repeat(_PIECE), below)
    _mix(mixed[:-1], mixed[1:], share.repeat(_PIECE)[:-1], above[:-1])
    above += np.float32(0.5) - _MARGIN
    least = above.astype(np.uint8)
    above += 2 * _MARGIN
    near = np.flatnonzero(least != above.astype(np.uint8))
    return least.reshape(-1, _PIECE)[:, :SIDE], near


def _mix_pixels(canvas: Bytes, first: Ints, x: Doubles, down: Floats) -> Bytes:
    """Interpolate pixels of n rows, (n, m) uint8, at the source columns x, (n, m).

    `first` are the indices in the canvas of the pixels on the left of the upper source rows, and
    `down` the weights of the lower ones.
    """
    share = x.astype(np.float32)
    share += 1
    share = np.clip(share, 0, SIDE + 1)
    whole = np.floor(share)
    share -= whole
    index = first[:, None] + whole.astype(np.intp)
    left_above, above, left, beside = (
        canvas.reshape(-1)[step:].take(index, mode="clip").astype(np.float32) for step in _CORNERS
    )
    upper, lower = _mix(left_above, above, share, above), _mix(left, beside, share, beside)
    return np.rint(_mix(upper, lower, down[:, None], lower), out=lower).astype(np.uint8)


def _mix(first: Floats, second: Floats, share: Floats, out: Floats | None = None) -> Floats:
    # first + share (second - first). With share 0 it is exactly `first`.
    mixed = np.subtract(second, first, out=out)
    mixed *= share
    mixed += first
    return mixed
