"""MNIST's form of an image: longest side 20, centre of mass in the middle of 28 x 28."""

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from nanograd.digits.dataset import SIDE
from nanograd.errors import Reason, UnreadableError
from nanograd.runtime.arrays import Bytes, Floats, Ints, Mask

LONGEST_SIDE = 20
# Number of images to test together; more do not fit into the cache as float32.
_CHUNK_ROWS = 128
# Pixels below this level count as background, because JPEG adds such noise.
_FAINT = 16

_Y, _X = (axis.ravel() for axis in np.mgrid[:SIDE, :SIDE])
# (784, 3): 1, x, y of each pixel
_MOMENTS = np.stack([np.ones_like(_X), _X, _Y], axis=1).astype(np.float32)


def are_mnist_like(images: Bytes) -> Mask:
    """Test which of (n, 784) uint8 images have MNIST's form: size, position and brightest pixel.

    All 70,000 images of MNIST have a longest side of 19 or 20 pixels, a centre of mass in
    [13.48, 14.50) on both axes, and a brightest pixel of 254 or 255. The test allows slightly wider
    ranges, because JPEG changes pixels.
    """
    number = len(images)
    sums = np.empty((number, 3), np.float32)
    # Maximum of each column and of each row; 0 after the last one.
    profiles = np.zeros((2, number, 32), np.uint8)
    # Use one buffer for all chunks: allocating it takes 1.0 us per image, filling it 0.1 us.
    floats = np.empty((_CHUNK_ROWS, SIDE * SIDE), np.float32)
    for start in range(0, number, _CHUNK_ROWS):
        chunk, part = images[start : start + _CHUNK_ROWS], slice(start, start + _CHUNK_ROWS)
        ink = floats[: len(chunk)]
        np.copyto(ink, chunk * (chunk >= _FAINT).view(np.uint8))
        # The sums are whole numbers below 2 ** 24, so float32 is exact in any order of summation.
        np.matmul(ink, _MOMENTS, out=sums[part])
        # Column maxima halve the number of rows. Row maxima double a window from 2 to 28 pixels.
        square = chunk.reshape(-1, SIDE, SIDE)
        for half in (14, 7, 4, 2, 1):
            square = np.maximum(square[:, :half], square[:, -half:])
        profiles[0, part, :SIDE] = square[:, 0]
        most = chunk.reshape(-1)
        for shift in (1, 2, 4, 8, 12):
            most = np.maximum(most[:-shift], most[shift:])
        profiles[1, part, :SIDE] = most[::SIDE].reshape(-1, SIDE)
    mass, sum_x, sum_y = sums.T.astype(np.float64)
    total = np.maximum(mass, 1)
    x, y = sum_x / total, sum_y / total
    least = np.maximum(*(_extents(profile >= _FAINT) for profile in profiles))
    extent = np.maximum(*(_extents(profile >= 40) for profile in profiles))
    like: Mask = (profiles[0].max(axis=1) >= 240) & (least >= 19)
    like &= (extent <= LONGEST_SIDE) & (np.minimum(y, x) >= 13.4) & (np.maximum(y, x) < 14.6)
    return like


def _extents(marks: Mask) -> Ints:
    """Count positions from the first to the last True of each row, (n, 32) to (n,); 1 if none."""
    bits = np.packbits(marks, bitorder="little").view(np.int32)
    extents: Ints = np.frexp(bits)[1] - np.frexp(bits & -bits)[1] + 1
    return extents


def shrink(ink: Floats) -> Bytes:
    """Crop to the ink, and scale its longest side to 20 pixels and its strongest pixel to 255.

    `ink` is (height, width) float; values up to 0.5 are background. The result is uint8.

    Raises:
        UnreadableError: `low_contrast`, because no value is above 0.5.
    """
    rows, columns = np.flatnonzero(ink.max(1) > 0.5), np.flatnonzero(ink.max(0) > 0.5)
    if not len(rows):
        raise UnreadableError(Reason.LOW_CONTRAST, "the strokes are too pale to be read")
    crop = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = LONGEST_SIDE / max(crop.shape)
    size = [max(1, round(side * scale)) for side in crop.shape[::-1]]
    small = np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.BOX))
    return np.asarray(np.round(small * (255 / small.max())), dtype=np.uint8)


def centre(digit: Bytes) -> Bytes:
    """Centre a uint8 digit of at most 20 x 20 pixels in an image of 28 x 28.

    Move its centre of mass into [13.5, 14.5) on both axes, as far as the digit stays in the image.
    The centre of the first pixel is 0, so the centre of the image is 13.5.
    """
    height, width = digit.shape
    y, x = centre_of_mass(digit)
    top = min(max(int(np.ceil(13.5 - y)), 0), SIDE - height)
    left = min(max(int(np.ceil(13.5 - x)), 0), SIDE - width)
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[top : top + height, left : left + width] = digit
    return image


def centre_of_mass(image: Bytes) -> tuple[float, float]:
    """Return row and column of the centre of mass; (0, 0) is the centre of the first pixel."""
    rows, columns = image.sum(1, dtype=np.float64), image.sum(0, dtype=np.float64)
    total = rows.sum()
    y = rows @ np.arange(len(rows)) / total
    x = columns @ np.arange(len(columns)) / total
    return float(y), float(x)


def to_png(image: Bytes) -> bytes:
    """Encode a uint8 image, (28, 28) or (784,), as PNG."""
    return encode_png(Image.fromarray(image.reshape(SIDE, SIDE)))


def encode_png(picture: Image.Image, **options: Any) -> bytes:
    """Encode a picture as PNG, with these options of Pillow."""
    stream = BytesIO()
    picture.save(stream, "PNG", **options)
    return stream.getvalue()
