import math

import numpy as np
import pytest
from numpy.typing import NDArray

from nanograd.nn.metrics import accuracy, calibration, confusion_matrix, precision_and_recall


def digits(size: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 10, size).astype(np.uint8)


@pytest.mark.parametrize("size", [1, 7, 193])
def test_accuracy_equals_a_count_by_loops_and_the_trace_of_the_confusion_matrix(size: int) -> None:
    predictions, labels = digits(size, 1), digits(size, 2)

    share = accuracy(predictions, labels)

    pairs = zip(predictions.tolist(), labels.tolist(), strict=True)
    assert type(share) is float
    assert share == pytest.approx(sum(p == t for p, t in pairs) / size, rel=1e-12)
    assert share == pytest.approx(np.trace(confusion_matrix(predictions, labels, 10)) / size)


def test_accuracy_without_images_is_nan() -> None:
    share = accuracy(digits(0, 1), digits(0, 2))

    assert math.isnan(share)


@pytest.mark.parametrize("size", [0, 1, 193])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
def test_confusion_matrix_equals_a_count_by_loops(size: int, dtype: type) -> None:
    predictions, labels = digits(size, 1).astype(dtype), digits(size, 2)

    confusion = confusion_matrix(predictions, labels, 10)

    expected = [[0] * 10 for _ in range(10)]
    for prediction, label in zip(predictions.tolist(), labels.tolist(), strict=True):
        expected[label][prediction] += 1
    assert confusion.dtype == np.int64
    assert confusion.tolist() == expected


@pytest.mark.parametrize("num_classes", [8, 10])
def test_confusion_matrix_has_a_row_for_each_true_class(num_classes: int) -> None:
    confusion = confusion_matrix(np.array([7], np.uint8), np.array([1], np.uint8), num_classes)

    assert confusion.dtype == np.int64
    assert confusion.shape == (num_classes, num_classes)
    assert confusion[1, 7] == confusion.sum() == 1


def test_precision_and_recall_are_shares_of_columns_and_rows() -> None:
    confusion = np.zeros((10, 10), np.int64)
    confusion[0, 0], confusion[0, 1], confusion[1, 1] = 3, 1, 4
    confusion.flags.writeable = False
    before = confusion.tobytes()

    precision, recall = precision_and_recall(confusion)

    assert precision.dtype == recall.dtype == np.float64
    assert precision[:2].tolist() == [1, 0.8]
    assert recall[:2].tolist() == [0.75, 1]
    assert confusion.tobytes() == before


def test_precision_and_recall_of_an_absent_class_are_nan() -> None:
    confusion = np.zeros((10, 10), np.int64)
    confusion[0, 1] = 1

    precision, recall = precision_and_recall(confusion)

    assert precision.dtype == recall.dtype == np.float64
    assert np.isnan(precision).tolist() == [True, False] + [True] * 8
    assert np.isnan(recall).tolist() == [False] + [True] * 9
    assert precision[1] == recall[0] == 0


def test_calibration_error_of_calibrated_scores_is_zero() -> None:
    confidence = np.array([0.75] * 4 + [0.5] * 2)
    right = np.array([True, True, True, False, True, False])

    found = calibration(confidence, right)

    assert found.error == pytest.approx(0)
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 2, 0, 4, 0, 0]
    assert found.accuracy[7] == 0.75
    assert np.isnan(found.accuracy[0])


def test_calibration_error_is_the_mean_gap_between_confidence_and_accuracy() -> None:
    confidence = np.array([1.0, 1.0, 0.25, 0.25])
    right = np.array([True, False, False, True])

    assert calibration(confidence, right).error == pytest.approx((2 * 0.5 + 2 * 0.25) / 4)


def test_calibration_error_without_images_is_zero() -> None:
    assert calibration(np.zeros(0), np.zeros(0, bool)).error == 0
