"""Pixel preparation: the conversion of pixels to inputs of a net, in training and prediction."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from nanograd.digits.dataset import NUM_CLASSES, SIDE, Dataset
from nanograd.digits.deskew import UNCHANGED, Size, deskew
from nanograd.digits.levels import array_to_levels
from nanograd.errors import ArgumentError
from nanograd.runtime.arrays import Bytes, Floats
from nanograd.runtime.events import count

# Mean and standard deviation of the pixels of MNIST's 60,000 training images, scaled to 0..1.
_MEAN, _DEVIATION = 0.1307, 0.3081

# Factor and offset that convert 0..255 to inputs, by the name of the preparation.
_STANDARD = (1 / 255 / _DEVIATION, -_MEAN / _DEVIATION)
_AFFINE = {"plain": (1, 0), "unit": (1 / 255, 0), "standard": _STANDARD, "deskewed": _STANDARD}


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Name, version and parameters of a preparation.

    Raises:
        ValueError: the name or version is unknown, or the size has no effect.
    """

    # plain: unchanged; unit: scaled to 0..1; standard: mean 0 and standard deviation 1 over MNIST's
    # training images; deskewed: deskewed, then standard
    name: str
    version: int = 1  # increased when the meaning of a name changes
    width: float = 0.0  # target size of deskewed digits, see `deskew.Size`
    height: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in _AFFINE or self.version != 1:
            raise ValueError(f"unknown pixel preparation {self.name!r} version {self.version}")
        if not all(0 <= each < SIDE for each in self.size) or (
            self.size != UNCHANGED and self.name != "deskewed"
        ):
            raise ValueError(f"pixel preparation {self.name!r} cannot have {self.size}")

    @property
    def size(self) -> Size:
        """Target size of deskewed digits."""
        return Size(self.width, self.height)


def as_rows(images: ArrayLike) -> Bytes:
    """Convert (N, 28, 28) or (N, 784) numbers with background 0 to (N, 784) uint8, ink 255 on 0.

    Raises:
        ArgumentError: the shape or dtype does not fit, or the scale of an image is unclear.
    """
    try:
        given = np.asarray(images)
    except ValueError as error:  # nested lists of different lengths
        raise ArgumentError(f"images must be (N, 28, 28) or (N, 784): {error}") from error
    if given.shape[1:] not in ((SIDE, SIDE), (SIDE * SIDE,)):
        raise ArgumentError(f"images must be (N, 28, 28) or (N, 784), not {given.shape}")
    if given.dtype.kind not in "bfui":
        raise ArgumentError(f"images must be integers or floats, not {given.dtype}")
    rows, problem = array_to_levels(given.reshape(len(given), SIDE * SIDE))
    if problem:
        raise ArgumentError(f"image {problem[0]}: {problem[1]}")
    return rows


def labelled_rows(images: ArrayLike, labels: ArrayLike) -> Dataset:
    """Convert images as `as_rows` does, and labels, (N,) from 0 to 9, or raise ArgumentError."""
    rows, numbers = as_rows(images), np.asarray(labels)
    if not len(rows):
        raise ArgumentError("0 images: at least one is needed")
    if numbers.shape != (len(rows),):
        images_ = count(len(rows), "image")
        raise ArgumentError(f"labels of shape {numbers.shape} for {images_}: each needs one label")
    is_digit = np.isin(numbers, range(NUM_CLASSES)) & (numbers.dtype.kind not in "bSU")
    if not is_digit.all():
        first = int(is_digit.argmin())
        label = numbers.tolist()[first]
        raise ArgumentError(f"label {first} is {label!r}, not a whole number from 0 to 9")
    return Dataset(rows, numbers.astype(np.uint8))


def deskew_images(preparation: Preparation, images: Bytes) -> Bytes:
    """Apply the first step of a preparation, before any distortion: (B, 784) uint8 to uint8."""
    return deskew(images, preparation.size) if preparation.name == "deskewed" else images


def scale(preparation: Preparation, images: Bytes | Floats) -> Floats:
    """Apply the last step of a preparation: (B, 784) values from 0 to 255 to float32 inputs."""
    factor, offset = affine(preparation)
    inputs = images.astype(np.float32)
    inputs *= factor
    inputs += offset
    return inputs


def affine(preparation: Preparation) -> tuple[float, float]:
    """Return factor and offset of `scale`; both are exact in float32."""
    factor, offset = np.array(_AFFINE[preparation.name], np.float32).tolist()
    return factor, offset
