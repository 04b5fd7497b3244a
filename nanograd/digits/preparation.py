"""Preparation: pixels to the inputs of a net, by the same function in training and prediction.

A model stores the name and version of its preparation; an unknown one is refused.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanograd.data.dataset import SIDE
from nanograd.data.levels import describe, to_levels
from nanograd.digits.deskew import UNCHANGED, Size, deskew
from nanograd.errors import ArgumentError

# Mean and standard deviation of MNIST's 60,000 training images, as shares of full ink.
_MEAN, _DEVIATION = 0.1307, 0.3081

# name -> (factor, offset) of an affine map of 0..255, in float32
_STANDARD = (np.float32(1 / 255 / _DEVIATION), np.float32(-_MEAN / _DEVIATION))
_AFFINE = {
    "plain": (np.float32(1), np.float32(0)),
    "unit": (np.float32(1 / 255), np.float32(0)),
    "standard": _STANDARD,
    "deskewed": _STANDARD,
}


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Name, version and parameters of a preparation.

    Raises:
        ValueError: unknown name or version, or a size that has no effect.
    """

    # Plain (numbers as they are), unit (0 to 1), standard (mean 0, deviation 1 over MNIST) or
    # deskewed (deskewed and centred, then as standard).
    name: str
    version: int = 1  # raised when the same name comes to mean other numbers
    width: float = 0.0  # of deskewed digits, see `deskew.Size`
    height: float = 0.0  # the same

    def __post_init__(self) -> None:
        if self.name not in _AFFINE or self.version != 1:
            raise ValueError(f"unknown pixel preparation {self.name!r} version {self.version}")
        if not all(0 <= each < SIDE for each in self.size) or (
            self.size != UNCHANGED and self.name != "deskewed"
        ):
            raise ValueError(f"pixel preparation {self.name!r} cannot have {self.size}")

    @property
    def size(self) -> Size:
        """Size of deskewed digits."""
        return Size(self.width, self.height)


def as_rows(images: ArrayLike) -> NDArray[np.uint8]:
    """Convert images of the usual shapes and dtypes to (N, 784) uint8, ink 255 on 0.

    Args:
        images: (N, 28, 28) or (N, 784), ink on 0: levels from 0 to 255, or shares of full ink from
            0 to 1, which are rounded to the nearest 1/255; see `nanograd.data.levels`.

    Raises:
        ArgumentError: another shape or dtype, or an image whose scale is unclear.

    >>> as_rows(np.ones((2, 28, 28))).max(axis=1).tolist()
    [255, 255]
    """
    try:
        given = np.asarray(images)
    except ValueError as error:  # lists of other lengths
        raise ArgumentError(f"images are (N, 28, 28) or (N, 784): {error}") from error
    if given.shape[1:] not in ((SIDE, SIDE), (SIDE * SIDE,)):
        raise ArgumentError(f"images are (N, 28, 28) or (N, 784), not {given.shape}")
    if given.dtype.kind not in "bfui":
        raise ArgumentError(f"images are whole numbers or floats, not {given.dtype}")
    rows, problems = to_levels(given.reshape(len(given), SIDE * SIDE))
    if (problems >= 0).any():
        first = int((problems >= 0).argmax())
        raise ArgumentError(f"image {first}: {describe(problems[first])}")
    return rows


def prepare(preparation: Preparation, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compute the inputs, (B, 784) float32, of images, (B, 784) uint8 with ink 255 on 0."""
    return scale(preparation, deskew_images(preparation, images))


def deskew_images(preparation: Preparation, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Do the part of a preparation that precedes any distortion: (B, 784) uint8 to the same."""
    return deskew(images, preparation.size) if preparation.name == "deskewed" else images


def without_deskewing(preparation: Preparation) -> Preparation:
    """Return the rest of a preparation, for images from `deskew_images`."""
    return Preparation(name="standard") if preparation.name == "deskewed" else preparation


def scale(
    preparation: Preparation, images: NDArray[np.uint8] | NDArray[np.float32]
) -> NDArray[np.float32]:
    """Do the last part of a preparation, (B, 784) values in 0..255 to float32."""
    factor, offset = _AFFINE[preparation.name]
    inputs = images.astype(np.float32)
    inputs *= factor
    inputs += offset
    return inputs


def affine(preparation: Preparation) -> tuple[float, float]:
    """Return factor and offset of `scale`, which are float32 values."""
    factor, offset = _AFFINE[preparation.name]
    return float(factor), float(offset)
