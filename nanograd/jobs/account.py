"""The account of a prediction: counts, their summary, and the list of the most doubtful rows.

Counts are whole numbers by name, so that receipts can be added up in any order. `confusion` counts
(label, prediction) as "7 as 1"; `..._by_confidence` counts by tenths, and
`millionths_by_confidence` adds up the confidences of rows with a label, in millionths;
`..._by_doubt` counts by twentieths of a power of ten, from 1 to a millionth. `details` lists the
commonest details of quarantine, each with its number of rows and the first of them. `rows` is
`predicted` and `quarantined` together; `broken_files` counts files whose rows are unknown.

    OUT/_review/part-NAME.pq   the most doubtful rows of a part, as many as the list may need
    OUT/_review.pq             those of all parts, the most doubtful first, with pictures

These are Parquet files, whose names readers of all Parquet files in a folder leave out.

Doubt is 1 - confidence x (1 - unfamiliarity / 4). Equal rows are ordered by file and number, so the
list does not depend on the order in which parts are done.
"""

from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nanograd.digits.dataset import NUM_CLASSES, NUM_PIXELS
from nanograd.digits.form import to_png
from nanograd.images.reader import Batch
from nanograd.images.writers import PREDICTIONS, to_parquet
from nanograd.jobs.part import Part, Receipt
from nanograd.models.reference import UNFAMILIAR
from nanograd.nn.metrics import confusion_matrix
from nanograd.pictures.fast_png import encode_plain
from nanograd.runtime import storage
from nanograd.runtime.events import Listener, warning
from nanograd.settings.specs import PredictSpec

# The most confident mistakes kept of each part, and of the whole job.
_WORST_OF_PART, _WORST_OF_JOB = 5, 20
# The commonest details of quarantine, the same.
_DETAILS_OF_PART, _DETAILS_OF_JOB = 10, 10

# Share of unfamiliar rows above which something is wrong with all of them.
_MOST = 0.5
# Levels of doubt: twentieths of a power of ten, from 1 to a millionth.
NUM_LEVELS = 121
Mistake = dict[str, Any]
Detail = dict[str, Any]


# The columns of predictions that are counted.
COUNTED = ("label", "prediction", "confidence", "unfamiliarity")

REVIEW, _OF_PARTS = "_review.pq", "_review"

# The most rows of the list, of a part, and the least that a part keeps if it has them.
MAX_ROWS, MAX_OF_PART, LEAST_OF_PART = 100_000, 10_000, 200
# Rows that a part keeps at most, as a multiple of its share.
_CONCENTRATION = 4
# Files of parts that are read at once.
_NUM_THREADS = 16

_COLUMNS = ("source_file", "source_row", "prediction", "confidence", "unfamiliarity", "label")
_KEPT = pa.schema([("doubt", pa.float32()), *(PREDICTIONS.field(name) for name in _COLUMNS)])
_PART = _KEPT.append(pa.field("pixels", pa.binary(NUM_PIXELS)))
_LIST = _KEPT.append(pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
_ORDER = [("doubt", "descending"), ("source_file", "ascending"), ("source_row", "ascending")]


def count_part(
    part: Part, predictions: pa.Table, quarantine: pa.Table, mistakes: Iterable[Mistake]
) -> dict[str, Any]:
    """Return the counts of a part's receipt, from its tables and `find_mistakes` of its batches."""
    label = predictions.column("label").fill_null(-1).to_numpy()
    prediction = predictions.column("prediction").to_numpy()
    confidence = predictions.column("confidence").to_numpy()
    unfamiliarity = predictions.column("unfamiliarity").fill_null(0).to_numpy()
    tenths = np.minimum(confidence * 10, 9).astype(np.int64)
    levels = np.floor(-20 * np.log10(np.maximum(doubt_of(predictions), 1e-6))).astype(np.int64)
    doubt = np.clip(levels, 0, NUM_LEVELS - 1)
    known, correct = label >= 0, label == prediction
    details = _count_details(part, quarantine)
    quarantined = sum(each["rows"] for each in details)
    return {
        "rows": len(predictions) + quarantined,
        "predicted": len(predictions),
        "quarantined": quarantined,
        "broken_files": part.num_broken,
        "labelled": int(known.sum()),
        "correct": int(correct.sum()),
        "reasons": _count_reasons(details),
        "details": details[:_DETAILS_OF_PART],
        "predicted_as": _count(prediction),
        "confusion": _confusion_to_receipt(
            confusion_matrix(prediction[known], label[known], NUM_CLASSES)
        ),
        "predicted_by_confidence": _count(tenths),
        "labelled_by_confidence": _count(tenths[known]),
        "millionths_by_confidence": _sum_millionths(tenths[known], confidence[known]),
        "correct_by_confidence": _count(tenths[correct]),
        "labelled_by_doubt": _count(doubt[known]),
        "correct_by_doubt": _count(doubt[correct]),
        "unfamiliar": int((unfamiliarity > UNFAMILIAR).sum()),
        "worst": _most_confident(mistakes, _WORST_OF_PART),
    }


def find_mistakes(found: Batch, scores: NDArray[np.float32]) -> list[Mistake]:
    """Find the most confident mistakes among n images, with (n, 10) scores, and their pictures."""
    images, labels = found.images, found.labels
    best, confidence = scores.argmax(axis=1), scores.max(axis=1)
    wrong = np.flatnonzero((labels >= 0) & (best != labels))
    wrong = wrong[np.lexsort((wrong, -confidence[wrong]))][:_WORST_OF_PART]
    return [
        {
            **dict(zip(("source_file", "source_row"), found.origin(int(at)), strict=True)),
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
    predictions; the most confident mistakes with their 28 x 28 pictures as PNG in base64; the
    commonest details of quarantine, each with a row.
    """
    labelled = total["labelled"]
    counts = {name: dict(sorted(v.items())) for name, v in total.items() if isinstance(v, dict)}
    return {
        **total,
        **counts,
        "accuracy": total["correct"] / labelled if labelled else None,
        "confusion": _confusion_of_receipt(total["confusion"]).tolist() if labelled else None,
        "worst": _most_confident(total["worst"], _WORST_OF_JOB),
        "details": _commonest(total.get("details", []))[:_DETAILS_OF_JOB],  # receipts had none
    }


def remarks(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield what to check about the rows of a finished job, as sentences."""
    if dark := summary.get("dark_on_light"):
        yield (
            f"{dark:,} rows of raw pixels have a bright border and were taken for dark ink on "
            "light paper; confirm with --polarity dark-on-light, or set light-on-dark"
        )
    unfamiliar, predicted = summary.get("unfamiliar", 0), summary["predicted"]
    if unfamiliar > _MOST * predicted:
        yield (
            f"{unfamiliar:,} of {predicted:,} predicted rows ({unfamiliar / predicted:.0%}) are "
            "unlike the digits of the training set: they may lie on their side or be mirrored, as "
            f"EMNIST's are, be no digits, or have another --polarity; see {REVIEW}"
        )
    if bad := summary.get("bad_labels"):
        yield (
            f"{bad:,} rows have a label that is not a digit; they are predicted, and their label "
            "is null"
        )


def describe(detail: Mapping[str, Any]) -> str:
    """Describe one of `details` with its first row.

    >>> describe({"reason": "blank", "detail": "no ink", "source_file": "a", "source_row": 7})
    'blank: no ink (first: row 7 of a)'
    """
    return f"{detail['reason']}: {detail['detail']} (first: {first_row(detail)})"


def first_row(detail: Mapping[str, Any]) -> str:
    """Name the first row of one of `details`, or the file if no row of it was read."""
    row = "" if detail["source_row"] is None else f"row {detail['source_row']:,} of "
    return f"{row}{detail['source_file']}"


def number_of(detail: Mapping[str, Any]) -> str:
    """Format the number of rows of one of `details`, or of files whose rows are unknown.

    >>> number_of({"rows": 7000, "files": 0}), number_of({"rows": 0, "files": 1})
    ('7,000', '1 file')
    """
    files = detail["files"]
    return f"{files:,} file{'s' * (files > 1)}" if files else f"{detail['rows']:,}"


def _count_details(part: Part, quarantine: pa.Table) -> list[Detail]:
    # The line of a file counts for its rows, or if they are unknown for none.
    rows = part.num_rows if part.rejection else 1
    return _commonest(
        {**row, "rows": rows, "files": part.num_broken} for row in quarantine.to_pylist()
    )


def _commonest(details: Iterable[Detail]) -> list[Detail]:
    """Add up the rows of equal details and keep the first of each, the commonest first.

    Details of files whose rows are unknown come before those of rows.
    """
    found: dict[tuple[str, str], Detail] = {}
    for each in sorted(details, key=lambda each: (each["source_file"], each["source_row"] or 0)):
        first = found.setdefault((each["reason"], each["detail"]), {**each, "rows": 0, "files": 0})
        first["rows"] += each["rows"]
        first["files"] += each["files"]
    return sorted(
        found.values(),
        key=lambda each: (-each["files"], -each["rows"], each["reason"], each["detail"]),
    )


def _count_reasons(details: Iterable[Detail]) -> dict[str, int]:
    reasons: Counter[str] = Counter()
    for each in details:
        reasons[each["reason"]] += each["rows"]
    return dict(sorted((+reasons).items()))  # a file may have no rows


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


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The rows to list; of each part at most `_CONCENTRATION` times its share."""

    share: float = 0  # of the predicted rows, the most doubtful ones; 0 for no list
    below: float | None = None  # instead, all rows less certain than this, 1 - doubt

    @classmethod
    def of(cls, spec: PredictSpec) -> "Selection":
        """Return the rows to list for a spec."""
        return cls(share=spec.review_share, below=spec.review_below)

    def of_part(self, num_rows: int) -> int:
        """Return how many rows a part of so many keeps."""
        if self.below is not None:
            return MAX_OF_PART
        wanted = ceil(_CONCENTRATION * self.share * num_rows)
        return min(max(wanted, LEAST_OF_PART), MAX_OF_PART) if self.share else 0

    def of_job(self, num_rows: int) -> int:
        """Return how many rows the list of a job with so many predictions has."""
        wanted = MAX_ROWS if self.below is not None else ceil(self.share * num_rows)
        return min(wanted, MAX_ROWS)


def review_of(output: str, spec: PredictSpec) -> str | None:
    """Return the place of the list of a job in this output; None without one."""
    return storage.join(output, REVIEW) if spec.review_share else None


class PartReview:
    """The most doubtful rows of a part, collected batch by batch."""

    def __init__(self, selection: Selection, num_rows: int) -> None:
        self._limit, self._below = selection.of_part(num_rows), selection.below
        self._rows = pa.Table.from_batches([], _PART)

    def add(self, predictions: pa.Table, images: NDArray[np.uint8]) -> None:
        """Add rows of predictions and their (n, 784) uint8 images."""
        doubt = doubt_of(predictions)
        chosen = np.arange(len(doubt))
        if self._below is not None:
            chosen = chosen[doubt > np.float32(1 - self._below)]
        if len(self._rows) == self._limit > 0:
            chosen = chosen[doubt[chosen] >= self._rows.column("doubt")[-1].as_py()]
        if len(chosen) > self._limit > 0:
            least = np.partition(doubt[chosen], -self._limit)[-self._limit]
            chosen = chosen[doubt[chosen] >= least]
        if not self._limit or not len(chosen):
            return
        rows = predictions.select(_COLUMNS).take(pa.array(chosen))
        buffers = [None, pa.py_buffer(np.ascontiguousarray(images[chosen]))]
        pixels = pa.Array.from_buffers(_PART.field("pixels").type, len(chosen), buffers)
        rows = pa.table([pa.array(doubt[chosen]), *rows.columns, pixels], _PART)
        self._rows = _first(pa.concat_tables([self._rows, rows]), self._limit)

    def finish(self, stem: str) -> dict[str, bytes]:
        """Return the content of the part's file by its name; none without rows."""
        if not len(self._rows):
            return {}
        return {f"{_OF_PARTS}/{stem}.pq": to_parquet(self._rows)}


def doubt_of(predictions: pa.Table) -> NDArray[np.float32]:
    """Compute the doubt of each row of predictions, (n,) float32 in [0, 1]."""
    unfamiliarity = predictions.column("unfamiliarity").fill_null(0).to_numpy()
    confidence = predictions.column("confidence").to_numpy()
    return np.asarray(1 - confidence * (1 - unfamiliarity / 4), np.float32)


def gather(
    selection: Selection,
    listener: Listener,
    receipts: Sequence[Receipt],
    place_of: Callable[[Receipt], str],
) -> dict[str, bytes]:
    """Make the list of a job from the files of its parts.

    Args:
        selection: the rows to list; parts may have been done for another one.
        listener: receives a warning if the parts keep too few rows for it.
        receipts: of all parts.
        place_of: returns the folder or URI below which the files of a part are.

    Returns:
        The content of the list by its name; none if no list is wanted.
    """
    if not selection.of_part(1):
        return {}
    number = selection.of_job(sum(receipt["predicted"] for receipt in receipts))
    rows, waiting = pa.Table.from_batches([], _PART), list[pa.Table]()
    least = -1 if selection.below is None else 1 - selection.below
    for table in _read(receipts, place_of):
        waiting.append(table.filter(pc.greater(table["doubt"], np.float32(least))))
        if sum(map(len, waiting)) > number:
            rows, waiting = _first(pa.concat_tables([rows, *waiting]), number), []
    rows = _first(pa.concat_tables([rows, *waiting]), number)
    if selection.below is None and len(rows) < number:
        text = f"{REVIEW} has {len(rows):,} of {number:,} rows, since parts keep no more"
        listener(warning(f"{text}; if a smaller share was listed before, --overwrite keeps all"))
    return {REVIEW: to_parquet(_with_pictures(rows))}


def _read(receipts: Iterable[Receipt], place_of: Callable[[Receipt], str]) -> Iterator[pa.Table]:
    places = [
        storage.join(place_of(receipt), name)
        for receipt in receipts
        for name in receipt["files"]
        if name.startswith(f"{_OF_PARTS}/")
    ]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for start in range(0, len(places), _NUM_THREADS):
            for data in pool.map(storage.read, places[start : start + _NUM_THREADS]):
                yield pq.read_table(pa.BufferReader(data)).cast(_PART)


def _first(rows: pa.Table, number: int) -> pa.Table:
    """Return the most doubtful rows in their order."""
    return rows.take(pc.sort_indices(rows, _ORDER)[:number])


def _with_pictures(rows: pa.Table) -> pa.Table:
    images = [
        {"bytes": encode_plain(pixels), "path": None}
        for pixels in rows.column("pixels").to_pylist()
    ]
    pictures = pa.array(images, _LIST.field("image").type)
    return pa.table([*rows.drop("pixels").columns, pictures], _LIST)
