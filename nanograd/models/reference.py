"""Statistics of training images that a model keeps, to judge its own predictions by.

A temperature turns scores into probabilities. For each class there are the mean of its images, as
the first net sees them after deskewing, and the directions in which they differ most. An image is
as unfamiliar as it is far from these directions of its predicted class, and along them from the
mean:

    z = image x 255 / brightest pixel - mean,  y_i = direction_i . z
    d = max(scale |z|^2 + sum_i weight_i y_i^2, 16 / brightest pixel)
    unfamiliarity = d^4 / (1 + d^4)

Scale and weights make d a sum of the residual |z|^2 - sum_i y_i^2 and of the squares y_i^2 in
proportion to their variances, and 1 at the threshold that `training.calibration` chooses. An image
without a pixel above 16 levels is unfamiliar in any case.

References:
    Guo, Pleiss, Sun & Weinberger (2017), "On calibration of modern neural networks", section 4.2
    (temperature scaling); Tipping & Bishop (1999), "Probabilistic principal component analysis";
    Lee, Lee, Lee & Shin (2018), "A simple unified framework for detecting out-of-distribution
    samples and adversarial attacks" (distances to each class).
"""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanograd.data.dataset import NUM_CLASSES, NUM_PIXELS, SIDE

NUM_DIRECTIONS = 20
# From this value on, an image counts as unfamiliar.
UNFAMILIAR = 0.5
# Scores below this count as this: the power of 0 would have no ratio to that of another 0.
LEAST_SCORE = np.float32(1e-20)
# The brightest pixel of an image that is as unfamiliar as the threshold.
FAINT = np.float32(16)
# Pixels in which directions differ from 0: hardly any digit has ink in the two outer rows.
INNER = np.flatnonzero(np.pad(np.ones((SIDE - 4, SIDE - 4), bool), 2))
# Bounds of the temperature's reciprocal, and the decimals that are kept of the temperature.
_LEAST_POWER, _MOST_POWER, _DECIMALS = 0.2, 5.0, 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Statistics of the training images, as a model sees them; whole numbers where possible."""

    temperature: float  # of the scores; above 1, they are less certain than the net's own
    means: NDArray[np.uint8]  # (10, 784), grey levels
    directions: NDArray[np.int8]  # (10, NUM_DIRECTIONS, 576) of the pixels INNER
    scales: NDArray[np.float32]  # (10,) of the squared distance to the mean
    weights: NDArray[np.float32]  # (10, NUM_DIRECTIONS) of the squared products with directions

    def __post_init__(self) -> None:
        if not 1 / _MOST_POWER <= self.temperature <= 1 / _LEAST_POWER:
            raise ValueError(f"temperature {self.temperature!r} is out of range")
        for name, (dtype, shape) in _TENSORS.items():
            tensor = getattr(self, name)
            if tensor.dtype != dtype or tensor.shape != shape or not np.isfinite(tensor).all():
                raise ValueError(f"tensor {name} is {tensor.dtype} {tensor.shape} or not finite")

    def config(self) -> dict[str, Any]:
        """Return its entry in `config.json`; the rest are tensors."""
        return {"temperature": self.temperature}

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return its tensors by name."""
        return {name: getattr(self, name) for name in _TENSORS}

    def unfamiliarity(
        self, images: NDArray[np.uint8], classes: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        """Compute how unlike their predicted classes (B, 784) deskewed images are.

        Returns:
            (B,) float32, from 0, as the mean of the class, to 1.
        """
        fourth = self.distances(images, classes) ** 4
        return np.asarray(fourth / (1 + fourth))

    def distances(
        self, images: NDArray[np.uint8], classes: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        """Compute d, (B,) float32, at least 0, of the same arguments."""
        distances = np.empty(len(images), np.float32)
        brightest = images.max(axis=1, initial=1).astype(np.float32)
        for each in np.unique(classes):
            rows = np.flatnonzero(classes == each)
            z = stretch(images[rows], brightest[rows])
            z -= self.means[each]
            products = z @ self._padded[each]
            distances[rows] = products**2 @ self.weights[each]
            distances[rows] += self.scales[each] * np.einsum("bd,bd->b", z, z)
        return np.asarray(np.maximum(distances, FAINT / brightest), np.float32)

    @cached_property
    def _padded(self) -> NDArray[np.float32]:
        """Directions as (10, 784, NUM_DIRECTIONS) float32: a product of all pixels is faster."""
        padded = np.zeros((NUM_CLASSES, NUM_PIXELS, NUM_DIRECTIONS), np.float32)
        padded[:, INNER] = self.directions.swapaxes(1, 2)
        return padded


REFERENCE_TENSORS = tuple(each.name for each in fields(Reference) if each.name != "temperature")
_TENSORS: dict[str, tuple[type, tuple[int, ...]]] = {
    "means": (np.uint8, (NUM_CLASSES, NUM_PIXELS)),
    "directions": (np.int8, (NUM_CLASSES, NUM_DIRECTIONS, len(INNER))),
    "scales": (np.float32, (NUM_CLASSES,)),
    "weights": (np.float32, (NUM_CLASSES, NUM_DIRECTIONS)),
}


def stretch(images: NDArray[np.uint8], brightest: NDArray[np.float32]) -> NDArray[np.float32]:
    """Multiply (B, 784) grey levels so that the brightest of each image, (B,), becomes 255."""
    stretched = images.astype(np.float32)
    if (brightest < 255).any():
        stretched *= (np.float32(255) / brightest)[:, None]
    return stretched


def to_probabilities(scores: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float32]:
    """Raise scores to the power 1 / T and divide each row by its sum.

    Of the scores of one net with softmax outputs, this is softmax(z / T). It changes no order
    within a row.

    Args:
        scores: (B, C) float32, 0 to 1.
        temperature: T > 0.

    Returns:
        (B, C) float32; a row sums to 1.

    >>> to_probabilities(np.float32([[0.75, 0.25], [0, 0]]), 0.5).tolist()
    [[0.8999999761581421, 0.10000000149011612], [0.5, 0.5]]
    """
    shares = np.maximum(scores, LEAST_SCORE)
    shares /= shares.max(axis=1, keepdims=True)  # the power of the largest does not underflow
    powers = shares ** np.float32(1 / temperature)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def fit_temperature(scores: NDArray[np.float32], labels: NDArray[np.integer]) -> float:
    """Find the temperature with the least negative log-likelihood.

    In b = 1 / T, the likelihood of log p = b log s - log sum_k s_k^b is concave; the root of its
    derivative, mean(log s_label - sum_k p_k log s_k), is found by bisection.

    Args:
        scores: (N, C) float32, 0 to 1.
        labels: (N,) their classes.
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
