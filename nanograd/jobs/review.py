"""The list of the most doubtful rows of a prediction, for a person to check.

    OUT/_review/part-NAME.pq   the most doubtful rows of a part, as many as the list may need
    OUT/_review.pq             those of all parts, the most doubtful first, with pictures

These are Parquet files, whose names readers of all Parquet files in a folder leave out.

Doubt is 1 - confidence x (1 - unfamiliarity / 4). Equal rows are ordered by file and number, so the
list does not depend on the order in which parts are done. The list names the files and the
selection from which it was made, so it is made again when one of them changes.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import ceil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nanograd.digits.dataset import NUM_PIXELS
from nanograd.images.writers import PREDICTIONS, to_parquet
from nanograd.jobs.part import part_id
from nanograd.jobs.receipts import Receipt, doubt_of, files_of
from nanograd.pictures.fast_png import encode_plain
from nanograd.runtime import storage
from nanograd.runtime.events import Listener, ignore, warning
from nanograd.settings.specs import PredictSpec

REVIEW, _OF_PARTS = "_review.pq", "_review"
# The most rows of the list, of a part, and the least that a part keeps if it has them.
MAX_ROWS, MAX_OF_PART, LEAST_OF_PART = 100_000, 10_000, 200
# Rows that a part keeps at most, as a multiple of its share.
_CONCENTRATION = 4
# Files of parts that are read at once.
_NUM_THREADS = 16
_MADE_OF = b"nanograd.made_of"

_COLUMNS = ("source_file", "source_row", "prediction", "confidence", "unfamiliarity", "label")
_KEPT = pa.schema([("doubt", pa.float32()), *(PREDICTIONS.field(name) for name in _COLUMNS)])
_PART = _KEPT.append(pa.field("pixels", pa.binary(NUM_PIXELS)))
_LIST = _KEPT.append(pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
_ORDER = [("doubt", "descending"), ("source_file", "ascending"), ("source_row", "ascending")]


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
        """Return the number of rows to keep of a part with `num_rows` rows."""
        if self.below is not None:
            return MAX_OF_PART
        wanted = ceil(_CONCENTRATION * self.share * num_rows)
        return min(max(wanted, LEAST_OF_PART), MAX_OF_PART) if self.share else 0

    def of_job(self, num_rows: int) -> int:
        """Return the number of rows to list of a job with `num_rows` predictions."""
        wanted = MAX_ROWS if self.below is not None else ceil(self.share * num_rows)
        return min(wanted, MAX_ROWS)


class PartReview:
    """The most doubtful rows of a part, collected batch by batch."""

    def __init__(self, selection: Selection, num_rows: int) -> None:
        self._limit, self._below = selection.of_part(num_rows), selection.below
        self._rows = pa.Table.from_batches([], _PART)

    def add(self, predictions: pa.Table, images: NDArray[np.uint8]) -> None:
        """Add n rows of predictions and their (n, 784) uint8 images."""
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
        return {f"{_OF_PARTS}/{stem}.pq": to_parquet(self._rows)} if len(self._rows) else {}


def review_of(output: str, spec: PredictSpec) -> str | None:
    """Return the place of the list of a job in this output; None without one."""
    return storage.join(output, REVIEW) if spec.review_share else None


def write_review(
    output: str,
    receipts: Sequence[Receipt],
    selection: Selection,
    listener: Listener = ignore,
    *,
    verify: bool = False,
) -> None:
    """Make the list of a finished prediction, unless it has been made.

    Args:
        output: folder or URI, locked by this process.
        receipts: of all its parts.
        selection: the rows to list; parts may have been done for another one.
        listener: receives a warning if the parts keep too few rows for it.
        verify: whether to make the list in any case, and compare it.
    """
    place = storage.join(output, REVIEW)
    if not selection.of_part(1):
        storage.remove(place)
        return
    files = {name: each for name, each in files_of(receipts).items() if name.startswith(_OF_PARTS)}
    number = selection.of_job(sum(receipt.counts.usable for receipt in receipts))
    made_of = part_id(asdict(selection), number, sorted(files.items())).encode()
    if not verify and storage.exists(place):
        with suppress(pa.ArrowException), storage.open_file(place) as stream:
            if (pq.read_schema(stream).metadata or {}).get(_MADE_OF) == made_of:
                return
    rows, waiting = pa.Table.from_batches([], _PART), list[pa.Table]()
    least = -1 if selection.below is None else 1 - selection.below
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        places = [storage.join(output, name) for name in sorted(files)]
        for start in range(0, len(places), _NUM_THREADS):
            for data in pool.map(storage.read, places[start : start + _NUM_THREADS]):
                table = pq.read_table(pa.BufferReader(data)).cast(_PART)
                waiting.append(table.filter(pc.greater(table["doubt"], np.float32(least))))
                if sum(map(len, waiting)) > number:
                    rows, waiting = _first(pa.concat_tables([rows, *waiting]), number), []
    rows = _first(pa.concat_tables([rows, *waiting]), number)
    if selection.below is None and len(rows) < number:
        text = f"{REVIEW} has {len(rows):,} of {number:,} rows, since parts keep no more"
        listener(warning(f"{text}; if a smaller share was listed before, --overwrite keeps all"))
    images = [
        {"bytes": encode_plain(pixels), "path": None}
        for pixels in rows.column("pixels").to_pylist()
    ]
    pictures = pa.array(images, _LIST.field("image").type)
    listed = pa.table([*rows.drop("pixels").columns, pictures], _LIST)
    data = to_parquet(listed.replace_schema_metadata({_MADE_OF: made_of}))
    if not (verify and storage.exists(place) and storage.read(place) == data):
        storage.commit(place, data)


def _first(rows: pa.Table, number: int) -> pa.Table:
    """Return the most doubtful rows in their order."""
    return rows.take(pc.sort_indices(rows, _ORDER)[:number])
