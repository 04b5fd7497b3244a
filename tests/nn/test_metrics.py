import math

import numpy as np
import pytest
from numpy.typing import NDArray

from nanograd.nn.metrics import accuracy, calibration, confusion_matrix, precision_and_recall


def digits(size: int, seed: int, num_classes: int = 10) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, num_classes, size).astype(np.uint8)


@pytest.mark.parametrize("size", [1, 7, 193])
def test_accuracy_equals_a_count_by_loops_and_the_trace_of_the_confusion_matrix(size):
    predictions, labels = digits(size, 1), digits(size, 2)

    share = accuracy(predictions, labels)

    pairs = zip(predictions.tolist(), labels.tolist(), strict=True)
    assert type(share) is float
    assert share == pytest.approx(sum(p == t for p, t in pairs) / size, rel=1e-12)
    assert share == pytest.approx(np.trace(confusion_matrix(predictions, labels, 10)) / size)
    assert math.isnan(accuracy(predictions[:0], labels[:0]))


@pytest.mark.parametrize(
    ("size", "dtype", "num_classes"), [(0, np.uint8, 10), (1, np.int8, 8), (193, np.int64, 10)]
)
def test_confusion_matrix_equals_a_count_by_loops(size, dtype, num_classes):
    predictions, labels = (digits(size, seed, num_classes) for seed in (1, 2))

    confusion = confusion_matrix(predictions.astype(dtype), labels, num_classes)

    expected = [[0] * num_classes for _ in range(num_classes)]
    for prediction, label in zip(predictions.tolist(), labels.tolist(), strict=True):
        expected[label][prediction] += 1
    assert confusion.dtype == np.int64
    assert confusion.tolist() == expected


def test_precision_and_recall_are_shares_of_columns_and_rows_and_nan_without_any():
    confusion = np.zeros((10, 10), np.int64)
    confusion[0, 0], confusion[0, 1], confusion[1, 1], confusion[2, 3] = 3, 1, 4, 1
    confusion.flags.writeable = False

    precision, recall = precision_and_recall(confusion)

    assert precision.dtype == recall.dtype == np.float64
    np.testing.assert_array_equal(precision, [1, 0.8, np.nan, 0] + [np.nan] * 6)
    np.testing.assert_array_equal(recall, [0.75, 1, 0] + [np.nan] * 7)


def test_calibration_error_is_the_mean_gap_between_confidence_and_accuracy():
    calibrated = np.array([0.75] * 4 + [0.5] * 2), np.array([True, True, True, False, True, False])
    confidence, right = np.array([1.0, 1.0, 0.25, 0.25]), np.array([True, False, False, True])

    found = calibration(*calibrated)

    assert found.error == pytest.approx(0)
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 2, 0, 4, 0, 0]
    assert found.accuracy[7] == 0.75
    assert np.isnan(found.accuracy[0])
    assert calibration(confidence, right).error == pytest.approx((2 * 0.5 + 2 * 0.25) / 4)
    assert calibration(confidence[:0], right[:0]).error == 0
