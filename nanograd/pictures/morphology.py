"""Grey-level morphology over square windows; it also measures and changes the width of a pen.

References:
    Serra (1982), "Image analysis and mathematical morphology", XII.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanograd.digits.form import LONGEST_SIDE
from nanograd.pictures import tuning
from nanograd.runtime.arrays import Bytes, Floats, Ints, Mask


def running_max(values: NDArray[Any], radius: int) -> NDArray[Any]:
    """Compute the maximum over square windows with sides of 2 * radius + 1 pixels.

    `values` is (..., height, width) uint8 or float32; float32 takes four times as long.
    """
    lowest = 0 if values.dtype == np.uint8 else -np.inf
    height, width = values.shape[-2:]
    shape = (*values.shape[:-2], height + 2 * radius, width + 2 * radius)
    padded = np.full(shape, lowest, values.dtype)  # faster than `np.pad`
    padded[..., radius : radius + height, radius : radius + width] = values
    values = padded
    for _ in range(2):  # over rows, then columns; windows of 1, 2, 4, ..., then two that overlap
        size, window = 1, 2 * radius + 1
        while 2 * size <= window:
            values = np.maximum(values[..., :-size, :], values[..., size:, :])
            size *= 2
        end = values.shape[-2] - window + size
        values = np.maximum(values[..., :end, :], values[..., window - size :, :])
        values = values.swapaxes(-1, -2)
    return values


def closing(levels: Bytes, radius: int) -> Bytes:
    """Compute the maximum, then the minimum, over windows, which removes narrow dark structures."""
    return ~running_max(~running_max(levels, radius), radius)


def pen_width(ink: Floats) -> float:
    """Return the width of the pen, in pixels.

    It is the width w of a bar with the same area w l and outline 2 (w + l) as the ink. The outline
    is measured as the total variation, which is right for sharp and for soft edges.
    """
    down, across = np.diff(ink, axis=0)[:, :-1], np.diff(ink, axis=1)[:-1]
    quarter = float(np.hypot(down, across).sum()) / 4
    return quarter - float(np.sqrt(max(quarter**2 - float(ink.sum()), 0.0)))


def adjust_pen(ink: Floats) -> Floats:
    """Make strokes as thick as MNIST's, by thickening or thinning; add 8 pixels of margin.

    Strokes are thinned only until one would vanish, for example a thin stroke beside a filled loop.
    To find out, the thinned strokes are thickened again and compared with `ink`.
    """
    ink = np.pad(ink, 8)
    scale = tuning.DETAIL_SIDE / LONGEST_SIDE
    pen = pen_width(ink) / scale
    if pen < tuning.PEN_MIN:
        return running_max(ink, round((tuning.PEN_MIN - pen) / 2 * scale))
    for radius in range(round((pen - tuning.PEN_MAX) / 2 * scale), 0, -1):
        left = -running_max(-ink, radius)
        if (running_max(left, radius) > 0.5).sum() > tuning.KEPT * (ink > 0.5).sum():
            return left
    return ink


def label_marks(mask: Mask) -> tuple[Ints, int]:
    """Label connected marks (8 neighbours) from 1, in the order of their first pixel.

    Rows are divided into runs of adjacent pixels. Runs that touch get the lowest number of them.
    Return (height, width) int64, 0 where the mask is not set, and the number of marks.

    References:
        He, Chao, Suzuki (2008), "A run-based two-scan labeling algorithm".
    """
    # Each run starts and ends at a position in an image that is one pixel wider.
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1).ravel()
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    # Pairs of runs in neighbouring rows that touch at an edge or a corner.
    stride = mask.shape[1] + 1
    first = np.searchsorted(ends, starts + stride, side="left")
    stop = np.searchsorted(starts, ends + stride, side="right")
    counts = np.maximum(stop - first, 0)
    above = np.repeat(np.arange(len(starts)), counts)
    below = np.arange(len(above)) + np.repeat(first - counts.cumsum() + counts, counts)
    lowest = np.arange(len(starts))
    while (lowest[above] != lowest[below]).any():
        low = np.minimum(lowest[above], lowest[below])
        np.minimum.at(lowest, lowest[above], low)
        np.minimum.at(lowest, lowest[below], low)
        lowest = lowest[lowest]
    roots, numbers = np.unique(lowest, return_inverse=True)
    labels = np.zeros(mask.shape, np.int64)
    labels[mask] = np.repeat(numbers + 1, ends - starts)
    return labels, len(roots)
