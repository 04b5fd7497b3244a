"""How good predictions are: accuracy, confusion matrix, per-class figures."""

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
