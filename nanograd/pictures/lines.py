"""Printed lines, ruled or squared, as part of the paper.

A line runs from side to side. Its strength is a quantile along it, which the strokes that cross it
hardly change. Where paper with its lines absorbs a share s of the light and paper with ink a, the
ink alone absorbs 1 - (1 - a) / (1 - s): crossing strokes need no repair.

References:
    Lopresti & Kavallieratou (2010), "Ruling line removal in handwritten page images".
    Chen & Lopresti (2011), "Table detection in noisy off-line handwritten documents", III.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

# Strips across a line in which it is traced, and the share of them (of its columns) it must cover.
_STRIPS, _COVERED = 16, 0.7
# Slopes tried, up to 4 degrees, and half the rows in which a line is traced beside a straight one.
_SLOPES, _BEND = np.linspace(-0.07, 0.07, 15), 3
# Half the width of the profile across a line, in pixels of the reduced copy.
_HALF = 3
# The quantile: with the median 11 of 300 photos of squared paper are misclassified, with this 9,
# with 0.8 13.
_STRENGTH = 0.7
# Least strength of a line, also in units of the median over the picture.
_LEAST, _ABOVE_MEDIAN = 0.04, 3.0
# What absorbs more is drawn: black strokes on a screen, not print beside a pencil.
_MOST = 0.9
# Lines in one direction, or in both, that are a pattern.
_IN_ONE, _IN_BOTH = 2, 3


def find_lines(ink: Floats) -> Floats | None:
    """Find the light that printed lines absorb.

    Args:
        ink: (height, width) float32, the share of light that ink and lines absorb, at least 0.

    Returns:
        Of the same shape, 0 to 1; None without a pattern of lines, and in narrow pictures.
    """
    if min(ink.shape) < _STRIPS:
        return None
    across, down = list(_trace(ink)), list(_trace(np.ascontiguousarray(ink.T)))
    if max(len(across), len(down)) < _IN_ONE or len(across) + len(down) < _IN_BOTH:
        return None
    layer = np.zeros(ink.shape, np.float32)
    for line in across:
        np.maximum(layer, line, out=layer)
    for line in down:
        np.maximum(layer, line.T, out=layer)
    return layer


def _trace(ink: Floats) -> Iterator[Floats]:
    """Yield the layer of each line from the left to the right side."""
    height, width = ink.shape
    edges = np.linspace(0, width, _STRIPS + 1).astype(int)
    pairs = list(pairwise(edges))
    strips = np.stack([np.median(ink[:, left:right], axis=1) for left, right in pairs], axis=1)
    middles = (edges[:-1] + edges[1:] - 1) / 2
    least = max(_LEAST, _ABOVE_MEDIAN * float(np.median(strips)))
    columns = np.arange(width)
    for y, slope in _candidates(strips, middles - (width - 1) / 2, least):
        course = _follow(strips, y + slope * (middles - (width - 1) / 2), middles, least)
        if course is None:
            continue
        rows = np.polyval(course, columns)
        offsets = np.arange(-_HALF, _HALF + 1)
        profiles = _sample(ink, rows + offsets[:, None])
        profile = np.quantile(profiles, _STRENGTH, axis=1)
        profile = np.maximum(profile - min(profile[0], profile[-1]), 0)
        covered = (profiles[_HALF - 1 : _HALF + 2].max(0) > 0.5 * profile.max()).mean()
        if not least <= profile.max() <= _MOST or covered < _COVERED:
            continue
        away = np.arange(height)[:, None] - rows
        yield np.interp(away, offsets, profile, left=0, right=0).astype(np.float32)


def _candidates(strips: Floats, places: Floats, least: float) -> Iterator[tuple[float, float]]:
    """Yield row in the middle and slope of straight lines that cover most strips."""
    height = len(strips)
    near = np.maximum(strips, np.maximum(np.roll(strips, 1, 0), np.roll(strips, -1, 0)))
    shifts = np.round(_SLOPES[:, None] * places).astype(int)
    rows = np.arange(height)[:, None, None] + shifts
    inside = (rows >= 0) & (rows < height)
    values = near[np.clip(rows, 0, height - 1), np.arange(_STRIPS)] * inside
    covered = (values > least).sum(2) / np.maximum(inside.sum(2), _STRIPS / 2)
    score = np.where(covered >= _COVERED, np.minimum(values, 0.5).sum(2), 0)
    while score.max() > 0:
        y, number = np.unravel_index(score.argmax(), score.shape)
        yield float(y), float(_SLOPES[number])
        score[max(0, y - 4) : y + 5] = 0


def _follow(strips: Floats, straight: Floats, middles: Floats, least: float) -> Floats | None:
    """Fit a parabola to the strongest row of each strip near a straight line."""
    offsets = np.arange(-_BEND, _BEND + 1)
    rows = np.round(straight).astype(int) + offsets[:, None]
    inside = (rows >= 0) & (rows < len(strips))
    values = strips[np.clip(rows, 0, len(strips) - 1), np.arange(_STRIPS)] * inside
    peaks = rows[values.argmax(0), np.arange(_STRIPS)].astype(float)
    used = values.max(0) > least
    for _ in range(3):
        if used.sum() < _COVERED * _STRIPS / 2:
            return None
        course = np.polyfit(middles[used], peaks[used], 2)
        used &= np.abs(peaks - np.polyval(course, middles)) < 1.5
    return np.asarray(course)


def _sample(ink: Floats, rows: Floats) -> Floats:
    """Interpolate the ink at fractional rows, (n, width), of every column; 0 outside."""
    height, width = ink.shape
    low = np.floor(rows).astype(int)
    part = rows - low
    padded = np.pad(ink, ((1, 1), (0, 0)))
    columns = np.arange(width)
    above = padded[np.clip(low + 1, 0, height + 1), columns]
    below = padded[np.clip(low + 2, 0, height + 1), columns]
    return np.asarray(above * (1 - part) + below * part)
