"""How good predictions are: accuracy, confusion matrix, per-class figures, calibration."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_CLASSES = 10


def accuracy(predictions: NDArray[np.integer], labels: NDArray[np.integer]) -> float:
    """Share of predictions that are right, in [0, 1]; of none it is not a number.

    >>> accuracy(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 0]))
    0.75
    """
    return float(np.mean(predictions == labels)) if len(labels) else float("nan")


def confusion_matrix(
    predictions: NDArray[np.integer], labels: NDArray[np.integer]
) -> NDArray[np.int64]:
    """(C, C) int64 counts: row = true class, column = predicted class.

    Args:
        predictions: (N,) integers, 0 to 9.
        labels: (N,) integers, 0 to 9.
    """
    cells = labels.astype(np.int64) * NUM_CLASSES + predictions
    return np.bincount(cells, minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)


def precision_and_recall(
    confusion: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per class: share of its predictions that are right, share of its images that are found.

    Args:
        confusion: (C, C) counts, row = true class.

    Returns:
        Two (C,) float64; not a number for a class that never occurs.
    """
    right = np.diag(confusion).astype(np.float64)
    predicted, actual = confusion.sum(axis=0), confusion.sum(axis=1)
    nothing = np.full(NUM_CLASSES, np.nan)
    precision = np.divide(right, predicted, out=nothing.copy(), where=predicted > 0)
    return precision, np.divide(right, actual, out=nothing, where=actual > 0)


class Calibration(NamedTuple):
    """Predictions in bins of their confidence, bin i from i / n to (i + 1) / n.

    Args:
        counts: (n,) int64, predictions in each bin.
        confidence: (n,) float64, their mean; not a number for an empty bin.
        accuracy: (n,) float64, the share of them that is right; as above.
        error: mean distance of accuracy from confidence over all predictions, 0 to 1.
    """

    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    error: float


def calibration(
    confidence: NDArray[np.floating], right: NDArray[np.bool_], num_bins: int = 10
) -> Calibration:
    """How often predictions are right that claim to be so with a given confidence.

    error = sum over bins of count / N * |accuracy - confidence|

    Args:
        confidence: (N,) best scores, 0 to 1.
        right: (N,) bool.
        num_bins: of equal width.

    References:
        Guo, Pleiss, Sun & Weinberger (2017), "On calibration of modern neural networks",
        section 2 (expected calibration error).
    """
    bins = np.minimum((confidence * num_bins).astype(np.int64), num_bins - 1)
    return calibration_of(
        np.bincount(bins, minlength=num_bins),
        np.bincount(bins, confidence, num_bins),
        np.bincount(bins, right, num_bins),
    )


def calibration_of(
    counts: NDArray[np.int64], claimed: NDArray[Any], correct: NDArray[Any]
) -> Calibration:
    """As `calibration`, of predictions that were counted already.

    Args:
        counts: (n,) predictions in each bin.
        claimed: (n,) the sum of their confidences.
        correct: (n,) how many of them are right.
    """
    with np.errstate(invalid="ignore"):
        means, shares = claimed / counts, correct / counts
    error = float(np.abs(claimed - correct).sum() / max(counts.sum(), 1))
    return Calibration(counts, means, shares, error)
