"""What predictions come to: counts of a part, and what all parts come to together.

Counts are whole numbers by name, so that they can be added up in any order. `confusion` counts
(label, prediction) as "7 as 1"; what is `..._by_confidence` is counted by tenths, and
`millionths_by_confidence` adds up the confidences of rows with a label, in millionths.
"""

from base64 import b64encode
from collections import Counter
from collections.abc import Iterable
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from nanograd.batch.part import Part, Receipt

# The most confident mistakes: so many are kept of each part, and of the whole job.
_WORST_OF_PART, _WORST = 5, 20

Mistake = dict[str, Any]


def counts(
    part: Part, read: pa.Table, rejects: pa.Table, mistakes: Iterable[Mistake]
) -> dict[str, Any]:
    """A part's account.

    Args:
        part: which one.
        read: its predictions.
        rejects: its quarantine.
        mistakes: some of its confident ones.
    """
    labels = read.column("label").fill_null(-1).to_numpy()
    predictions = read.column("prediction").to_numpy()
    confidence = read.column("confidence").to_numpy()
    tenths = np.minimum(confidence * 10, 9).astype(np.int64)
    known, right = labels >= 0, labels == predictions
    pairs = zip(labels[known].tolist(), predictions[known].tolist(), strict=True)
    confusion = Counter(f"{label} as {prediction}" for label, prediction in pairs)
    return {
        "rows": len(read) + len(rejects) - bool(part.broken),
        "predicted": len(read),
        "quarantined": len(rejects),
        "broken_files": int(bool(part.broken)),
        "labelled": int(known.sum()),
        "correct": int(right.sum()),
        "reasons": dict(sorted(Counter(rejects.column("reason").to_pylist()).items())),
        "predicted_as": _counted(predictions),
        "confusion": dict(sorted(confusion.items())),
        "predicted_by_confidence": _counted(tenths),
        "labelled_by_confidence": _counted(tenths[known]),
        "millionths_by_confidence": _added(tenths[known], confidence[known]),
        "correct_by_confidence": _counted(tenths[right]),
        "worst": _worst(mistakes, _WORST_OF_PART),
    }


def find_mistakes(
    images: NDArray[np.uint8],
    file: str,
    rows: NDArray[np.int64],
    labels: NDArray[np.int8],
    scores: NDArray[np.float32],
) -> list[Mistake]:
    """The most confident mistakes of a batch, with their pictures.

    Args:
        images: (n, 784) uint8.
        file: where they are from.
        rows: (n,) int64, their numbers in it.
        labels: (n,) int8, -1 where there is none.
        scores: (n, 10) float32.
    """
    best, confidence = scores.argmax(axis=1), scores.max(axis=1)
    wrong = np.flatnonzero((labels >= 0) & (best != labels))
    wrong = wrong[np.lexsort((rows[wrong], -confidence[wrong]))][:_WORST_OF_PART]
    return [
        {
            "source_file": file,
            "source_row": int(rows[at]),
            "label": int(labels[at]),
            "prediction": int(best[at]),
            "confidence": round(float(confidence[at]), 6),
            "png": _png(images[at]),
        }
        for at in wrong
    ]


def summarise(total: Receipt) -> dict[str, Any]:
    """What goes into `_summary.json`.

    Args:
        total: all parts' accounts added up.

    Returns:
        The counts; accuracy (None without labels) and confusion, 10 x 10, rows labels, columns
        predictions; the most confident mistakes with their 28 x 28 pictures as PNG in base64.
    """
    labelled = total["labelled"]
    matrix = np.zeros((10, 10), np.int64)
    for name, count in total["confusion"].items():
        label, prediction = name.split(" as ")
        matrix[int(label), int(prediction)] = count
    return {
        **total,
        "accuracy": total["correct"] / labelled if labelled else None,
        "confusion": matrix.tolist() if labelled else None,
        "worst": _worst(total["worst"], _WORST),
    }


def _worst(mistakes: Iterable[Mistake], number: int) -> list[Mistake]:
    def order(each: Mistake) -> tuple[float, str, int]:
        return -each["confidence"], each["source_file"], each["source_row"]

    return sorted(mistakes, key=order)[:number]


def _counted(values: NDArray[np.integer[Any]]) -> dict[str, int]:
    numbers, times = np.unique(values, return_counts=True)
    return {str(number): int(count) for number, count in zip(numbers, times, strict=True)}


def _added(tenths: NDArray[np.int64], confidence: NDArray[np.floating]) -> dict[str, int]:
    """Confidences added up as whole millionths: their sum does not depend on any order."""
    millionths = np.rint(confidence * 1e6).astype(np.int64)
    return {str(each): int(millionths[tenths == each].sum()) for each in np.unique(tenths)}


def _png(image: NDArray[np.uint8]) -> str:
    stream = BytesIO()
    Image.fromarray(image.reshape(28, 28)).save(stream, "PNG")
    return b64encode(stream.getvalue()).decode()
