"""Receipts: the files that a part of a job read and wrote, and counts of its rows.

Counts are whole numbers, so their sum over a job does not depend on the order of the parts. An
array `..._by_confidence` counts rows in ten bins of confidence, each 0.1 wide. An array
`..._by_doubt` counts rows in bins of doubt (see `doubt_of`) from 1 down to 1e-6, with 20 bins per
power of ten; a smaller doubt counts as 1e-6.
"""

from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nanograd.digits.dataset import NUM_CLASSES
from nanograd.digits.form import to_png
from nanograd.images.inputs import Origin, Version
from nanograd.images.parquet import RowRange
from nanograd.images.writers import QUARANTINE, SOURCE
from nanograd.models.reference import UNFAMILIAR
from nanograd.nn.metrics import confusion_matrix
from nanograd.runtime.arrays import Bytes, Ints
from nanograd.runtime.events import count
from nanograd.runtime.json_files import JsonObject
from nanograd.settings.specs import ReadOptions

# Numbers of mistakes and details that are kept of a part and of the job.
_WORST_OF_PART, _WORST_OF_JOB = 5, 20
_DETAILS_OF_PART, _DETAILS_OF_JOB = 10, 10
_NUM_TENTHS, _NUM_LEVELS = 10, 121
# If a larger share of the predicted rows is unfamiliar, a remark asks to check all rows.
_MOST = 0.5


@dataclass(frozen=True, kw_only=True)
class Detail(Origin):
    """A detail of quarantined rows, with the number of rows that have it and the first row."""

    reason: str
    detail: str
    rows: int
    files: int = 0  # number of files whose number of rows is unknown

    @property
    def number(self) -> str:
        """Format the number of rows, or of files whose number of rows is unknown."""
        return count(self.files, "file") if self.files else f"{self.rows:,}"

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail} (first: {self.place})"


def _zeros(*shape: int) -> Callable[[], Ints]:
    return lambda: np.zeros(shape, np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Counts:
    """Counts of rows; `a + b` adds every field."""

    rows: int = 0  # all rows, including quarantined ones
    quarantined: int = 0
    broken_files: int = 0  # files whose number of rows is unknown; `rows` does not count them
    labelled: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # quarantined rows by reason
    details: tuple[Detail, ...] = ()  # quarantined rows by detail
    # The other fields are counted by predictions only.
    predicted: int = 0
    numbers: int = 0  # lines of digits
    correct: int = 0
    bad_labels: int = 0  # predicted rows whose label is no digit; their label is null
    dark_on_light: int = 0  # rows of raw pixels that were taken for dark ink on light paper
    unfamiliar: int = 0  # digits
    predicted_as: Ints = field(default_factory=_zeros(NUM_CLASSES))
    confusion: Ints = field(default_factory=_zeros(NUM_CLASSES, NUM_CLASSES))  # [label, prediction]
    predicted_by_confidence: Ints = field(default_factory=_zeros(_NUM_TENTHS))
    labelled_by_confidence: Ints = field(default_factory=_zeros(_NUM_TENTHS))
    # Sum of the confidences of the labelled rows, in millionths.
    millionths_by_confidence: Ints = field(default_factory=_zeros(_NUM_TENTHS))
    correct_by_confidence: Ints = field(default_factory=_zeros(_NUM_TENTHS))
    labelled_by_doubt: Ints = field(default_factory=_zeros(_NUM_LEVELS))
    correct_by_doubt: Ints = field(default_factory=_zeros(_NUM_LEVELS))
    # The most confident mistakes: origin, label, prediction, confidence, and the 28 x 28 image as
    # PNG in base64.
    worst: tuple[JsonObject, ...] = ()

    @property
    def usable(self) -> int:
        """Number of rows that are not quarantined."""
        return self.rows - self.quarantined

    @property
    def accuracy(self) -> float | None:
        """Share of correct predictions among the rows with a label."""
        return self.correct / self.labelled if self.labelled else None

    def __add__(self, other: "Counts") -> "Counts":
        names = [each.name for each in fields(self)]
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in names})

    @classmethod
    def total(cls, receipts: "Iterable[Receipt]") -> "Counts":
        """Add up the counts of parts."""
        return sum((receipt.counts for receipt in receipts), cls())

    def condensed(self) -> "Counts":
        """Return the counts of a part with the most important details and mistakes only."""
        worst = tuple(_most_confident(self.worst)[:_WORST_OF_PART])
        return replace(self, details=_commonest(self.details)[:_DETAILS_OF_PART], worst=worst)

    def most_often(self) -> str:
        """Describe the detail or reason of quarantine of most rows; "" without one."""
        if self.details:
            return str(max(_commonest(self.details), key=lambda each: each.rows))
        return next(iter(dict(self.reasons.most_common(1))), "")

    def of_ingestion(self) -> JsonObject:
        """Return the values that `ingest` returns and writes to `_summary.json`."""
        reasons = {"reasons": dict(self.reasons), "rows": self.rows, "ingested": self.usable}
        names = ("labelled", "quarantined", "broken_files")
        return {**reasons, **{name: getattr(self, name) for name in names}}

    def of_prediction(self) -> JsonObject:
        """Return the values that `predict` returns."""
        digits = enumerate(self.predicted_as.tolist())
        names = ("rows", "predicted", "numbers", "quarantined", "broken_files", "labelled")
        return {
            "reasons": dict(sorted(self.reasons.items())),
            **{name: getattr(self, name) for name in (*names, "correct")},
            "predicted_as": {str(digit): number for digit, number in digits if number},
            "unfamiliar": self.unfamiliar,
            "bad_labels": self.bad_labels,
            "dark_on_light": self.dark_on_light,
            "accuracy": self.accuracy,
            "confusion": self.confusion if self.labelled else None,
            "details": [asdict(each) for each in _commonest(self.details)[:_DETAILS_OF_JOB]],
        }

    def summary(self) -> JsonObject:
        """Return `_summary.json` of a prediction: `of_prediction` and the data of the charts."""
        worst = _most_confident(self.worst)[:_WORST_OF_JOB]
        arrays = {name: value for name, value in self.to_json().items() if "_by_" in name}
        confusion = self.confusion.tolist() if self.labelled else None
        found = {"confusion": confusion, "worst": worst}
        return {**self.of_prediction(), **arrays, **found}

    def to_json(self) -> JsonObject:
        """Encode the counts; `from_json` decodes them."""
        arrays = {
            n: each.tolist() for n, each in vars(self).items() if isinstance(each, np.ndarray)
        }
        return {**vars(self), **arrays, "details": [asdict(each) for each in self.details]}

    @classmethod
    def from_json(cls, values: JsonObject) -> "Counts":
        """Decode counts; ignore other values."""
        decoded = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        decoded["reasons"] = Counter(values["reasons"])
        decoded["details"] = tuple(Detail(**each) for each in values["details"])
        for name, value in decoded.items():
            if isinstance(value, list):
                decoded[name] = tuple(value) if name == "worst" else np.array(value, np.int64)
        return cls(**decoded)

    def remarks(self) -> Iterator[str]:
        """Yield sentences about what the user should check after a job."""
        if self.dark_on_light:
            yield (
                f"dark ink on light paper was assumed for {count(self.dark_on_light, 'row')} of "
                "raw pixels with a bright border; confirm with --polarity dark-on-light, or set "
                "light-on-dark"
            )
        digits = int(self.predicted_as.sum())
        if self.unfamiliar > _MOST * digits:
            yield (
                f"{self.unfamiliar:,} of {digits:,} predicted digits "
                f"({self.unfamiliar / digits:.0%}) are unlike the digits of the training "
                "set: rotated, mirrored as in EMNIST, of another --polarity, or no digits; see "
                "_review.pq"
            )
        if self.bad_labels:
            yield (
                f"the label of {count(self.bad_labels, 'predicted row')} is null, because it was "
                "not a digit"
            )


class Written(NamedTuple):
    """Size and checksum of a file that was written."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Receipt:
    """What a part has read, written and counted. `OUT/_receipts/PART.json` holds it."""

    part: str  # id of the part
    inputs: tuple[str, ...] = ()  # input files
    versions: tuple[Version, ...] = ()  # version of each input file
    contents: tuple[str | None, ...] = ()  # what identifies the content of each; None if unknown
    files: Mapping[str, Written]  # output files by their names in the output
    name: str = ""  # part of the names of the output files
    ranges: tuple[RowRange, ...] = ()  # the rows that were read of each input that is a table
    readings: tuple[ReadOptions, ...] = ()  # see `Part.readings`
    counts: Counts

    @property
    def unusable(self) -> str | None:
        """The only input file, if it could not be used at all."""
        is_whole = self.counts.details[:1] and self.counts.details[0].source_row is None
        return self.inputs[0] if is_whole else None

    def with_versions(self, versions: Mapping[str, Version]) -> "Receipt":
        """Return the receipt with the first values of the versions of input files replaced."""
        news = [versions.get(file, ()) for file in self.inputs]
        pairs = zip(news, self.versions, strict=True)
        return replace(self, versions=tuple((*new, *old[len(new) :]) for new, old in pairs))

    def without_quarantine(self) -> "Receipt":
        """Return the receipt without the quarantined rows and their files."""
        files = {n: each for n, each in self.files.items() if not n.startswith("quarantine/")}
        counts = replace(
            self.counts,
            rows=self.counts.usable,
            quarantined=0,
            broken_files=0,
            reasons=Counter[str](),
            details=(),
        )
        return replace(self, files=files, counts=counts)

    def to_json(self) -> JsonObject:
        """Encode the receipt; `from_json` decodes it."""
        files = {name: each._asdict() for name, each in self.files.items()}
        readings = [each.identity() for each in self.readings]
        values = {**vars(self), "files": files, "readings": readings}
        del values["counts"]
        return {**values, **self.counts.to_json()}

    @classmethod
    def from_json(cls, values: JsonObject) -> "Receipt":
        """Decode a receipt."""
        return cls(
            part=values["part"],
            inputs=tuple(values["inputs"]),
            versions=tuple(map(tuple, values["versions"])),
            contents=tuple(values["contents"]),
            files={name: Written(**written) for name, written in values["files"].items()},
            name=values["name"],
            ranges=tuple(RowRange(tuple(groups), *rows) for groups, *rows in values["ranges"]),
            readings=tuple(ReadOptions(**each) for each in values["readings"]),
            counts=Counts.from_json(values),
        )


def count_quarantine(quarantine: pa.Table, *, rows: int = 1, files: int = 0) -> Counts:
    """Count rows of quarantine, each of which stands for some input rows, or for whole files."""
    found = quarantine.select(QUARANTINE.names).to_pylist()
    details = _commonest(Detail(**row, rows=rows, files=files) for row in found)
    reasons = Counter[str]()
    for each in details:
        reasons[each.reason] += each.rows
    return Counts(
        rows=rows * len(quarantine),
        quarantined=rows * len(quarantine),
        broken_files=files * len(quarantine),
        reasons=+reasons,  # drop reasons that count 0 rows
        details=details,
    )


def doubt_of(predictions: pa.Table) -> NDArray[np.float32]:
    """Compute the doubt of each row of predictions, (n,) float32 in [0, 1].

    It is 1 - confidence for a digit of unfamiliarity 0, and grows with the unfamiliarity.
    """
    unfamiliarity = predictions.column("unfamiliarity").fill_null(0).to_numpy()
    confidence = predictions.column("confidence").to_numpy()
    return np.asarray(1 - confidence * (1 - unfamiliarity / 4), np.float32)


def count_predictions(predictions: pa.Table, images: Bytes) -> Counts:
    """Count the n rows of a part by prediction, label and confidence.

    Args:
        predictions: the rows, with the columns of predictions.
        images: (n, 784) uint8, the classified images, to show the most confident mistakes.
    """
    label = predictions.column("label").fill_null(-1).to_numpy()
    prediction = predictions.column("prediction").to_numpy()
    confidence = predictions.column("confidence").to_numpy()
    unfamiliarity = predictions.column("unfamiliarity").fill_null(0).to_numpy()
    tenths = np.minimum(confidence * 10, _NUM_TENTHS - 1).astype(np.int64)
    levels = np.floor(-20 * np.log10(np.maximum(doubt_of(predictions), 1e-6))).astype(np.int64)
    levels = np.clip(levels, 0, _NUM_LEVELS - 1)
    known, correct = label >= 0, label == prediction
    wrong = np.flatnonzero(known & ~correct)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:_WORST_OF_PART]
    origins = predictions.select(SOURCE.names).take(pa.array(wrong)).to_pylist()
    millionths = np.zeros(_NUM_TENTHS, np.int64)
    np.add.at(millionths, tenths[known], np.rint(confidence[known] * 1e6).astype(np.int64))
    return Counts(
        rows=len(label),
        predicted=len(label),
        labelled=int(known.sum()),
        correct=int(correct.sum()),
        unfamiliar=int((unfamiliarity > UNFAMILIAR).sum()),
        predicted_as=np.bincount(prediction, minlength=NUM_CLASSES),
        confusion=confusion_matrix(prediction[known], label[known], NUM_CLASSES),
        predicted_by_confidence=np.bincount(tenths, minlength=_NUM_TENTHS),
        labelled_by_confidence=np.bincount(tenths[known], minlength=_NUM_TENTHS),
        millionths_by_confidence=millionths,
        correct_by_confidence=np.bincount(tenths[correct], minlength=_NUM_TENTHS),
        labelled_by_doubt=np.bincount(levels[known], minlength=_NUM_LEVELS),
        correct_by_doubt=np.bincount(levels[correct], minlength=_NUM_LEVELS),
        worst=tuple(
            {
                **origin,
                "label": int(label[at]),
                "prediction": int(prediction[at]),
                "confidence": round(float(confidence[at]), 6),
                "png": b64encode(to_png(images[at])).decode(),
            }
            for at, origin in zip(wrong.tolist(), origins, strict=True)
        ),
    )


def _most_confident(mistakes: Iterable[JsonObject]) -> list[JsonObject]:
    found = sorted(mistakes, key=itemgetter("source_file", "source_row"))
    return sorted(found, key=itemgetter("confidence"), reverse=True)


def _commonest(details: Iterable[Detail]) -> tuple[Detail, ...]:
    """Merge equal details (why rows are quarantined), keep the first row of each, and sort them.

    Details that differ only in the paths of their rows count as equal. Details of files with an
    unknown number of rows come first, then the most frequent ones.
    """
    found: dict[tuple[str, str], Detail] = {}
    for each in sorted(details, key=lambda each: (each.source_file, each.source_row or 0)):
        key = each.reason, each.detail.replace(each.path, "")
        first = found.setdefault(key, replace(each, rows=0, files=0))
        added = replace(first, rows=first.rows + each.rows, files=first.files + each.files)
        found[key] = added
    return tuple(
        sorted(found.values(), key=lambda each: (-each.files, -each.rows, each.reason, each.detail))
    )
