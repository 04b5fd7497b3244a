"""Thin, pale strokes of a photo, also where a shadow ends.

The picture is compared with short lines of each direction. On a stroke, the mean along the line is
darker than the means on both sides. The edge of a shadow is darker than one side only.

References:
    Zwiggelaar et al. (2004), "Linear structures in mammographic images: detection and
    classification" (the line operator).
    Canny (1986), "A computational approach to edge detection", VI (hysteresis).
"""

from itertools import product

import numpy as np
from PIL import Image

from nanograd.numbers.locate import SEARCH_SIDE
from nanograd.pictures.morphology import label_marks, running_max
from nanograd.pictures.paper import reduce
from nanograd.pictures.tuning import DARKEST
from nanograd.runtime.arrays import Floats

# Number of directions; pixels from the middle of a line to its end, and to the lines beside it.
_DIRECTIONS, _REACH, _AWAY = 12, 4, 4
# Share of the difference between both sides by which a response is reduced. Of 200 photos of
# training digits with a faint pen, 175 are read right by this alone, 152 with 0.15, and 172 with
# _AWAY 3, each with 6.5 for _STRONG (2026-12-03).
_UNEQUAL = 0.25
# Side of the blocks in which noise is measured; its maximum in units of the median; its minimum as
# a difference of logarithms, because a drawing on a screen has none.
_BLOCK, _NOISIEST, _LEAST_NOISE = 80, 2.0, 1e-3
# Responses in units of noise: minimum of a stroke's pixels, and of one of them; ends of the range
# that becomes ink. Minimum number of pixels of a stroke.
_WEAK, _STRONG, _INK, _LEAST_PIXELS = 2.5, 7.0, (1.5, 6.0), 40


def draw_strokes(picture: Image.Image) -> Image.Image:
    """Return the thin, dark strokes of a picture, mode L, on white.

    They are found in a copy with the longest side SEARCH_SIDE, and drawn in the picture's size.
    """
    grey = np.asarray(reduce(picture.convert("L"), SEARCH_SIDE), np.float32)
    responses = _compare(np.log(np.maximum(grey, DARKEST)))
    noise = np.abs(responses - np.median(responses))
    blocks = [max(1, length // _BLOCK) for length in reversed(noise.shape)]
    means = Image.fromarray(noise).resize(blocks, Image.Resampling.BOX)
    near = np.asarray(means.resize(noise.shape[::-1]))
    responses /= np.maximum(np.minimum(near, _NOISIEST * np.median(near)), _LEAST_NOISE)
    labels, count = label_marks(responses > _WEAK)
    strong = np.bincount(labels[responses > _STRONG], minlength=count + 1) > 0
    chosen = strong & (np.bincount(labels.ravel(), minlength=count + 1) >= _LEAST_PIXELS)
    chosen[0] = False
    low, high = _INK
    ink = np.clip((responses - low) / (high - low), 0, 1)
    ink *= running_max(chosen[labels].view(np.uint8), 1)
    drawn = Image.fromarray(np.uint8(255 - 200 * ink))
    return drawn.resize(picture.size, Image.Resampling.BILINEAR)


def _compare(grey: Floats) -> Floats:
    """Return how much darker the darkest line through each pixel is than those beside it."""

    def cut(values: Floats, margin: int, down: int, right: int) -> Floats:
        """Return the values that are so far below and right, without a margin."""
        top, left = margin + down, margin + right
        height, width = (length - 2 * margin for length in values.shape)
        return values[top : top + height, left : left + width]

    wide = np.pad(grey, 1 + _REACH + _AWAY, mode="edge")
    smooth = np.mean([cut(wide, 1, *shift) for shift in product((-1, 0, 1), repeat=2)], axis=0)
    best = np.full(grey.shape, -np.inf, np.float32)
    for angle in np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS:
        down, right = np.sin(angle), np.cos(angle)
        steps = [(round(n * down), round(n * right)) for n in range(-_REACH, _REACH + 1)]
        along = np.mean([cut(smooth, _REACH, *step) for step in steps], axis=0)
        shift = round(_AWAY * right), round(-_AWAY * down)
        one, other = (cut(along, _AWAY, sign * shift[0], sign * shift[1]) for sign in (1, -1))
        sides = (one + other) / 2 - _UNEQUAL * np.abs(one - other)
        best = np.maximum(best, sides - cut(along, _AWAY, 0, 0))
    return best
