"""Parquet to predictions: one part is one file, or some row groups of a large one.

    OUT/predictions/part-ID.parquet   kept columns, source_file, source_row, prediction,
                                      confidence, scores, label
    OUT/quarantine/part-ID.parquet    source_file, source_row, reason, detail

A row is in the one or the other, exactly once. A file that cannot be read at all is one row of
quarantine without a row number.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nanograd import model as model_io
from nanograd import storage
from nanograd.batch.inputs import InputFile, expand, open_parquet, to_parquet
from nanograd.batch.job import Job, Part, Receipt, commit_part, part_id
from nanograd.config import PredictConfig
from nanograd.data.columns import find_image_column, find_label_column
from nanograd.data.parquet import (
    PREDICTIONS,
    QUARANTINE,
    Reject,
    read_images,
    read_labels,
)
from nanograd.errors import DataError, UsageError
from nanograd.model import Model

# A part is about this many rows, as far as row groups can be cut: enough to be worth committing,
# little enough to be done again after a kill.
_PART_ROWS = 50_000
_BATCH_ROWS = 2_000


@dataclass(frozen=True, kw_only=True)
class PredictWork:
    """Does one part; small, so that it can be sent to every actor, which reads the model itself."""

    place: str
    model: str
    model_sha256: str
    image_column: str | None
    label_column: str | None
    keep: tuple[str, ...]
    polarity: str
    max_pixels: int

    def __call__(self, part: Part) -> Receipt:
        """Read, predict and commit the rows of a part."""
        model = _model(self.model, self.model_sha256)
        outcomes = list(self._outcomes(part, model))
        read = pa.concat_tables([predictions for predictions, _ in outcomes])
        rejects = pa.concat_tables([quarantine for _, quarantine in outcomes])
        files = {}
        if not part.broken:
            files[f"predictions/part-{part.id}.parquet"] = to_parquet(read)
        if len(rejects):
            files[f"quarantine/part-{part.id}.parquet"] = to_parquet(rejects)
        return commit_part(self.place, part, files, _counts(part, read, rejects))

    def _outcomes(self, part: Part, model: Model) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Predictions and quarantine, batch by batch; together they hold each row once."""
        [file], first = part.files, part.first_row
        if part.broken:
            whole_file = Reject(None, part.broken, part.detail)
            yield PREDICTIONS.empty_table(), _quarantine(file, 0, [whole_file])
            return
        parquet = open_parquet(file)
        batches = parquet.iter_batches(_BATCH_ROWS, row_groups=list(range(*part.row_groups)))
        schema = pa.schema(
            [*(parquet.schema_arrow.field(each) for each in self.keep), *PREDICTIONS]
        )
        yield schema.empty_table(), QUARANTINE.empty_table()
        done = 0
        while done < part.num_rows:
            try:
                batch = pa.Table.from_batches([next(batches)])
            except (pa.ArrowException, OSError, StopIteration) as error:
                lost = [
                    Reject(row, "broken_file", str(error)) for row in range(part.num_rows - done)
                ]
                yield schema.empty_table(), _quarantine(file, first + done, lost)
                return
            yield self._outcome(model, file, first + done, batch, schema)
            done += len(batch)

    def _outcome(
        self, model: Model, file: str, first: int, batch: pa.Table, schema: pa.Schema
    ) -> tuple[pa.Table, pa.Table]:
        column = find_image_column(batch.schema, self.image_column)
        decoded = read_images(batch, column, polarity=self.polarity, max_pixels=self.max_pixels)
        labels, bad_labels = read_labels(batch, find_label_column(batch.schema, self.label_column))
        refused = {reject.row for reject in bad_labels}
        good = np.array([row not in refused for row in decoded.rows.tolist()], dtype=bool)
        rows = decoded.rows[good]
        scores = model.scores(decoded.images[good])
        best = scores.argmax(axis=1) if len(rows) else np.zeros(0, np.int64)
        arrays = {
            **{name: batch.column(name).take(pa.array(rows)) for name in self.keep},
            "source_file": pa.array([file] * len(rows), pa.string()),
            "source_row": pa.array(rows + first),
            "prediction": pa.array(best.astype(np.int8)),
            "confidence": pa.array(scores[np.arange(len(rows)), best]),
            "scores": pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), 10),
            "label": pa.array(labels[rows], mask=labels[rows] < 0),
        }
        rejects = [*bad_labels, *(each for each in decoded.rejects if each.row not in refused)]
        return pa.table(arrays, schema), _quarantine(file, first, rejects)


def plan(config: PredictConfig, inputs: Sequence[str]) -> tuple[Job, PredictWork]:
    """What there is to do: the model is loaded, every file's footer is read.

    Args:
        config: settings.
        inputs: Parquet files, folders or globs, local or in an object store.

    Raises:
        DataError: an input is not there, the model is damaged, a column to keep is missing.
        UsageError: a column to keep has a name that predictions use.
    """
    if taken := sorted(set(config.keep) & set(PREDICTIONS.names)):
        raise UsageError(f"--keep {taken[0]}: the predictions have a column of that name already")
    model = model_io.load(config.model)
    work = PredictWork(
        place=storage.absolute(config.output),
        model=storage.absolute(config.model),
        model_sha256=model.sha256(),
        image_column=config.image_column,
        label_column=config.label_column,
        keep=config.keep,
        polarity=config.polarity,
        max_pixels=config.max_pixels,
    )
    settings = {
        name: value for name, value in asdict(work).items() if name not in ("place", "model")
    }
    parts = [
        part
        for file in expand(inputs, (".parquet", ".pq"))
        for part in _parts(file, work, settings)
    ]
    identity = {
        "command": "predict",
        **settings,
        "keep": list(config.keep),
        "parts": [part.id for part in parts],
    }
    job = Job(place=work.place, identity=identity, parts=parts, overwrite=config.overwrite)
    return job, work


def _parts(file: InputFile, work: PredictWork, settings: dict[str, Any]) -> Iterator[Part]:
    """One file, cut at row groups; one that cannot be read is a part that says why."""
    reason = "broken_file"
    try:
        parquet = open_parquet(file.place)
        reason = "wrong_schema"
        find_image_column(parquet.schema_arrow, work.image_column)
        find_label_column(parquet.schema_arrow, work.label_column)
    except DataError as error:
        id_ = part_id(settings, *file)
        yield Part(id=id_, files=(file.place,), broken=reason, detail=str(error))
        return
    for name in work.keep:
        if name not in parquet.schema_arrow.names:
            raise DataError(f"{file.place} has no column {name!r} to --keep; leave it out")
    for groups, first_row, num_rows in _cut(parquet.metadata):
        yield Part(
            id=part_id(settings, *file, *groups),
            files=(file.place,),
            row_groups=groups,
            first_row=first_row,
            num_rows=num_rows,
        )


def _cut(metadata: pq.FileMetaData) -> Iterator[tuple[tuple[int, int], int, int]]:
    """Runs of row groups of at least _PART_ROWS rows, with their first row and number of rows."""
    start, first_row, num_rows = 0, 0, 0
    for group in range(metadata.num_row_groups):
        num_rows += metadata.row_group(group).num_rows
        if num_rows >= _PART_ROWS or group == metadata.num_row_groups - 1:
            yield (start, group + 1), first_row, num_rows
            start, first_row, num_rows = group + 1, first_row + num_rows, 0
    if metadata.num_row_groups == 0:
        yield (0, 0), 0, 0


@lru_cache(maxsize=1)
def _model(place: str, sha256: str) -> Model:
    """The model of the job, read once in each process."""
    model = model_io.load(place)
    if model.sha256() != sha256:
        raise DataError(f"{place} has changed since the job began; start the job again")
    return model


def _quarantine(file: str, first: int, rejects: Sequence[Reject]) -> pa.Table:
    rows = [None if each.row is None else first + each.row for each in rejects]
    return pa.table(
        {
            "source_file": pa.array([file] * len(rejects), pa.string()),
            "source_row": pa.array(rows, pa.int64()),
            "reason": pa.array([each.reason for each in rejects], pa.string()),
            "detail": pa.array([each.detail for each in rejects], pa.string()),
        },
        QUARANTINE,
    )


def _counts(part: Part, read: pa.Table, rejects: pa.Table) -> dict[str, Any]:
    labels = read.column("label").drop_null()
    correct = pc.sum(pc.equal(read.column("label"), read.column("prediction"))).as_py()
    return {
        "rows": len(read) + len(rejects) - bool(part.broken),
        "predicted": len(read),
        "quarantined": len(rejects),
        "broken_files": int(bool(part.broken)),
        "labelled": len(labels),
        "correct": correct or 0,
        "reasons": dict(Counter(rejects.column("reason").to_pylist())),
    }
