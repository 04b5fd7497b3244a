"""The statistics of training images that a model keeps, fitted when its nets are trained.

Their images were learnt, so the net knows them too well to judge itself by them. They are distorted
ever more strongly until it misclassifies one in twenty: from there on, the temperature is the same
for images that were trained on and for others (docs/decisions/0025).
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nanograd.data.dataset import NUM_CLASSES, Dataset
from nanograd.digits.augment import Distortion, distort
from nanograd.digits.preparation import deskew_images
from nanograd.models.model import Model
from nanograd.models.reference import INNER, NUM_DIRECTIONS, Reference, fit_temperature, stretch
from nanograd.runtime import process
from nanograd.runtime.arrays import Doubles
from nanograd.runtime.randomness import HARDER, stream

# Images, evenly spaced; strengths of the distortion to try, and the errors at which to stop.
_NUM_IMAGES, _STRENGTHS, _ERRORS = 6000, np.arange(5, 21) / 10, 0.05
_DISTORTION = Distortion(elastic=1.7, rotation=15, scaling=0.2, shear=0.1, shift=0.5, stroke=0.7)
# The share of distorted training images that count as unfamiliar.
_TAIL = 0.06
# The weight of distances along the directions, against that of the residual.
_ALONG = 0.25
# Variance of a direction in which the images of a class do not differ, in grey levels squared.
_LEAST_VARIANCE = 1.0


def with_reference(model: Model, training: Dataset, seed: int = 0) -> Model:
    """Return a model with statistics of its training images.

    Args:
        model: its nets are trained; an earlier reference is replaced.
        training: the images they were trained on.
        seed: 0 to 2**63 - 1, of the distortions.
    """
    model = replace(model, reference=None)
    chosen = np.linspace(0, len(training) - 1, min(_NUM_IMAGES, len(training))).astype(np.int64)
    digits = training.take(chosen)
    with process.one_thread():
        harder, scores = _distort_until_hard(model, digits, seed)
        first = model.nets[0].preparation
        familiar, distorted = (deskew_images(first, each) for each in (digits.images, harder))
        half = np.arange(len(digits)) % 2 == 0
        images = np.where(half[:, None], familiar, distorted)
        reference = _fit_classes(
            stretch(images, images.max(axis=1, initial=1).astype(np.float32)),
            digits.labels,
            fit_temperature(scores, digits.labels),
        )
        distances = reference.distances(distorted, scores.argmax(axis=1))
    limit = np.float32(np.quantile(distances, 1 - _TAIL))
    scales, weights = reference.scales / limit, reference.weights / limit
    return replace(model, reference=replace(reference, scales=scales, weights=weights))


def _distort_until_hard(
    model: Model, digits: Dataset, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return distorted images and their scores, at the least strength with enough errors."""
    few = digits.take(slice(None, None, 4))
    strength = float(_STRENGTHS[-1])
    for each in _STRENGTHS.tolist():
        scores = model.scores(_distort(few, each, seed))
        if (scores.argmax(axis=1) != few.labels).mean() >= _ERRORS:
            strength = each
            break
    images = _distort(digits, strength, seed)
    return images, model.scores(images)


def _distort(digits: Dataset, strength: float, seed: int) -> NDArray[np.uint8]:
    draws = stream(seed, HARDER)
    return np.rint(distort(digits.images, _DISTORTION * strength, draws)).astype(np.uint8)


def _fit_classes(
    images: NDArray[np.float32], labels: NDArray[np.integer], temperature: float
) -> Reference:
    """Fit mean and directions of each class; distances are in units of their means."""
    classes = [images[labels == each] for each in range(NUM_CLASSES)]
    # A class that the training set lacks is like any digit.
    fitted = [_fit_class(each if len(each) else images) for each in classes]
    means, vectors, variances, residuals = map(np.array, zip(*fitted, strict=True))
    # Between the residual of the class and that of all: those of ones are a quarter of others'.
    residuals = np.sqrt(residuals * residuals.mean())[:, None]
    steps = np.maximum(np.abs(vectors).max(axis=2), 1e-9) / 127
    weights = steps**2 * (_ALONG / (NUM_DIRECTIONS * variances) - 1 / residuals)
    return Reference(
        temperature=temperature,
        means=means,
        directions=np.rint(vectors / steps[..., None]).astype(np.int8),
        scales=(1 / residuals[:, 0]).astype(np.float32),
        weights=weights.astype(np.float32),
    )


def _fit_class(images: NDArray[np.float32]) -> tuple[NDArray[np.uint8], Doubles, Doubles, float]:
    """Return mean, directions, the variance along each and the mean square of the rest."""
    mean = np.rint(images.mean(axis=0, dtype=np.float64)).astype(np.uint8)
    z = images - mean
    inner = z[:, INNER].astype(np.float64)
    few = len(inner) < len(INNER)  # then products of images are fewer than those of pixels
    squares, vectors = np.linalg.eigh(inner @ inner.T if few else inner.T @ inner)
    squares, vectors = squares[::-1][:NUM_DIRECTIONS], vectors[:, ::-1][:, :NUM_DIRECTIONS]
    if few:
        vectors = inner.T @ vectors / np.sqrt(np.maximum(squares, _LEAST_VARIANCE))
    missing = NUM_DIRECTIONS - len(squares)
    variances = np.pad(np.maximum(squares / len(z), _LEAST_VARIANCE), (0, missing))
    directions = np.pad(vectors.T, ((0, missing), (0, 0)))
    residual = float(np.einsum("bd,bd->", z, z, dtype=np.float64)) / len(z) - variances.sum()
    return mean, directions, np.maximum(variances, _LEAST_VARIANCE), max(residual, _LEAST_VARIANCE)
