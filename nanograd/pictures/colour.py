"""Ink that differs from its sheet in hue rather than in light, as grey on orange.

Light on paper only scales its colour. What is left at right angles to that colour is ink, in one
direction of its own; a picture seen in that direction has dark ink on bright paper.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nanograd.pictures.paper import otsu

Floats = NDArray[np.floating]

# Least colour of the sheet, and least difference of hue between ink and sheet, as shares of the
# sheet's brightness.
_COLOURED, _HUE = 0.25, 0.2
# Otsu's criterion for ink and sheet, and the share of the picture that ink may cover.
_TWO_TONES, _INK = 0.75, (0.003, 0.4)
# Grey levels of sheet and ink in the picture that is returned.
_PAPER_LEVEL, _INK_LEVEL = 210, 50


def by_hue(reduced: Image.Image) -> tuple[float, float, float, float] | None:
    """Find the direction in colour that separates ink from a coloured sheet.

    Args:
        reduced: mode L or RGB.

    Returns:
        Weights of red, green and blue, and a constant, as `Image.convert("L", ...)` expects them;
        None on sheets of little colour, where light separates ink well enough.
    """
    if reduced.mode != "RGB":
        return None
    pixels = np.asarray(reduced)[::2, ::2].reshape(-1, 3).astype(np.float32)
    sheet = np.median(pixels, axis=0)
    bright = float(np.linalg.norm(sheet))
    if np.ptp(sheet) <= _COLOURED * bright:
        return None
    sheet = sheet / bright
    along = np.maximum(pixels @ sheet, 1)
    beside = pixels / along[:, None] - sheet
    direction = np.linalg.eigh(beside.T @ beside)[1][:, 2].astype(np.float32)
    hue = beside @ direction
    low, high = np.quantile(hue, (0.001, 0.999))
    if high - low < _HUE:
        return None
    scaled = (255 * np.clip((hue - low) / (high - low), 0, 1)).astype(np.uint8)
    threshold, separation = otsu(scaled)
    is_ink = scaled > threshold
    if is_ink.mean() > 0.5:
        is_ink = ~is_ink
    if separation < _TWO_TONES or not _INK[0] < is_ink.mean() < _INK[1]:
        return None
    ink, paper = np.median(pixels[is_ink], axis=0), np.median(pixels[~is_ink], axis=0)
    away = float((ink / max(ink @ sheet, 1) - paper / max(paper @ sheet, 1)) @ direction)
    if abs(away) < _HUE:
        return None
    # In the plane of sheet and direction: the weights that give paper and ink their levels.
    plane = np.stack([sheet, direction])
    weights = np.linalg.solve(np.stack([plane @ paper, plane @ ink]), (_PAPER_LEVEL, _INK_LEVEL))
    red, green, blue = (weights @ plane).tolist()
    return red, green, blue, 0.0
