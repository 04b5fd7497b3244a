"""The paper of a picture and the light on it, and how much of that light the ink takes."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nanograd.data import strokes
from nanograd.data.pictures import UnreadableError

Floats = NDArray[np.floating]  # float32 wherever there is one value a pixel

# Share of the variance between two tones (Otsu's criterion) above which they are ink and paper:
# 0.82 and more in drawings and crops of MNIST, 0.6 to 0.75 in photos under uneven light.
_TWO_TONES = 0.82
# No pen is wider than this share of the picture's longest side, few shadows are narrower.
_PEN_SHARE = 0.3
# Below: nothing but paper; ink in units of the paper's noise.
_LEAST_CONTRAST, _LEAST_SIGNAL = 0.06, 4.0


def reduced(picture: Image.Image, longest: int) -> Image.Image:
    """The whole picture with no side above `longest`."""
    scale = min(1.0, longest / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BOX, reducing_gap=2.0)


def light_field(search: Image.Image) -> Floats:
    """How light falls on the picture: the quadratic surface that most of its pixels follow.

    Two clear tones are ink and paper whatever the light; where they may each fill half of the
    picture there is no surface to follow, and the field is 1.

    Args:
        search: mode L or RGB.

    Returns:
        (height, width) float32, mean 1, at least 0.2.
    """
    grey: Floats = np.asarray(reduced(search, 64).convert("L"), dtype=np.float32) / 255
    if separation(grey) > _TWO_TONES:
        return np.ones((search.height, search.width), np.float32)
    values, terms = grey.ravel(), _quadratic(*grey.shape)
    paper = np.ones(len(values), bool)
    for _ in range(4):
        surface, *_ = np.linalg.lstsq(terms[paper], values[paper])
        rest = values - terms @ surface
        paper = np.abs(rest - np.median(rest)) <= 1.5 * rest[paper].std() + 1e-6
    field = (_quadratic(search.height, search.width) @ surface).reshape(search.height, -1)
    return np.maximum(field / max(float(field.mean()), 1e-3), 0.2).astype(np.float32)


def _quadratic(height: int, width: int) -> Floats:
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=2).reshape(-1, 6)


def separation(grey: Floats) -> float:
    """Otsu's criterion: the share of the variance that lies between the two tones, 0 to 1."""
    light = grey > otsu(grey)
    share = float(light.mean())
    if not 0 < share < 1:
        return 0.0
    gap = float(grey[light].mean() - grey[~light].mean())
    return share * (1 - share) * gap**2 / float(grey.var())


def otsu(values: Floats) -> float:
    """Threshold that separates two classes of values in 0..1 with the least variance within."""
    counts = np.bincount((values.ravel() * 255).astype(np.uint8), minlength=256).astype(float)
    levels = np.arange(256)
    below = counts.cumsum()
    above = below[-1] - below
    sum_below = (counts * levels).cumsum()
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = sum_below / below - (sum_below[-1] - sum_below) / above
    between = np.where((below > 0) & (above > 0), below * above * gap**2, 0)
    # Between two far classes every threshold is as good: take the middle.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    return float(best.mean() + 0.5) / 255


def is_light_on_dark(search: Image.Image, light: Floats) -> bool:
    """Paper is what lies along the border and fills most of the picture; ink is the other tone."""
    grey = np.asarray(search.convert("L"), dtype=np.float32) / light
    grey /= max(float(grey.max()), 1.0)
    bright = grey > otsu(grey)
    width = max(1, round(0.04 * min(grey.shape)))
    border = np.ones(grey.shape, bool)
    border[width:-width, width:-width] = False
    return bool(bright[border].mean() + bright.mean() < 1)


def as_dark_ink(picture: Image.Image, inverted: bool) -> Floats:
    """Pixels as shares of full light, turned so that ink is darker than paper.

    Args:
        picture: mode L or RGB.
        inverted: whether its ink is lighter than its paper.

    Returns:
        (height, width, channels) float32, 0 to 1.
    """
    pixels = np.asarray(picture, dtype=np.float32) / 255
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return 1 - pixels if inverted else pixels


def estimate_paper(pixels: Floats, light: Floats) -> Floats:
    """What the paper would be without ink, under the light that falls on it.

    A closing (maximum, then minimum, over a window wider than any pen) removes what is dark and
    narrow. It keeps slow shadows, and unlike a blur also the edge of a sheet.

    Args:
        pixels: (height, width, channels) float32, ink dark.
        light: (height, width) float32, from `light_field`.

    Returns:
        Same shape.
    """
    radius = max(1, round(_PEN_SHARE * max(pixels.shape[:2]) / 2))
    levelled = pixels / light[..., None]
    closed = -strokes.running_max(-strokes.running_max(levelled, radius), radius)
    paper = np.maximum(closed * light[..., None], 0.05)
    # The closing follows the brightest grain of the paper; most of a picture is bare paper.
    return np.maximum(paper * np.median(pixels / paper, axis=(0, 1)), 0.02)


def ink_strength(pixels: Floats, paper: Floats) -> Floats:
    """Share of the paper's light that the ink takes, in the channel where it takes most.

    ink = max over channels of 1 - pixel / paper

    Args:
        pixels: (height, width, channels) float32.
        paper: same shape.

    Returns:
        (height, width) float32, 0 to 1.
    """
    taken: Floats = 1 - pixels / paper
    return np.asarray(np.clip(taken.max(2), 0, 1))


def ink_level(ink: Floats) -> float:
    """The strength above which a pixel is ink; raises `blank` or `low_contrast`."""
    level = otsu(ink)
    above = ink > level
    if float(np.quantile(ink, 0.999)) < _LEAST_CONTRAST or above.all() or not above.any():
        raise UnreadableError("blank", "the picture shows nothing but paper")
    if float(ink[above].mean()) < _LEAST_SIGNAL * float(ink[~above].std()):
        raise UnreadableError("low_contrast", "ink and paper cannot be told apart")
    return level
