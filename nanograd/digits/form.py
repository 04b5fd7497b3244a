"""The form that MNIST has: longest side 20, centre of mass in the middle of 28 x 28."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nanograd.errors import UnreadableError

Bytes = NDArray[np.uint8]


def is_mnist_like(image: Bytes) -> bool:
    """Whether a picture has the form of MNIST: size, place and full black and white.

    All 70,000 images of MNIST have a longest side of 19 or 20 pixels, the centre of mass in
    [13.48, 14.50) on both axes and a brightest pixel of 254 or 255; slack is for JPEG's noise.

    Args:
        image: (28, 28) uint8.
    """
    if image.shape != (28, 28) or int(image.max()) < 240:
        return False
    if _longest_side(image >= 16) < 19 or _longest_side(image >= 40) > 20:
        return False
    y, x = centre_of_mass(np.where(image < 16, np.uint8(0), image))
    return min(y, x) >= 13.4 and max(y, x) < 14.6


def are_mnist_like(images: Bytes) -> NDArray[np.bool_]:
    """As `is_mnist_like`, of many pictures at once: a tenth of the time of each alone.

    Args:
        images: (n, 784) uint8.

    Returns:
        (n,) bool.
    """
    ink = np.where(images < 16, np.uint8(0), images)
    # Whole numbers below 2 ** 24 each: float32 adds them without rounding, in any order.
    mass, sum_x, sum_y = (ink.astype(np.float32) @ _MOMENTS).T.astype(np.float64)
    total = np.maximum(mass, 1)
    x, y = sum_x / total, sum_y / total
    square = images.reshape(-1, 28, 28)
    profiles = square.max(axis=1), square.max(axis=2)
    least = np.maximum(*(_extents(profile >= 16) for profile in profiles))
    most = np.maximum(*(_extents(profile >= 40) for profile in profiles))
    centred: NDArray[np.bool_] = (np.minimum(y, x) >= 13.4) & (np.maximum(y, x) < 14.6)
    like: NDArray[np.bool_] = (profiles[0].max(axis=1) >= 240) & (least >= 19) & (most <= 20)
    like &= centred
    return like


# 1, x, y of every pixel
_MOMENTS = np.stack([np.ones(784), *(axis.ravel() for axis in np.mgrid[:28, :28][::-1])], axis=1)
_MOMENTS = _MOMENTS.astype(np.float32)


def _extents(marks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """From the first mark of each row to its last, (n, 28) to (n,); a row without has 28."""
    extents: NDArray[np.int64] = marks.shape[1] - marks.argmax(axis=1)
    extents -= marks[:, ::-1].argmax(axis=1)
    return extents


def _longest_side(ink: NDArray[np.bool_]) -> int:
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return int(max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1


def shrink(ink: NDArray[np.floating]) -> Bytes:
    """Crop to the ink and scale its longest side to 20, grey levels kept and stretched to 255."""
    rows, columns = np.flatnonzero(ink.max(1) > 0.5), np.flatnonzero(ink.max(0) > 0.5)
    if not len(rows):
        raise UnreadableError("low_contrast", "the strokes are too pale to tell from paper")
    crop = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = 20 / max(crop.shape)
    size = [max(1, round(side * scale)) for side in crop.shape[::-1]]
    small: NDArray[np.floating] = np.asarray(
        Image.fromarray(crop).resize(size, Image.Resampling.BOX)
    )
    return np.asarray(np.round(small * (255 / small.max())), dtype=np.uint8)


def centre(digit: Bytes) -> Bytes:
    """Place a digit of at most 20 x 20 in 28 x 28, its centre of mass in [13.5, 14.5) each way."""
    height, width = digit.shape
    y, x = centre_of_mass(digit)
    top = min(max(int(np.ceil(13.5 - y)), 0), 28 - height)
    left = min(max(int(np.ceil(13.5 - x)), 0), 28 - width)
    image = np.zeros((28, 28), np.uint8)
    image[top : top + height, left : left + width] = digit
    return image


def centre_of_mass(image: NDArray[np.uint8]) -> tuple[float, float]:
    """Row and column, 0 being the middle of the first pixel."""
    rows, columns = image.sum(1, dtype=np.float64), image.sum(0, dtype=np.float64)
    total = rows.sum()
    y = rows @ np.arange(len(rows)) / total
    x = columns @ np.arange(len(columns)) / total
    return float(y), float(x)
