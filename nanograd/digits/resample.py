"""Images looked up at other places: the one interpolation of this program."""

import numpy as np
from numpy.typing import NDArray

SIDE = 28

# Zeros around an image: one row and column before it, and behind it as many as make rows of 32.
ROW = 32
_INSIDE = slice(1, 1 + SIDE)

# A piece of a row is read as one item: SIDE + 1 pixels, and as many more as make a round number.
PIECE = 32
_STEPS = np.arange(PIECE, dtype=np.float32)
# Zeros between two rows of an image, so that a piece may begin this far before or behind one.
_BEFORE, _CANVAS_ROW = SIDE + 1, 64


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
    column, row = whole
    row *= ROW
    row += column
    index = row.astype(np.intp)
    index += ROW * ROW * np.arange(len(images))[:, None]
    # One index for all four neighbours, each in a view of its own. The places are clipped, so no
    # index is out of bounds; "clip" only spares the check.
    far = ROW + 1
    left_above, above, left, beside = (
        pixels[start : len(pixels) - far + start].take(index, mode="clip")
        for start in (0, 1, ROW, far)
    )
    return _between(_between(left_above, above, x), _between(left, beside, x), y)


def resample_rows(
    images: NDArray[np.uint8], x: NDArray[np.float32], y: NDArray[np.float32]
) -> NDArray[np.float32]:
    """As `resample`, bit for bit, where each row of the result goes along a row of the source.

    The pixels of a row are then read together, and the distance to the row above is one for all.

    Args:
        images: (B, 784) uint8.
        x: (B, 28, PIECE) float32: columns, each one further than the last; the first 28 count.
        y: (B, 28) float32: the row of the source, one for each row of the result.

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
        places = np.stack([x[:, :, :SIDE], np.broadcast_to(y[:, :, None], (len(y), SIDE, SIDE))])
        return resample(images, places.reshape(2, -1, SIDE * SIDE))
    column = np.clip(start, -SIDE, SIDE + 1).astype(np.intp) + (_BEFORE - 1)
    index = (np.arange(len(x))[:, None] * ROW + row.astype(np.intp)) * _CANVAS_ROW + column
    pieces = _pieces(images)
    above, below = (
        _along(pieces[where].view(np.uint8).astype(np.float32).reshape(-1), share.reshape(-1))
        for where in (index, index + _CANVAS_ROW)
    )
    result = _between(above, below, np.repeat(down, PIECE))
    return result.reshape(-1, SIDE, PIECE)[:, :, :SIDE].reshape(-1, SIDE * SIDE)


def _pieces(images: NDArray[np.uint8]) -> NDArray[np.void]:
    """Every piece of PIECE pixels of the images with zeros around them, by where it begins."""
    canvas = np.zeros((len(images), ROW, _CANVAS_ROW), np.uint8)
    canvas[:, _INSIDE, _BEFORE : _BEFORE + SIDE] = images.reshape(-1, SIDE, SIDE)
    number = max(canvas.size - PIECE, 0)
    return np.ndarray((number,), f"V{PIECE}", canvas, strides=(1,))


def _along(pixels: NDArray[np.float32], share: NDArray[np.float32]) -> NDArray[np.float32]:
    """Between each pixel and the next; the last of a piece is none of ours."""
    step = np.zeros_like(pixels)
    np.subtract(pixels[1:], pixels[:-1], out=step[:-1])
    step *= share
    step += pixels
    return step


def _between(
    here: NDArray[np.float32], there: NDArray[np.float32], share: NDArray[np.float32]
) -> NDArray[np.float32]:
    # here + share (there - here), in place of `there`: with share 0 the bits of `here`.
    there -= here
    there *= share
    there += here
    return there


def _padded(images: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
    padded = np.zeros((len(images), ROW, ROW), np.float32)
    padded[:, _INSIDE, _INSIDE] = images.reshape(-1, SIDE, SIDE)
    return padded
