"""The list of the most doubtful rows of a prediction, for manual review.

    OUT/_review/part-NAME.pq   the most doubtful rows of a part, as many as the list may need
    OUT/_review.pq             the most doubtful rows of all parts, sorted by doubt

These are Parquet files; docs/review.md explains the columns. Columns of `--keep` that hold bytes or
tensors are left out, because they could hold whole photos. Tools that read all Parquet files of a
folder skip names that begin with _.

Rows of equal doubt are ordered by file and row number, so the list does not depend on the order in
which parts are done. The metadata of `_review.pq` has a hash of the files and settings from which
it was made. If the hash changes, the list is made again.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import ceil, inf

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nanograd.digits.dataset import NUM_PIXELS
from nanograd.images.columns import fits, rename_taken
from nanograd.images.writers import PICTURE, read, to_parquet
from nanograd.jobs.output import REVIEW, SUCCESS, files_of, find_files
from nanograd.jobs.part import part_id
from nanograd.jobs.receipts import Receipt, doubt_of
from nanograd.pictures.fast_png import encode_plain
from nanograd.runtime import storage
from nanograd.runtime.events import Listener, warning
from nanograd.settings.specs import PredictSpec

OF_PARTS = "_review"
# Maximum rows of the list, and of a part. A part keeps at least 200 rows if it has them.
MAX_ROWS, MAX_OF_PART, LEAST_OF_PART = 100_000, 10_000, 200
# A part keeps up to this multiple of its share, because doubtful rows may be in few parts.
_CONCENTRATION = 4
_MADE_OF = b"nanograd.made_of"

PIXELS = pa.field("pixels", pa.binary(NUM_PIXELS))
IMAGE = pa.field("image", PICTURE)
ORDER = [("doubt", "descending"), ("source_file", "ascending"), ("source_row", "ascending")]


class PartReview:
    """The most doubtful rows of a part of `num_rows` rows, collected batch by batch."""

    def __init__(self, spec: PredictSpec, num_rows: int, predicted: pa.Schema) -> None:
        share = ceil(_CONCENTRATION * spec.review_share * num_rows)
        self._limit = min(max(share, LEAST_OF_PART), MAX_OF_PART) if spec.review_share else 0
        # A picture may have many digits.
        if spec.review_below is not None or spec.digits == "many":
            self._limit = MAX_OF_PART
        self._listed = _least(spec)
        self._columns, self._schema = _columns(predicted, PIXELS)
        self._rows = pa.Table.from_batches([], self._schema)

    def add(self, predictions: pa.Table, images: NDArray[np.uint8]) -> None:
        """Add n rows of predictions and their (n, 784) uint8 images."""
        doubt = doubt_of(predictions)
        chosen = np.argsort(-doubt, kind="stable")[: self._limit]
        rows = predictions.select(self._columns).take(pa.array(chosen))
        pixels = pa.array([each.tobytes() for each in images[chosen]], PIXELS.type)
        rows = pa.table([*rows.columns, pa.array(doubt[chosen]), pixels], self._schema)
        self._rows = _first(pa.concat_tables([self._rows, rows]), self._limit)

    def finish(self, stem: str) -> dict[str, bytes]:
        """Return the name and content of the part's file; {} if the part keeps no row."""
        # A row that is not listed shows that the part keeps all rows that are more doubtful.
        rows = self._rows[: 1 + int((self._rows["doubt"].to_numpy() >= self._listed).sum())]
        return {f"{OF_PARTS}/{stem}.pq": to_parquet(rows)} if len(rows) else {}


def write_review(
    spec: PredictSpec,
    predicted: pa.Schema,
    folder: str,
    receipts: Sequence[Receipt],
    listener: Listener,
) -> None:
    """Write the list of doubtful rows when all parts are done, unless it is up to date.

    When `predict` processes a part, it stores as many doubtful rows of the part as the settings of
    that day require. If the settings require more rows now, the list may lack rows, and a warning
    says so. With the setting `verify`, the list is computed again, and written only if it differs
    from the file.

    Args:
        spec: settings of the job.
        predicted: columns of the predictions.
        folder: where the list is written: the output, or the staging folder if it holds new parts.
        receipts: the receipts of all parts, new and old.
        listener: receives the warning.
    """
    if not spec.review_share:
        storage.remove(storage.join(spec.output, REVIEW))
        return
    place, here = storage.join(folder, REVIEW), find_files(folder)
    files = {name: each for name, each in files_of(receipts).items() if name.startswith(OF_PARTS)}
    number = ceil(spec.review_share * sum(int(e.counts.predicted_as.sum()) for e in receipts))
    number = MAX_ROWS if spec.review_below is not None else min(number, MAX_ROWS)
    selection = {"share": spec.review_share, "below": spec.review_below}
    made_of = part_id(selection, number, sorted(files.items())).encode()
    if not spec.verify and storage.exists(place):
        with suppress(pa.ArrowException), storage.open_file(place) as stream:
            if (pq.read_schema(stream).metadata or {}).get(_MADE_OF) == made_of:
                return
    rows = pa.Table.from_batches([], _columns(predicted, PIXELS)[1])
    names, ends = sorted(files), dict[str, tuple[int, float]]()
    for start in range(0, len(names), storage.NUM_THREADS):
        some = names[start : start + storage.NUM_THREADS]
        places = [storage.join(folder if n in here else spec.output, n) for n in some]
        tables = storage.map_all(partial(read, schema=rows.schema), places)
        for name, table in zip(some, tables, strict=True):
            ends[name] = len(table), table["doubt"][-1].as_py() if len(table) else inf
        rows = _first(pa.concat_tables([rows, *tables]), number)
        rows = rows.filter(pc.greater_equal(rows["doubt"], _least(spec)))
    least = float(np.nextafter(np.float32(_least(spec)), np.float32(-1)))
    if len(rows) == number > 0:
        least = rows["doubt"][-1].as_py()
    _warn_of_lost_rows(receipts, ends, least, listener)
    pixels = np.frombuffer(rows["pixels"].combine_chunks().buffers()[1] or b"", np.uint8)
    pictures = encode_plain(pixels.reshape(-1, NUM_PIXELS))
    fields = [pa.array(pictures, pa.binary()), rows.column("path").combine_chunks()]
    columns = [*rows.columns[:-1], pa.StructArray.from_arrays(fields, fields=list(PICTURE))]
    listed = pa.table(columns, _columns(predicted, IMAGE)[1])
    data = to_parquet(listed.replace_schema_metadata({_MADE_OF: made_of}))
    if not storage.exists(place):
        storage.remove(storage.join(folder, SUCCESS))  # `run_job` writes it again
    if not (spec.verify and storage.exists(place) and storage.read(place) == data):
        storage.commit(place, data)


def _warn_of_lost_rows(
    receipts: Sequence[Receipt],
    ends: Mapping[str, tuple[int, float]],
    least: float,
    listener: Listener,
) -> None:
    """Warn if a part may have rows with more doubt than `least` that it does not keep.

    `ends` has, by file, the number of rows that a part keeps, and the doubt of the last one. The
    rows that the part does not keep have at most this doubt.
    """
    for receipt in receipts:
        num_kept, doubt = next((ends[n] for n in receipt.files if n in ends), (0, inf))
        predicted = int(receipt.counts.predicted_as.sum())
        if num_kept < predicted and doubt > least:
            text = f"{REVIEW} may lack rows of {receipt.inputs[0]}, because its part keeps too few"
            more = "if fewer rows were to be listed before, --overwrite keeps more"
            listener(warning(f"{text} of its most doubtful rows; {more}"))
            return


def _columns(predicted: pa.Schema, picture: pa.Field) -> tuple[list[str], pa.Schema]:
    """Return the columns of predictions to list, and the columns of the list."""
    few = pa.schema([field for field in predicted if fits(field.type, "jsonl")])
    own = pa.schema([("doubt", pa.float32()), picture])
    names = rename_taken(few.names, own.names)
    return few.names, pa.schema([*map(pa.Field.with_name, few, names), *own])


def _least(spec: PredictSpec) -> float:
    if spec.review_below is None:
        return 0
    return float(np.nextafter(np.float32(1 - spec.review_below), np.float32(2)))


def _first(rows: pa.Table, number: int) -> pa.Table:
    return rows.take(pc.sort_indices(rows, ORDER)[:number])
