"""Distortions of training images, drawn afresh for every image and epoch.

Elastic and affine distortion, and setting upright what comes out, are one displacement of the
pixels, so ink is interpolated once.
All randomness comes from the generator that is passed in, which belongs to one shard and round:
the same images come out whoever computes them.

References:
    Simard, Steinkraus & Platt (2003), "Best practices for convolutional neural networks applied
    to visual document analysis", section 2 (affine and elastic distortion).
"""

from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.random import Philox
from numpy.typing import NDArray

from nanograd.digits.deskew import Size, upright_places
from nanograd.digits.resample import SIDE, resample

# Standard deviation of the Gaussian that smooths the elastic field, in pixels (Simard: about 4).
SMOOTHNESS = 4.0

# Images at once: the working arrays of more fall out of cache.
_BLOCK = 64
# Waves of the elastic field that are weaker than this, as a share of the strongest, are left out.
_WEAKEST = 0.05
# Draws of an image that are not the field's: rotation, scale x and y, shear, shift x and y, stroke
_NUM_AFFINE = 7


@dataclass(frozen=True, kw_only=True)
class Distortion:
    """How far training images are distorted; each draw is uniform between -most and +most.

    Args:
        elastic: pixels, root mean square over images and pixels, in x and in y.
        rotation: degrees.
        scaling: share by which width and height change, each for itself.
        shear: pixels a row.
        shift: pixels, in x and in y.
        stroke: pixels by which strokes get thicker or thinner; at most 2.
    """

    elastic: float = 0.0
    rotation: float = 0.0
    scaling: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    stroke: float = 0.0

    def __bool__(self) -> bool:
        """Whether it changes anything."""
        return any(astuple(self))

    def __mul__(self, share: float) -> "Distortion":
        """All of it that much weaker."""
        return Distortion(
            **{each.name: share * getattr(self, each.name) for each in fields(Distortion)}
        )


def distort(
    images: NDArray[np.uint8],
    distortion: Distortion,
    generator: Philox,
    upright: Size | None = None,
) -> NDArray[np.float32]:
    """Each image elastically bent, turned, scaled, sheared, moved, and its strokes made otherwise.

    Args:
        images: (B, 784) uint8, ink 255 on 0.
        distortion: how far.
        generator: source of the draws, the same number for each image, one after the other.
        upright: set the distorted images upright, as `deslant` does with this size; None leaves
            them as they lean.

    Returns:
        (B, 784) float32, 0 to 255; with no distortion the images, bit for bit.
    """
    draws = _uniform(generator, len(images))
    distorted = np.empty(images.shape, np.float32)
    for start in range(0, len(images), _BLOCK):
        block = slice(start, start + _BLOCK)
        strokes = vary_stroke(images[block], draws[block, 6] * np.float32(distortion.stroke))
        weights = _weights(distortion, draws[block])
        sources = _places(weights)
        distorted[block] = resample(strokes, sources)
        if upright is not None:
            _follow(sources, weights, upright_places(distorted[block], upright))
            distorted[block] = resample(strokes, sources)
    return distorted


def places(distortion: Distortion, draws: NDArray[np.float32]) -> NDArray[np.float32]:
    """Where the pixels of each distorted image come from.

    A place is a sum of basis functions over the image: 1, x, y, and the waves of the elastic field.
    All places of all images are one matrix product of their coefficients with that basis.

    Args:
        distortion: how far.
        draws: (B, NUM_DRAWS) float32 in [-1, 1).

    Returns:
        (2, B, 784) float32: column and row, counted from the middle of the first pixel.
    """
    return _places(_weights(distortion, draws))


def _places(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    num_images = weights.shape[1]
    return (weights.reshape(-1, len(_BASIS)) @ _BASIS).reshape(2, num_images, SIDE * SIDE)


def _follow(
    sources: NDArray[np.float32], weights: NDArray[np.float32], standing: NDArray[np.float32]
) -> None:
    """Look the affine part up where the upright image's pixels stand, in place.

    The elastic field, which is smooth, is left where it was: so ink is interpolated once, and no
    field is evaluated off the grid.
    """
    across, down = (standing - _GRID).reshape(2, -1, SIDE, SIDE)
    whole = sources.reshape(2, -1, SIDE, SIDE)
    whole += weights[:, :, 1, None, None] * across
    # Rows stay level: how far down is the same all along one.
    whole += (weights[:, :, 2, None] * down[:, :, 0])[..., None]


def _weights(distortion: Distortion, draws: NDArray[np.float32]) -> NDArray[np.float32]:
    """(2, B, 3 + F): of each basis function, for columns and rows."""
    angle, scale_x, scale_y, shear, shift_x, shift_y = draws[:, :6].T
    angle = angle * np.float32(np.radians(distortion.rotation))
    scale_x = 1 + scale_x * np.float32(distortion.scaling)
    scale_y = 1 + scale_y * np.float32(distortion.scaling)
    shear = shear * np.float32(distortion.shear)
    cos, sin = np.cos(angle), np.sin(angle)
    middle = np.float32((SIDE - 1) / 2)
    weights = np.empty((2, len(draws), len(_BASIS)), np.float32)
    weights[0, :, 0] = middle + shift_x * np.float32(distortion.shift)
    weights[1, :, 0] = middle + shift_y * np.float32(distortion.shift)
    # Shear, then scale, then turn.
    weights[0, :, 1] = cos * scale_x
    weights[0, :, 2] = cos * scale_x * shear - sin * scale_y
    weights[1, :, 1] = sin * scale_x
    weights[1, :, 2] = sin * scale_x * shear + cos * scale_y
    field = draws[:, _NUM_AFFINE : _NUM_AFFINE + 2 * _NUM_WAVES].reshape(len(draws), 2, _NUM_WAVES)
    np.multiply(field.swapaxes(0, 1), np.float32(distortion.elastic), out=weights[:, :, 3:])
    return weights


def vary_stroke(images: NDArray[np.uint8], by: NDArray[np.float32]) -> NDArray[np.float32]:
    """Strokes made thicker or thinner.

    Each image is mixed with its maximum or minimum over 3 x 3 pixels, which moves both edges of a
    stroke by one pixel.

    Args:
        images: (B, 784) uint8.
        by: (B,) float32 in [-2, 2], pixels a stroke gains in thickness.

    Returns:
        (B, 784) float32.
    """
    # The minimum is the maximum of the negative.
    negative = np.where(by < 0, np.uint8(255), np.uint8(0))[:, None, None]
    padded = np.zeros((len(images), SIDE + 2, SIDE + 2), np.uint8)
    padded[:, 1:-1, 1:-1] = images.reshape(-1, SIDE, SIDE)
    padded ^= negative
    rows = np.maximum(np.maximum(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
    widest = np.maximum(np.maximum(rows[:, :, :-2], rows[:, :, 1:-1]), rows[:, :, 2:])
    widest ^= negative
    strokes = images.astype(np.float32)
    change = widest.reshape(images.shape).astype(np.float32)
    change -= strokes
    change *= np.abs(by[:, None]) / 2
    strokes += change
    return strokes


def _uniform(generator: Philox, num_images: int) -> NDArray[np.float32]:
    """(B, NUM_DRAWS) in [-1, 1): the upper 24 bits of each half of a raw draw, exact in float32."""
    raw = generator.random_raw(num_images * NUM_DRAWS // 2)
    halves = raw.view(np.uint32) >> np.uint32(8)
    draws = halves.astype(np.float32).reshape(num_images, NUM_DRAWS)
    draws *= np.float32(2.0**-23)
    draws -= np.float32(1)
    return draws


def _basis() -> NDArray[np.float32]:
    """(3 + F, 784): 1, x and y from the image's middle, and the F waves of the elastic field.

    White noise smoothed by a Gaussian, with mirrors for borders, is a sum of cosine waves whose
    amplitudes fall off as the Gaussian's own spectrum. Here its draws are those of the waves, a
    few dozen instead of one for each pixel.
    """
    wave = np.arange(SIDE)
    cosines = np.cos(np.pi * wave[:, None] * (np.arange(SIDE) + 0.5) / SIDE)
    cosines[1:] *= np.sqrt(2)
    amplitude = np.exp(-((SMOOTHNESS * np.pi * wave / SIDE) ** 2) / 2)
    strong = np.argwhere(np.outer(amplitude, amplitude) >= _WEAKEST)
    waves = np.stack(
        [amplitude[k] * amplitude[j] * np.outer(cosines[k], cosines[j]) for k, j in strong]
    )
    # A uniform draw from -1 to 1 has the variance 1/3.
    waves *= np.sqrt(3 / np.square(waves).sum(axis=0).mean())
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    basis = np.stack([np.ones_like(x), x, y, *waves])
    return basis.reshape(len(basis), SIDE * SIDE).astype(np.float32)


_BASIS = _basis()
# (2, 1, 784): column and row of each pixel
_GRID = np.mgrid[:SIDE, :SIDE][::-1].reshape(2, 1, -1).astype(np.float32)
_NUM_WAVES = len(_BASIS) - 3
# An even number, since a raw draw gives two.
NUM_DRAWS = (_NUM_AFFINE + 2 * _NUM_WAVES + 1) // 2 * 2
