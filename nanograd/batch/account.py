"""The account of a prediction: counts of a part, and the summary of all parts.

Counts are whole numbers by name, so that receipts can be added up in any order. `confusion` counts
(label, prediction) as "7 as 1"; `..._by_confidence` counts by tenths, and
`millionths_by_confidence` adds up the confidences of rows with a label, in millionths.
"""

from base64 import b64encode
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nanograd.batch.part import Part, Receipt
from nanograd.data.dataset import NUM_CLASSES
from nanograd.digits.form import to_png
from nanograd.nn.metrics import confusion_matrix
from nanograd.tables.images import Images

# The most confident mistakes kept of each part, and of the whole job.
_WORST_OF_PART, _WORST_OF_JOB = 5, 20

Mistake = dict[str, Any]


def count_part(
    part: Part, predictions: pa.Table, quarantine: pa.Table, mistakes: Iterable[Mistake]
) -> dict[str, Any]:
    """Return the counts of a part's receipt, from its tables and `find_mistakes` of its batches."""
    label = predictions.column("label").fill_null(-1).to_numpy()
    prediction = predictions.column("prediction").to_numpy()
    confidence = predictions.column("confidence").to_numpy()
    tenths = np.minimum(confidence * 10, 9).astype(np.int64)
    known, correct = label >= 0, label == prediction
    num_broken = int(part.rejection is not None)
    return {
        "rows": len(predictions) + len(quarantine) - num_broken,
        "predicted": len(predictions),
        "quarantined": len(quarantine),
        "broken_files": num_broken,
        "labelled": int(known.sum()),
        "correct": int(correct.sum()),
        "reasons": dict(sorted(Counter(quarantine.column("reason").to_pylist()).items())),
        "predicted_as": _count(prediction),
        "confusion": _confusion_to_receipt(
            confusion_matrix(prediction[known], label[known], NUM_CLASSES)
        ),
        "predicted_by_confidence": _count(tenths),
        "labelled_by_confidence": _count(tenths[known]),
        "millionths_by_confidence": _sum_millionths(tenths[known], confidence[known]),
        "correct_by_confidence": _count(tenths[correct]),
        "worst": _most_confident(mistakes, _WORST_OF_PART),
    }


def find_mistakes(
    file: str, first_row: int, found: Images, scores: NDArray[np.float32]
) -> list[Mistake]:
    """Find the most confident mistakes among n images, with (n, 10) scores, and their pictures."""
    images, rows, labels = found
    best, confidence = scores.argmax(axis=1), scores.max(axis=1)
    wrong = np.flatnonzero((labels >= 0) & (best != labels))
    wrong = wrong[np.lexsort((rows[wrong], -confidence[wrong]))][:_WORST_OF_PART]
    return [
        {
            "source_file": file,
            "source_row": first_row + int(rows[at]),
            "label": int(labels[at]),
            "prediction": int(best[at]),
            "confidence": round(float(confidence[at]), 6),
            "png": b64encode(to_png(images[at])).decode(),
        }
        for at in wrong
    ]


def summarise(total: Receipt) -> dict[str, Any]:
    """Return the content of `_summary.json` from the sum of all receipts.

    It has the counts; accuracy (None without labels) and confusion, 10 x 10, rows labels, columns
    predictions; the most confident mistakes with their 28 x 28 pictures as PNG in base64.
    """
    labelled = total["labelled"]
    return {
        **total,
        "accuracy": total["correct"] / labelled if labelled else None,
        "confusion": _confusion_of_receipt(total["confusion"]).tolist() if labelled else None,
        "worst": _most_confident(total["worst"], _WORST_OF_JOB),
    }


def _confusion_to_receipt(confusion: NDArray[np.int64]) -> dict[str, int]:
    pairs = np.argwhere(confusion).tolist()
    return {f"{label} as {best}": int(confusion[label, best]) for label, best in pairs}


def _confusion_of_receipt(counts: dict[str, int]) -> NDArray[np.int64]:
    confusion = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    for pair, count in counts.items():
        label, prediction = pair.split(" as ")
        confusion[int(label), int(prediction)] = count
    return confusion


def _most_confident(mistakes: Iterable[Mistake], number: int) -> list[Mistake]:
    def order(each: Mistake) -> tuple[float, str, int]:
        return -each["confidence"], each["source_file"], each["source_row"]

    return sorted(mistakes, key=order)[:number]


def _count(values: NDArray[np.integer[Any]]) -> dict[str, int]:
    numbers, counts = np.unique(values, return_counts=True)
    return {str(number): int(count) for number, count in zip(numbers, counts, strict=True)}


def _sum_millionths(tenths: NDArray[np.int64], confidence: NDArray[np.floating]) -> dict[str, int]:
    """Sum confidences as whole millionths, whose sum does not depend on the order."""
    millionths = np.rint(confidence * 1e6).astype(np.int64)
    return {str(each): int(millionths[tenths == each].sum()) for each in np.unique(tenths)}
