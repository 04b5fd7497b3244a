"""The paper of a picture and the light on it, and how much of that light the ink takes."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nanograd.data import strokes
from nanograd.data.pictures import UnreadableError

Floats = NDArray[np.floating]  # float32 wherever there is one value a pixel

# Otsu's criterion above which two tones are ink and paper: 0.82 and more in drawings and crops of
# MNIST, 0.5 to 0.75 in photos under uneven light.
_TWO_TONES = 0.8
# A border with more than this share of either tone has two of them.
_MIXED = 0.1
# Longest side of a bitmap, and of the copy in which the width of the pen is looked for.
_FEW_PIXELS, _COARSE_SIDE = 64, 80
# Half the widths that are tried, in pixels of that copy.
_RADII = (1, 2, 3, 5, 8, 13)
# No pen in a bitmap is wider than this share of its longest side.
_PEN_SHARE = 0.3
# Below: nothing but paper; ink in units of the paper's noise.
_LEAST_CONTRAST, _LEAST_SIGNAL = 0.06, 4.0


def reduced(picture: Image.Image, longest: int) -> Image.Image:
    """The whole picture with no side above `longest`."""
    scale = min(1.0, longest / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BOX, reducing_gap=2.0)


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


def is_light_on_dark(search: Image.Image) -> bool:
    """Whether ink is the lighter tone: paper lies along the border, ink is narrow.

    Where the border has one tone, that is the paper. Where a shadow or the digit crosses it, the
    ink is what a narrow window closes first; in a picture of few pixels, where gaps may be as
    narrow as strokes, what covers less of the border and of the picture.

    Args:
        search: mode L or RGB.
    """
    grey = np.asarray(search.convert("L"), dtype=np.float32) / 255
    bright = grey > otsu(grey)
    width = max(1, round(0.04 * min(grey.shape)))
    border = np.ones(grey.shape, bool)
    border[width:-width, width:-width] = False
    share = float(bright[border].mean())
    told_by_border = not _MIXED <= share <= 1 - _MIXED and separation(grey) > _TWO_TONES
    if not told_by_border and max(grey.shape) > _FEW_PIXELS:
        coarse = np.asarray(reduced(search, _COARSE_SIDE).convert("L"), dtype=np.float32) / 255
        dark, light = narrow_energy(coarse), narrow_energy(coarse, bright=True)
        step = _plateau(np.maximum(dark, light))
        return bool(light[step] > dark[step])
    return bool(share + bright.mean() < 1)


def narrow_energy(grey: Floats, *, bright: bool = False) -> Floats:
    """Energy of what is darker than all around it, by the width up to which it counts as narrow.

    For each window, the sum over pixels of (1 - pixel / closing)^2: it grows until the window is
    wider than the pen, then hardly (a granulometry).

    Args:
        grey: (height, width) float32, 0 to 1.
        bright: of what is brighter instead, (1 - opening / pixel)^2.

    Returns:
        (windows,) float32, one for each of the radii that the picture has room for.

    References:
        Serra (1982), "Image analysis and mathematical morphology", X (granulometries).
    """
    floor = np.maximum(grey, 0.02)
    radii = _radii(max(grey.shape))
    if bright:
        shares = [-closing(-floor, radius) / floor for radius in radii]
    else:
        shares = [floor / closing(floor, radius) for radius in radii]
    return np.array([np.square(1 - share).sum() for share in shares])


def _radii(side: int) -> list[int]:
    return [radius for radius in _RADII if 2 * radius < 0.8 * side] or [1]


def _plateau(energy: Floats) -> int:
    """The first step after which energy grows by less than a quarter."""
    grows = np.flatnonzero(energy[1:] <= 1.25 * energy[:-1])
    return int(grows[0]) if len(grows) else len(energy) - 1


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


def pen_radius(search: Floats) -> int:
    """Radius of a window that is wider than the pen, but not much.

    Args:
        search: (height, width, channels) float32, ink dark.
    """
    side = int(max(search.shape[:2]))
    if side <= _FEW_PIXELS:
        return max(1, round(_PEN_SHARE * side / 2))
    scale = -(-side // _COARSE_SIDE)
    grey = search.mean(2)[: len(search) // scale * scale, : search.shape[1] // scale * scale]
    coarse = grey.reshape(len(grey) // scale, scale, -1, scale).mean((1, 3))
    radii = _radii(max(coarse.shape))
    step = _plateau(narrow_energy(coarse)) + 1
    return scale * radii[min(step, len(radii) - 1)]


def estimate_paper(pixels: Floats, radius: int) -> Floats:
    """What the paper would be without ink, under the light that falls on it.

    A closing (maximum, then minimum, over a window wider than the pen) removes what is dark and
    narrow. It keeps shadows and, unlike a blur, also their edges and the edge of a sheet.

    Args:
        pixels: (height, width, channels) float32, ink dark.
        radius: of the window, from `pen_radius`.

    Returns:
        Same shape.
    """
    paper = np.maximum(closing(pixels, radius), 0.05)
    # The closing follows the brightest grain of the paper; most of a picture is bare paper.
    return np.maximum(paper * np.median(pixels / paper, axis=(0, 1)), 0.02)


def closing(values: Floats, radius: int) -> Floats:
    """Maximum, then minimum, over a square window: fills what is dark and narrower than it."""
    return -strokes.running_max(-strokes.running_max(values, radius), radius)


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
