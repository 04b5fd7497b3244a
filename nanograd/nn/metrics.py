"""Classification metrics: accuracy, confusion matrix, precision and recall, calibration."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


def accuracy(predictions: NDArray[np.integer], labels: NDArray[np.integer]) -> float:
    """Compute the share of correct predictions, in [0, 1]; NaN without predictions.

    >>> accuracy(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 0]))
    0.75
    """
    return float(np.mean(predictions == labels)) if len(labels) else float("nan")


def confusion_matrix(
    predictions: NDArray[np.integer], labels: NDArray[np.integer], num_classes: int
) -> NDArray[np.int64]:
    """Count images by true class (row) and predicted class (column), each 0 to num_classes - 1."""
    cells = labels.astype(np.int64) * num_classes + predictions
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def precision_and_recall(
    confusion: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute precision and recall of each class from a `confusion_matrix`, (C, C).

    They are (C,) float64: the shares of a class's predictions, and of its images, that are correct.
    A share of none is NaN.
    """
    correct = np.diag(confusion).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return correct / confusion.sum(axis=0), correct / confusion.sum(axis=1)


class Calibration(NamedTuple):
    """Predictions grouped by their confidence, in bins of equal width."""

    counts: NDArray[np.int64]  # (n,) int64, predictions in each bin
    confidence: NDArray[np.float64]  # (n,) float64, their mean confidence; NaN for an empty bin
    accuracy: NDArray[np.float64]  # (n,) float64, their share of correct ones; NaN as above
    error: float  # mean over all predictions of |accuracy - confidence| of their bin, 0 to 1


def calibration(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], num_bins: int = 10
) -> Calibration:
    """Compare the confidence of predictions, (N,), 0 to 1, with their accuracy.

    error = sum over bins of count / N * |accuracy - mean confidence|

    Of n bins, bin i holds confidences from i / n to (i + 1) / n.

    References:
        Guo, Pleiss, Sun & Weinberger (2017), "On calibration of modern neural networks",
        section 2 (expected calibration error).
    """
    bins = np.minimum((confidence * num_bins).astype(np.int64), num_bins - 1)
    return calibration_from_counts(
        np.bincount(bins, minlength=num_bins),
        np.bincount(bins, confidence, num_bins),
        np.bincount(bins, correct, num_bins),
    )


def calibration_from_counts(
    counts: NDArray[np.int64], confidence: NDArray[Any], correct: NDArray[Any]
) -> Calibration:
    """Compute `calibration` from the sums of each bin: predictions, confidence, correct ones."""
    with np.errstate(invalid="ignore"):
        means, shares = confidence / counts, correct / counts
    error = float(np.abs(confidence - correct).sum() / max(counts.sum(), 1))
    return Calibration(counts, means, shares, error)
