"""Printed lines of ruled or squared paper, which count as part of the paper.

A line runs from side to side of the picture. Its strength is a quantile of the ink along the line,
because strokes that cross it hardly change a quantile. If a pixel absorbs a share a of the light,
and the line there absorbs s, the ink alone absorbs 1 - (1 - a) / (1 - s). Strokes that cross a line
therefore need no repair.

References:
    Lopresti & Kavallieratou (2010), "Ruling line removal in handwritten page images".
    Chen & Lopresti (2011), "Table detection in noisy off-line handwritten documents", III.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from nanograd.pictures import tuning
from nanograd.runtime.arrays import Floats


def find_lines(
    ink: Floats, most: float = tuning.MOST_LINE, covered: float = tuning.COVERED
) -> Floats | None:
    """Find printed lines in ink, the share of the light that digits and lines absorb together.

    A line is dark along at least the share `covered` of the picture's width or height. If it
    absorbs more than `most`, it may be a stroke and is left out. Return the share that lines absorb
    at each pixel, (height, width) float32 as the ink; None if there are too few lines for ruled or
    squared paper, or if the picture is less than STRIPS pixels wide or high.
    """
    if min(ink.shape) < tuning.STRIPS:
        return None
    found, counts = np.zeros(ink.shape, np.float32), [0, 0]
    for axis, part in enumerate((ink.T.copy(), ink)):
        for line in trace(part, most, covered):
            np.maximum(found, line if axis else line.T, out=found)
            counts[axis] += 1
    return found if _is_pattern(*counts) else None


def find_sides(ink: Floats, covered: float) -> Floats | None:
    """Find the sides of a level box or of a row of boxes, as `find_lines` does.

    Digits that touch a side bend the course that `trace` finds, but hardly change the median of a
    row. So rows and columns of pixels with ink along the share `covered` are sides, too.
    """
    found = find_lines(ink, 1.0, covered)
    lines, counts = [] if found is None else [found], list[int]()
    for axis in (0, 1):
        strength = np.median(ink, axis, keepdims=True)
        least = np.maximum(strength / 2, tuning.LEAST_LINE)
        is_line = np.quantile(ink, 1 - covered, axis, keepdims=True) > least
        is_line &= is_line.mean() <= tuning.THIN
        lines.append(np.where(is_line, strength, np.zeros_like(ink)))
        counts.append(int((np.diff(is_line, prepend=False, axis=1 - axis) & is_line).sum()))
    return np.maximum.reduce(lines) if _is_pattern(*counts) else found


def _is_pattern(down: int, across: int) -> bool:
    return max(down, across) >= tuning.IN_ONE and down + across >= tuning.IN_BOTH


def trace(ink: Floats, most: float, least_covered: float) -> Iterator[Floats]:
    """Yield what each line from left to right absorbs; ink narrower than the strips has none."""
    height, width = ink.shape
    if width < tuning.STRIPS:
        return
    edges = np.linspace(0, width, tuning.STRIPS + 1).astype(int)
    pairs = list(pairwise(edges))
    strips = np.stack([np.median(ink[:, left:right], axis=1) for left, right in pairs], axis=1)
    middles = (edges[:-1] + edges[1:] - 1) / 2
    least = max(tuning.LEAST_LINE, tuning.ABOVE_MEDIAN * float(np.median(strips)))
    columns, padded = np.arange(width), np.pad(ink, ((1, 1), (0, 0)))
    for y, slope in _candidates(strips, middles - (width - 1) / 2, least):
        course = _follow(strips, y + slope * (middles - (width - 1) / 2), middles, least)
        if course is None:
            continue
        rows = np.polyval(course, columns)
        offsets = np.arange(-tuning.HALF_LINE, tuning.HALF_LINE + 1)
        # Interpolate the ink around the line in every column; it is 0 outside the picture.
        places = rows + offsets[:, None]
        low = np.floor(places).astype(int)
        part = places - low
        upper = padded[np.clip(low + 1, 0, height + 1), columns]
        lower = padded[np.clip(low + 2, 0, height + 1), columns]
        profiles = upper * (1 - part) + lower * part
        profile = np.quantile(profiles, tuning.LINE_QUANTILE, axis=1)
        profile = np.maximum(profile - min(profile[0], profile[-1]), 0)
        core = profiles[tuning.HALF_LINE - 1 : tuning.HALF_LINE + 2].max(0)
        covered = (core > 0.5 * profile.max()).mean()
        if not least <= profile.max() <= most or covered < least_covered:
            continue
        first, last = int(rows.min()) - tuning.HALF_LINE, int(rows.max()) + tuning.HALF_LINE + 2
        near = np.arange(max(first, 0), min(last, height))
        line = np.zeros(ink.shape, np.float32)
        line[near] = np.interp(near[:, None] - rows, offsets, profile, left=0, right=0)
        yield line


def _candidates(strips: Floats, places: Floats, least: float) -> Iterator[tuple[float, float]]:
    """Yield straight lines that cover most strips, each as its row in the middle and its slope."""
    height = len(strips)
    near = np.maximum(strips, np.maximum(np.roll(strips, 1, 0), np.roll(strips, -1, 0)))
    shifts = np.round(tuning.SLOPES[:, None] * places).astype(int)
    rows = np.arange(height)[:, None, None] + shifts
    inside = (rows >= 0) & (rows < height)
    values = near[np.clip(rows, 0, height - 1), np.arange(tuning.STRIPS)] * inside
    covered = (values > least).sum(2) / np.maximum(inside.sum(2), tuning.STRIPS / 2)
    score = np.where(covered >= tuning.COVERED, np.minimum(values, 0.5).sum(2), 0)
    while score.max() > 0:
        y, number = np.unravel_index(score.argmax(), score.shape)
        yield float(y), float(tuning.SLOPES[number])
        score[max(0, y - 4) : y + 5] = 0


def _follow(strips: Floats, straight: Floats, middles: Floats, least: float) -> Floats | None:
    """Fit a parabola to the strongest row of each strip near a straight line."""
    offsets = np.arange(-tuning.BEND, tuning.BEND + 1)
    rows = np.round(straight).astype(int) + offsets[:, None]
    inside = (rows >= 0) & (rows < len(strips))
    values = strips[np.clip(rows, 0, len(strips) - 1), np.arange(tuning.STRIPS)] * inside
    peaks = rows[values.argmax(0), np.arange(tuning.STRIPS)].astype(float)
    used = values.max(0) > least
    for _ in range(3):
        if used.sum() < tuning.COVERED * tuning.STRIPS / 2:
            return None
        course = np.polyfit(middles[used], peaks[used], 2)
        used &= np.abs(peaks - np.polyval(course, middles)) < 1.5
    return np.asarray(course)
