"""The reference of a model: statistics that give the probability and unfamiliarity of predictions.

The temperature converts scores to probabilities. For each class, the reference has the mean of its
training images and the directions in which they vary most. All images are deskewed as for the
first net of the model. The unfamiliarity of an image follows from its distance d to its predicted
class:

    z = image x 255 / brightest pixel - mean,  y_i = direction_i . z
    d = max(scale |z|^2 + sum_i weight_i y_i^2, 16 / brightest pixel)
    unfamiliarity = d^4 / (1 + d^4)

d is a weighted sum of the residual |z|^2 - sum_i y_i^2 and of the squares y_i^2 / variance_i.
`training.calibration` chooses the weights so that d is above 1, and the unfamiliarity above 1/2,
for 6 % of distorted training images. An image whose brightest pixel is at most 16 is always
unfamiliar.

References:
    Guo, Pleiss, Sun & Weinberger (2017), "On calibration of modern neural networks", section 4.2
    (temperature scaling); Tipping & Bishop (1999), "Probabilistic principal component analysis";
    Lee, Lee, Lee & Shin (2018), "A simple unified framework for detecting out-of-distribution
    samples and adversarial attacks" (distances to each class).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanograd.digits.dataset import NUM_CLASSES, NUM_PIXELS, SIDE
from nanograd.runtime.arrays import Bytes, Floats

NUM_DIRECTIONS = 20
# Images with a larger unfamiliarity are counted as unfamiliar.
UNFAMILIAR = 0.5
# Smaller scores are raised to this, because logarithms and ratios of zeros are undefined.
LEAST_SCORE = np.float32(1e-20)
# Images whose brightest pixel is at most this are unfamiliar.
FAINT = np.float32(16)
# Pixels of the directions. They exclude two rows and columns at each edge, which rarely have ink.
INNER = np.flatnonzero(np.pad(np.ones((SIDE - 4, SIDE - 4), bool), 2))
# Range of 1 / temperature, and decimals of the temperature.
_LEAST_POWER, _MOST_POWER, _DECIMALS = 0.2, 5.0, 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Statistics of the training images of a model.

    Raises:
        ValueError: the temperature is out of range, a tensor has a wrong dtype or shape, or a value
            is not finite.
    """

    temperature: float  # above 1, it makes probabilities less certain than scores
    means: Bytes  # (10, 784) uint8, levels from 0 to 255
    directions: NDArray[np.int8]  # (10, NUM_DIRECTIONS, 576) int8, of the pixels INNER
    scales: Floats  # (10,) float32, factor of |z|^2
    weights: Floats  # (10, NUM_DIRECTIONS) float32, factor of y_i^2

    def __post_init__(self) -> None:
        if not 1 / _MOST_POWER <= self.temperature <= 1 / _LEAST_POWER:
            raise ValueError(f"temperature {self.temperature!r} is out of range")
        for name, (dtype, shape) in REFERENCE_TENSORS.items():
            tensor = getattr(self, name)
            if tensor.dtype != dtype or tensor.shape != shape or not np.isfinite(tensor).all():
                raise ValueError(f"tensor {name} is {tensor.dtype} {tensor.shape} or not finite")

    def config(self) -> dict[str, float]:
        """Return the entry in `config.json`: everything except the tensors."""
        return {"temperature": self.temperature}

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the tensors by name."""
        return {name: getattr(self, name) for name in REFERENCE_TENSORS}

    def unfamiliarity(self, images: Bytes, classes: NDArray[np.integer]) -> Floats:
        """Compute d^4 / (1 + d^4) of (B, 784) uint8 deskewed images, (B,) float32 in [0, 1]."""
        fourth = self.distances(images, classes) ** 4
        return np.asarray(fourth / (1 + fourth))

    def distances(self, images: Bytes, classes: NDArray[np.integer]) -> Floats:
        """Compute d, (B,) float32, >= 0, for the arguments of `unfamiliarity`."""
        distances = np.empty(len(images), np.float32)
        brightest = images.max(axis=1, initial=1).astype(np.float32)
        for each in np.unique(classes):
            rows = np.flatnonzero(classes == each)
            z = stretch(images[rows], brightest[rows])
            z -= self.means[each]
            products = z @ self.padded[each]
            distances[rows] = products**2 @ self.weights[each]
            distances[rows] += self.scales[each] * np.einsum("bd,bd->b", z, z)
        return np.asarray(np.maximum(distances, FAINT / brightest), np.float32)

    @cached_property
    def padded(self) -> Floats:
        """Directions as (10, 784, NUM_DIRECTIONS) float32; selecting INNER would be slower."""
        padded = np.zeros((NUM_CLASSES, NUM_PIXELS, NUM_DIRECTIONS), np.float32)
        padded[:, INNER] = self.directions.swapaxes(1, 2)
        return padded


REFERENCE_TENSORS: dict[str, tuple[type, tuple[int, ...]]] = {
    "means": (np.uint8, (NUM_CLASSES, NUM_PIXELS)),
    "directions": (np.int8, (NUM_CLASSES, NUM_DIRECTIONS, len(INNER))),
    "scales": (np.float32, (NUM_CLASSES,)),
    "weights": (np.float32, (NUM_CLASSES, NUM_DIRECTIONS)),
}


def stretch(images: Bytes, brightest: Floats) -> Floats:
    """Scale (B, 784) uint8 images to a maximum of 255; `brightest` has (B,) maxima, >= 1."""
    stretched = images.astype(np.float32)
    if (brightest < 255).any():
        stretched *= (np.float32(255) / brightest)[:, None]
    return stretched


def to_probabilities(scores: Floats, temperature: float = 1.0) -> Floats:
    """Raise each score to the power 1 / T, and divide each row by its sum.

    Scores are (B, C) float32 from 0 to 1. If a net has softmax outputs, softmax(z), the result is
    softmax(z / T). The best class stays the best. A row of zeros gives equal probabilities.

    >>> to_probabilities(np.float32([[0.75, 0.25], [0, 0]]), 0.5).tolist()
    [[0.8999999761581421, 0.10000000149011612], [0.5, 0.5]]
    """
    shares = np.maximum(scores, LEAST_SCORE)
    shares /= shares.max(axis=1, keepdims=True)  # so that not all powers underflow
    powers = shares ** np.float32(1 / temperature)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def fit_temperature(scores: Floats, labels: NDArray[np.integer]) -> float:
    """Find the temperature, from 0.2 to 5, with the smallest negative log-likelihood.

    With b = 1 / T, the log-likelihood mean(b log s_label - log sum_k s_k^b) of the (N, C) scores s
    is concave in b. Bisection finds the root of its derivative.
    """
    logs = np.log(np.maximum(scores, LEAST_SCORE).astype(np.float64))
    logs -= logs.max(axis=1, keepdims=True)
    wanted = logs[np.arange(len(labels)), labels].mean()
    low, high = _LEAST_POWER, _MOST_POWER
    while high - low > 10 ** -(_DECIMALS + 2):
        power = (low + high) / 2
        shares = np.exp(power * logs)
        mean = ((shares * logs).sum(axis=1) / shares.sum(axis=1)).mean()
        low, high = (low, power) if mean > wanted else (power, high)
    return round(2 / (low + high), _DECIMALS)
