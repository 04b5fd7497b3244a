"""The light on a picture as a smooth surface: vignettes, and lamps to one side.

The closing of `paper.estimate_paper` sees nothing outside the picture, so a gradient that ends at
the border would be ink. The surface is fitted to all of the picture, and ink, which covers little
of it, does not count.

References:
    Lu, Su & Tan (2010), "Document image binarization using background estimation and stroke edges",
    3.1 (a polynomial surface as the background).
    Beaton & Tukey (1974), "The fitting of power series", 6 (the biweight).
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.floating]

# Side of the grid of blocks to which the surface is fitted.
_GRID = 20
_DEGREES = (2, 4)
# Median residual of a smooth light, in natural logarithms: 0.028 and less under vignettes by degree
# 2, 0.004 by degree 4; 0.01 and more beside a shadow by degree 4, 0.02 to 0.1 usually.
_GOOD_FIT = 0.01
# Share of blocks that must be as close as this to the surface: the others have ink.
_CLOSE, _ON_SURFACE = 0.05, 0.6
# A surface that varies less, in natural logarithms, is left to the closing.
_FLAT = 0.2
# Residuals beyond this many median ones have no weight.
_BIWEIGHT, _STEPS = 6.0, 6
_DARKEST = 8.0


def light_surface(picture: Image.Image) -> Floats | None:
    """Fit the light that falls on the paper.

    Args:
        picture: mode L or RGB.

    Returns:
        (height, width) float32, 1 where the light is strongest; None where it is even, or where no
        smooth surface explains the picture.
    """
    grey = picture.convert("L")
    size = (min(_GRID, picture.width), min(_GRID, picture.height))
    blocks = np.log(
        np.maximum(np.asarray(grey.resize(size, Image.Resampling.BOX), np.float64), _DARKEST)
    ).ravel()
    for degree in _DEGREES:
        surface, residual = _fit(_basis(*size, degree), blocks)
        if residual < _GOOD_FIT:
            break
    else:
        return None
    on_surface = (np.abs(blocks - surface) < _CLOSE).mean()
    if np.ptp(surface) < _FLAT or on_surface < _ON_SURFACE:
        return None
    light = np.exp(surface - surface.max()).astype(np.float32).reshape(size[::-1])
    return np.asarray(Image.fromarray(light).resize(picture.size, Image.Resampling.BICUBIC))


def _fit(basis: Floats, values: Floats) -> tuple[Floats, float]:
    """Return the surface at each block and the median residual, weighted by Tukey's biweight."""
    weights = np.ones(len(values))
    for _ in range(_STEPS):
        weighted = basis * weights[:, None]
        surface = basis @ np.linalg.solve(
            weighted.T @ basis + 1e-6 * np.eye(basis.shape[1]), weighted.T @ values
        )
        residuals = np.abs(values - surface)
        scale = max(float(np.median(residuals)), 1e-3)
        weights = np.maximum(0, 1 - (residuals / (_BIWEIGHT * scale)) ** 2) ** 2
    return surface, scale


@cache
def _basis(width: int, height: int, degree: int) -> Floats:
    """(height x width, terms): the powers of x and y in [-1, 1] up to a degree."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    terms = [x**i * y**j for i in range(degree + 1) for j in range(degree + 1 - i)]
    return np.stack(terms, axis=-1).reshape(width * height, -1)


def divide(picture: Image.Image, light: Floats) -> Image.Image:
    """Return a picture as under even light."""
    pixels = np.asarray(picture) / light.reshape(*light.shape, *[1] * (len(picture.getbands()) > 1))
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))
