"""The light on a picture as a smooth surface, and ink that differs from its sheet in hue alone.

If paper becomes darker towards the border of a picture, `paper.estimate_paper` takes the dark
border for ink. Therefore a smooth surface is fitted to the light on the whole picture. It ignores
the ink, which covers little of the picture. Light changes the brightness of the paper, but not its
hue. So where the hue is not the paper's, there is ink.

References:
    Lu, Su & Tan (2010), "Document image binarization using background estimation and stroke edges",
    3.1 (a polynomial surface as the background).
    Beaton & Tukey (1974), "The fitting of power series", 6 (the biweight).
"""

from functools import cache

import numpy as np
from PIL import Image

from nanograd.pictures import tuning
from nanograd.pictures.paper import otsu
from nanograd.runtime.arrays import Floats


def light_surface(picture: Image.Image) -> Floats | None:
    """Fit the light on the paper of a picture, mode L or RGB, as (height, width) float32.

    It is 1 where the light is strongest. Return None if it is even, or if no smooth surface fits.
    """
    grey = picture.convert("L")
    size = (min(tuning.GRID, picture.width), min(tuning.GRID, picture.height))
    means = np.asarray(grey.resize(size, Image.Resampling.BOX), np.float64)
    blocks = np.log(np.maximum(means, tuning.DARKEST_LIGHT)).ravel()
    for degree in tuning.DEGREES:
        basis = _basis(*size, degree)  # least squares, weighted by Tukey's biweight
        weights = np.ones(len(blocks))
        for _ in range(tuning.FIT_STEPS):
            weighted = basis * weights[:, None]
            matrix = weighted.T @ basis + 1e-6 * np.eye(basis.shape[1])
            surface = basis @ np.linalg.solve(matrix, weighted.T @ blocks)
            residuals = np.abs(blocks - surface)
            scale = max(float(np.median(residuals)), 1e-3)
            weights = np.maximum(0, 1 - (residuals / (tuning.BIWEIGHT * scale)) ** 2) ** 2
        if scale < tuning.GOOD_FIT:
            break
    else:
        return None
    on_surface = (np.abs(blocks - surface) < tuning.CLOSE).mean()
    if np.ptp(surface) < tuning.FLAT or on_surface < tuning.ON_SURFACE:
        return None
    light = np.exp(surface - surface.max()).astype(np.float32).reshape(size[::-1])
    return np.asarray(Image.fromarray(light).resize(picture.size, Image.Resampling.BICUBIC))


@cache
def _basis(width: int, height: int, degree: int) -> Floats:
    """Compute the monomials of x and y in [-1, 1] up to a degree, (height * width, terms)."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    terms = [x**i * y**j for i in range(degree + 1) for j in range(degree + 1 - i)]
    return np.stack(terms, axis=-1).reshape(width * height, -1)


def divide(picture: Image.Image, light: Floats) -> Image.Image:
    """Divide a picture by the light on it."""
    pixels = np.asarray(picture) / (light if picture.mode == "L" else light[..., None])
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))


def by_hue(reduced: Image.Image, least: float) -> tuple[float, float, float, float] | None:
    """Find the direction in colour space that separates ink from its sheet.

    Return it as the matrix of `Image.convert("L", ...)`. None if the picture is grey, or if no two
    hues differ by the share `least` of the sheet's brightness; and if the sheet has little colour,
    unless the ink is darker than the sheet in one channel and brighter in another.
    """
    if reduced.mode != "RGB":
        return None
    pixels = np.asarray(reduced)[::2, ::2].reshape(-1, 3).astype(np.float32)
    planes = np.ascontiguousarray(pixels.T)
    sheet = np.median(planes, axis=1)
    bright = float(np.linalg.norm(sheet))
    is_darker = (planes < (1 - tuning.OTHER) * sheet[:, None]).any(0)
    is_brighter = (planes > (1 + tuning.OTHER) * sheet[:, None]).any(0)
    fewest, most = tuning.INK_SHARE
    if np.ptp(sheet) <= tuning.COLOURED * bright and (is_darker & is_brighter).mean() <= fewest:
        return None
    sheet = sheet / bright
    along = pixels @ sheet
    beside = (pixels - along[:, None] * sheet) / np.maximum(along, 1)[:, None]  # 0 for black
    direction = np.linalg.eigh(beside.T @ beside)[1][:, 2].astype(np.float32)
    hue = beside @ direction
    low, high = np.quantile(hue, (0.001, 0.999))
    if high - low < least:
        return None
    scaled = (255 * np.clip((hue - low) / (high - low), 0, 1)).astype(np.uint8)
    threshold, separation = otsu(scaled)
    is_ink = scaled > threshold
    if is_ink.mean() > 0.5:
        is_ink = ~is_ink
    if separation < tuning.TWO_HUES or not fewest < is_ink.mean() < most:
        return None
    medians = np.stack([np.median(pixels[tone], axis=0) for tone in (~is_ink, is_ink)])
    brightness = medians @ sheet
    if brightness.min() < 1 or abs(np.diff(medians @ direction / brightness)[0]) < least:
        return None
    # In the plane of `sheet` and `direction`, find weights that give paper and ink their levels.
    plane, levels = np.stack([sheet, direction]), (tuning.PAPER_LEVEL, tuning.INK_LEVEL)
    weights = np.linalg.solve(medians @ plane.T, levels)
    red, green, blue = (weights @ plane).tolist()
    return red, green, blue, 0.0
