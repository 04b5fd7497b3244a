"""Calibration: fit the temperature and the means of a model (`Reference`) to its training images.

A net has memorised its training images, so its confidence on them is too high. Therefore, the
images are distorted more and more until the net misclassifies 5 % of them. The temperature is
fitted to the net's output for these (docs/decisions/0025-scores.md).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nanograd.digits.augment import Distortion, distort
from nanograd.digits.dataset import NUM_CLASSES, Dataset
from nanograd.digits.preparation import deskew_images
from nanograd.models.model import Net, mean_scores
from nanograd.models.reference import INNER, NUM_DIRECTIONS, Reference, fit_temperature, stretch
from nanograd.runtime import process
from nanograd.runtime.arrays import Bytes, Doubles, Floats
from nanograd.runtime.randomness import HARDER, stream

# Number of images to use, strengths of distortion to try, and the error rate at which to stop.
_NUM_IMAGES, _STRENGTHS, _ERROR_RATE = 6000, np.arange(5, 21) / 10, 0.05
_DISTORTION = Distortion(elastic=1.7, rotation=15, scaling=0.2, shear=0.1, shift=0.5, stroke=0.7)
# Share of distorted training images that are counted as unfamiliar.
_TAIL = 0.06
# Weight of the distance along the directions, relative to the weight of the residual.
_ALONG = 0.25
# Minimum variance along a direction, in squared levels, because images of a class may be equal.
_LEAST_VARIANCE = 1.0


def fit_reference(nets: Sequence[Net], training: Dataset, seed: int = 0) -> Reference:
    """Fit the reference of a model to images that its nets were trained on, at least one.

    The seed of the distortions is 0 to 2**63 - 1.
    """
    chosen = np.linspace(0, len(training) - 1, min(_NUM_IMAGES, len(training))).astype(np.int64)
    digits = training.take(chosen)
    few = digits.take(slice(None, None, 4))
    with process.one_thread():
        for strength in _STRENGTHS.tolist():
            scores = mean_scores(nets, _distort(few, strength, seed))
            if (scores.argmax(axis=1) != few.labels).mean() >= _ERROR_RATE:
                break
        harder = _distort(digits, strength, seed)
        scores = mean_scores(nets, harder)
        deskewed, distorted = (
            deskew_images(nets[0].preparation, images) for images in (digits.images, harder)
        )
        # Use every second image unchanged and the other images distorted.
        as_is = np.arange(len(digits)) % 2 == 0
        images = np.where(as_is[:, None], deskewed, distorted)
        images = stretch(images, images.max(axis=1, initial=1).astype(np.float32))
        classes = [images[digits.labels == each] for each in range(NUM_CLASSES)]
        # A class without training images gets the statistics of all images.
        fitted = [_fit_class(each if len(each) else images) for each in classes]
        means, vectors, variances, residuals = map(np.array, zip(*fitted, strict=True))
        # Use the geometric mean of a class's residual and the mean residual of all classes, because
        # ones have a quarter of the residual of other digits.
        residuals = np.sqrt(residuals * residuals.mean())[:, None]
        steps = np.maximum(np.abs(vectors).max(axis=2), 1e-9) / 127
        weights = steps**2 * (_ALONG / (NUM_DIRECTIONS * variances) - 1 / residuals)
        reference = Reference(
            temperature=fit_temperature(scores, digits.labels),
            means=means,
            directions=np.rint(vectors / steps[..., None]).astype(np.int8),
            scales=(1 / residuals[:, 0]).astype(np.float32),
            weights=weights.astype(np.float32),
        )
        distances = reference.distances(distorted, scores.argmax(axis=1))
    # Rescale until the threshold is at a distance of 1.
    threshold = np.float32(np.quantile(distances, 1 - _TAIL))
    return replace(
        reference, scales=reference.scales / threshold, weights=reference.weights / threshold
    )


def _distort(digits: Dataset, strength: float, seed: int) -> Bytes:
    draws = stream(seed, HARDER)
    return np.rint(distort(digits.images, _DISTORTION * strength, draws)).astype(np.uint8)


def _fit_class(images: Floats) -> tuple[Bytes, Doubles, Doubles, float]:
    """Compute the statistics of the images of a class, (n, 784) float32, n >= 1.

    Returns:
        mean: (784,) uint8.
        directions: (NUM_DIRECTIONS, 576) of the pixels INNER; the last ones are 0 for a small n.
        variances: (NUM_DIRECTIONS,), along the directions.
        residual: mean over the images of |z|^2 - sum_i y_i^2, see `nanograd.models.reference`.
    """
    mean = np.rint(images.mean(axis=0, dtype=np.float64)).astype(np.uint8)
    z = images - mean
    inner = z[:, INNER].astype(np.float64)
    # With fewer images than pixels, the matrix of products of images is the smaller one.
    few = len(inner) < len(INNER)
    squares, vectors = np.linalg.eigh(inner @ inner.T if few else inner.T @ inner)
    squares, vectors = squares[::-1][:NUM_DIRECTIONS], vectors[:, ::-1][:, :NUM_DIRECTIONS]
    if few:
        vectors = inner.T @ vectors / np.sqrt(np.maximum(squares, _LEAST_VARIANCE))
    missing = NUM_DIRECTIONS - len(squares)
    variances = np.pad(np.maximum(squares / len(z), _LEAST_VARIANCE), (0, missing))
    directions = np.pad(vectors.T, ((0, missing), (0, 0)))
    residual = float(np.einsum("bd,bd->", z, z, dtype=np.float64)) / len(z) - variances.sum()
    return mean, directions, np.maximum(variances, _LEAST_VARIANCE), max(residual, _LEAST_VARIANCE)
