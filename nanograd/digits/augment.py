"""Random distortions of training images, different in each epoch.

Elastic distortion, affine distortion and deskewing are combined into one displacement per pixel, so
the image is interpolated once. The caller passes a random generator that belongs to a shard and a
round, so the result does not depend on the worker that computes it.

References:
    Simard, Steinkraus & Platt (2003), "Best practices for convolutional neural networks applied
    to visual document analysis", section 2 (affine and elastic distortion).
"""

from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.random import Philox

from nanograd.digits.dataset import SIDE
from nanograd.digits.deskew import Size, deskewed_coordinates, resample
from nanograd.runtime.arrays import Bytes, Floats

# Standard deviation of the Gaussian that smooths the elastic field, in pixels (Simard: about 4).
_SMOOTHNESS = 4.0

# Number of images to distort together; for more, the working arrays do not fit into the cache.
_BLOCK = 64
# Waves with an amplitude below this share of the largest amplitude are left out.
_MIN_AMPLITUDE = 0.05
# Number of random numbers of an image that are not for the elastic field: rotation, scale x,
# scale y, shear, shift x, shift y, stroke.
_NUM_AFFINE = 7


@dataclass(frozen=True, kw_only=True)
class Distortion:
    """Strength of each distortion; the random value is uniform in [-strength, strength)."""

    elastic: float = 0.0  # displacement in x and in y, in pixels, root mean square
    rotation: float = 0.0  # degrees
    scaling: float = 0.0  # relative change of width and, independently, of height
    shear: float = 0.0  # horizontal pixels per row
    shift: float = 0.0  # pixels in x and in y
    stroke: float = 0.0  # pixels by which strokes become thicker or thinner; at most 2

    def __bool__(self) -> bool:
        """Return whether any strength is not 0."""
        return any(astuple(self))

    def __mul__(self, share: float) -> "Distortion":
        """Multiply each strength by a number."""
        return Distortion(
            **{each.name: share * getattr(self, each.name) for each in fields(Distortion)}
        )


def distort(
    images: Bytes, distortion: Distortion, generator: Philox, deskew_to: Size | None = None
) -> Floats:
    """Bend, rotate, scale, shear and shift each image, and change the width of its strokes.

    The images are (B, 784) uint8, ink 255 on 0; each uses the next NUM_DRAWS random numbers. Unless
    `deskew_to` is None, deskew the distorted images, and scale them to this size, as `deskew` does.
    Return (B, 784) float32, 0 to 255.
    """
    # Draws are uniform in [-1, 1), made of 24 bits of each half of a raw 64-bit number.
    halves = generator.random_raw(len(images) * NUM_DRAWS // 2).view(np.uint32) >> np.uint32(8)
    draws = halves.astype(np.float32).reshape(len(images), NUM_DRAWS)
    draws *= np.float32(2.0**-23)
    draws -= np.float32(1)
    distorted = np.empty(images.shape, np.float32)
    for start in range(0, len(images), _BLOCK):
        block = slice(start, start + _BLOCK)
        strokes = vary_stroke(images[block], draws[block, 6] * np.float32(distortion.stroke))
        weights = field_weights(distortion, draws[block])
        sources = field_coordinates(weights)
        distorted[block] = resample(strokes, sources)
        if deskew_to is not None:
            # Evaluate the affine part at the deskewed coordinates. The elastic part is smooth, so
            # its values at the original pixels are kept.
            deskewed = deskewed_coordinates(distorted[block], deskew_to)
            across, down = (deskewed - _GRID).reshape(2, -1, SIDE, SIDE)
            whole = sources.reshape(2, -1, SIDE, SIDE)
            whole += weights[:, :, 1, None, None] * across
            # `down` is constant along a row, because deskewing keeps rows horizontal.
            whole += (weights[:, :, 2, None] * down[:, :, 0])[..., None]
            distorted[block] = resample(strokes, sources)
    return distorted


def field_weights(distortion: Distortion, draws: Floats) -> Floats:
    """Compute weights that say from where in the image each pixel of the result is taken.

    The column, and likewise the row, from which a pixel is taken is a weighted sum of functions of
    the pixel's position: 1, x, y and F cosine waves, which make the elastic distortion. `draws` has
    random numbers in [-1, 1), (B, NUM_DRAWS) float32. Return (2, B, 3 + F) float32: weights for
    columns, then weights for rows.
    """
    angle, scale_x, scale_y, shear, shift_x, shift_y = draws[:, :6].T
    angle = angle * np.float32(np.radians(distortion.rotation))
    scale_x = 1 + scale_x * np.float32(distortion.scaling)
    scale_y = 1 + scale_y * np.float32(distortion.scaling)
    shear = shear * np.float32(distortion.shear)
    cos, sin = np.cos(angle), np.sin(angle)
    centre = np.float32((SIDE - 1) / 2)
    weights = np.empty((2, len(draws), len(_BASIS)), np.float32)
    weights[0, :, 0] = centre + shift_x * np.float32(distortion.shift)
    weights[1, :, 0] = centre + shift_y * np.float32(distortion.shift)
    # The order is shear, scale, rotate.
    weights[0, :, 1] = cos * scale_x
    weights[0, :, 2] = cos * scale_x * shear - sin * scale_y
    weights[1, :, 1] = sin * scale_x
    weights[1, :, 2] = sin * scale_x * shear + cos * scale_y
    field = draws[:, _NUM_AFFINE : _NUM_AFFINE + 2 * _NUM_WAVES].reshape(len(draws), 2, _NUM_WAVES)
    np.multiply(field.swapaxes(0, 1), np.float32(distortion.elastic), out=weights[:, :, 3:])
    return weights


def field_coordinates(weights: Floats) -> Floats:
    """Compute source coordinates, (2, B, 784) float32, as one matrix product for all images."""
    num_images = weights.shape[1]
    return (weights.reshape(-1, len(_BASIS)) @ _BASIS).reshape(2, num_images, SIDE * SIDE)


def vary_stroke(images: Bytes, by: Floats) -> Floats:
    """Make strokes of (B, 784) uint8 images thicker or thinner; the result is float32.

    Each image is mixed with its maximum or minimum over 3 x 3 pixels, which moves both edges of a
    stroke by one pixel. `by` is (B,) float32 in [-2, 2], pixels; negative for thinner strokes.
    """
    # The minimum is computed as the maximum of the negative.
    negative = np.where(by < 0, np.uint8(255), np.uint8(0))[:, None, None]
    padded = np.zeros((len(images), SIDE + 2, SIDE + 2), np.uint8)
    padded[:, 1:-1, 1:-1] = images.reshape(-1, SIDE, SIDE)
    padded ^= negative
    rows = np.maximum(np.maximum(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
    extremes = np.maximum(np.maximum(rows[:, :, :-2], rows[:, :, 1:-1]), rows[:, :, 2:])
    extremes ^= negative
    strokes = images.astype(np.float32)
    change = extremes.reshape(images.shape).astype(np.float32)
    change -= strokes
    change *= np.abs(by[:, None]) / 2
    strokes += change
    return strokes


def _make_basis() -> Floats:
    """Compute the functions of `field_weights` at each pixel, (3 + F, 784) float32.

    They are 1, x and y from the centre of the image, and F cosine waves. The amplitudes follow the
    spectrum of a Gaussian, so a random sum is like white noise smoothed by this Gaussian, and takes
    a few dozen random numbers instead of one per pixel.
    """
    wave = np.arange(SIDE)
    cosines = np.cos(np.pi * wave[:, None] * (np.arange(SIDE) + 0.5) / SIDE)
    cosines[1:] *= np.sqrt(2)
    amplitude = np.exp(-((_SMOOTHNESS * np.pi * wave / SIDE) ** 2) / 2)
    strong = np.argwhere(np.outer(amplitude, amplitude) >= _MIN_AMPLITUDE)
    waves = np.stack(
        [amplitude[k] * amplitude[j] * np.outer(cosines[k], cosines[j]) for k, j in strong]
    )
    # The uniform distribution on [-1, 1) has variance 1/3.
    waves *= np.sqrt(3 / np.square(waves).sum(axis=0).mean())
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    basis = np.stack([np.ones_like(x), x, y, *waves])
    return basis.reshape(len(basis), SIDE * SIDE).astype(np.float32)


_BASIS = _make_basis()
# (2, 1, 784): column and row of each pixel
_GRID = np.mgrid[:SIDE, :SIDE][::-1].reshape(2, 1, -1).astype(np.float32)
_NUM_WAVES = len(_BASIS) - 3
# Rounded up to an even number, because a raw random number gives two draws.
NUM_DRAWS = (_NUM_AFFINE + 2 * _NUM_WAVES + 1) // 2 * 2
