"""Parquet to predictions: one part is one file, or some row groups of a large one.

    OUT/predictions/part-ID.parquet   kept columns, source_file, source_row, prediction,
                                      confidence, scores, label
    OUT/quarantine/part-ID.parquet    source_file, source_row, reason, detail

A row is in the one or the other, exactly once. A file that cannot be read at all is one row of
quarantine without a row number.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nanograd.batch import account, scan
from nanograd.batch.account import Mistake
from nanograd.batch.inputs import InputFile, expand
from nanograd.batch.job import Job
from nanograd.batch.part import Part, Receipt, commit_part, part_id
from nanograd.batch.scan import Found
from nanograd.config.command_configs import PredictConfig
from nanograd.errors import DataError, UsageError
from nanograd.models import model as model_io
from nanograd.models.model import Model
from nanograd.pictures.decode import SUFFIXES
from nanograd.runtime import storage
from nanograd.tables import columns, writers
from nanograd.tables.columns import find_image_column, find_label_column
from nanograd.tables.files import Lost, RowRange, read_rows
from nanograd.tables.images import PREDICTIONS, QUARANTINE, Reject, read_images, read_labels
from nanograd.tables.rows import Reading


class Outcome(NamedTuple):
    """What became of a batch of rows: each is in the one table or in the other."""

    predictions: pa.Table
    quarantine: pa.Table
    mistakes: Sequence[Mistake] = ()


@dataclass(frozen=True, kw_only=True)
class PredictWork:
    """Does one part; small, so that it can be sent to every actor, which reads the model itself."""

    place: str
    model: str
    model_sha256: str
    image_column: str | None
    label_column: str | None
    kept: pa.Schema
    folders: pa.Schema
    reading: Reading
    format: str

    def __call__(self, part: Part) -> Receipt:
        """Read, predict and commit the rows of a part."""
        model = _model(self.model, self.model_sha256)
        outcomes = list(self._outcomes(part, model))
        read = pa.concat_tables([each.predictions for each in outcomes])
        rejects = pa.concat_tables([each.quarantine for each in outcomes])
        mistakes = [mistake for each in outcomes for mistake in each.mistakes]
        files, name = {}, f"part-{part.id}.{self.format}"
        if not part.broken:
            files[f"predictions/{name}"] = writers.encode(read, self.format)
        if len(rejects):
            files[f"quarantine/{name}"] = writers.encode(rejects, self.format)
        counts = account.counts(part, read, rejects, mistakes)
        return commit_part(self.place, part, files, counts)

    def _outcomes(self, part: Part, model: Model) -> Iterator[Outcome]:
        """Predictions and quarantine, batch by batch; together they hold each row once."""
        [file], first = part.files, part.first_row
        if part.broken:
            whole_file = Reject(None, part.broken, part.detail)
            yield Outcome(PREDICTIONS.empty_table(), _quarantine(file, 0, [whole_file]))
            return
        schema = pa.schema([*self.kept, *PREDICTIONS])
        yield Outcome(schema.empty_table(), QUARANTINE.empty_table())
        rows = RowRange(part.row_groups, part.skip, part.first_row, part.num_rows)
        for batch in read_rows(file, rows, lambda schema: self._needed(schema, file)):
            if isinstance(batch, Lost):
                lost = [Reject(row, "broken_file", batch.detail) for row in range(batch.num_rows)]
                yield Outcome(schema.empty_table(), _quarantine(file, first, lost))
                first += batch.num_rows
            else:
                table = pa.Table.from_batches([batch])
                table = columns.add_columns(table, file, self.folders)
                yield self._outcome(model, file, first, table, schema)
                first += len(batch)

    def _needed(self, schema: pa.Schema, file: str) -> list[str]:
        all_columns = columns.add_columns(schema.empty_table(), file, self.folders)
        label = find_label_column(all_columns.schema, self.label_column)
        images = find_image_column(schema, self.image_column).names
        wanted = {*images, *self.kept.names, *([label] if label else [])}
        return [name for name in schema.names if name in wanted]

    def _outcome(
        self, model: Model, file: str, first: int, batch: pa.Table, schema: pa.Schema
    ) -> Outcome:
        decoded = read_images(
            batch, find_image_column(batch.schema, self.image_column), self.reading
        )
        labels, bad_labels = read_labels(batch, find_label_column(batch.schema, self.label_column))
        refused = {reject.row for reject in bad_labels}
        good = np.array([row not in refused for row in decoded.rows.tolist()], dtype=bool)
        rows, images = decoded.rows[good], decoded.images[good]
        scores = model.scores(images)
        best = scores.argmax(axis=1) if len(rows) else np.zeros(0, np.int64)
        arrays = {
            **{field.name: _kept(batch, field, rows) for field in self.kept},
            "source_file": pa.array([file] * len(rows), pa.string()),
            "source_row": pa.array(rows + first),
            "prediction": pa.array(best.astype(np.int8)),
            "confidence": pa.array(scores[np.arange(len(rows)), best]),
            "scores": pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), 10),
            "label": pa.array(labels[rows], mask=labels[rows] < 0),
        }
        rejects = [*bad_labels, *(each for each in decoded.rejects if each.row not in refused)]
        mistakes = account.find_mistakes(images, file, rows + first, labels[rows], scores)
        return Outcome(pa.table(arrays, schema), _quarantine(file, first, rejects), mistakes)


def plan(config: PredictConfig, inputs: Sequence[str]) -> tuple[Job, PredictWork]:
    """What there is to do: the model is loaded, every file's footer is read.

    Args:
        config: settings.
        inputs: Parquet files, folders or globs, local or in an object store.

    Raises:
        DataError: an input is not there, the model is damaged, a column to keep is missing.
        UsageError: an input is a picture; a column to keep has a name that predictions use, or does
            not fit the format.
    """
    if taken := sorted(set(config.keep) & set(PREDICTIONS.names)):
        raise UsageError(f"--keep {taken[0]}: the predictions have a column of that name already")
    model_sha256 = model_io.load(config.model).sha256()
    found, folders = scan.look_at(_files(inputs), config.image_column, config.label_column)
    kept = scan.kept_columns(found, folders, config.keep)
    writers.check(kept, config.format)
    work = _work(config, model_sha256, kept, folders)
    settings = _settings(work)
    all_rows = sum(sum(each.group_rows) for each in found)
    parts = [part for each in found for part in _parts(each, settings, all_rows)]
    job = Job(
        place=work.place,
        identity={"command": "predict", **settings, "parts": [part.id for part in parts]},
        parts=parts,
        overwrite=config.overwrite,
        max_error_rate=config.max_error_rate,
        summarise=account.summarise,
    )
    return job, work


def _files(inputs: Sequence[str]) -> list[InputFile]:
    files = expand(inputs, (".parquet", ".pq"), "`nanograd ingest` makes them of pictures")
    if pictures := [file.place for file in files if file.place.lower().endswith(SUFFIXES)]:
        raise UsageError(
            f"{pictures[0]} is a picture; `nanograd ingest` makes rows of it that can be predicted"
        )
    return files


def _work(
    config: PredictConfig, model_sha256: str, kept: pa.Schema, folders: pa.Schema
) -> PredictWork:
    root = config.image_root
    return PredictWork(
        place=storage.absolute(config.output),
        model=storage.absolute(config.model),
        model_sha256=model_sha256,
        image_column=config.image_column,
        label_column=config.label_column,
        kept=kept,
        folders=folders,
        reading=Reading(
            polarity=config.polarity,
            max_pixels=config.max_pixels,
            normalise=config.normalise,
            image_root=storage.absolute(root) if root else None,
        ),
        format=config.format,
    )


def _settings(work: PredictWork) -> dict[str, Any]:
    """What the output depends on, beside the input."""
    return {
        "model_sha256": work.model_sha256,
        **asdict(work.reading),
        "image_column": work.image_column,
        "label_column": work.label_column,
        "keep": {field.name: str(field.type) for field in work.kept},
        "format": work.format,
        "folders": {field.name: str(field.type) for field in work.folders},
    }


def _parts(found: Found, settings: dict[str, Any], all_rows: int) -> Iterator[Part]:
    """One file, cut into pieces; one that cannot be read is a part that says why."""
    file = found.file
    if found.broken:
        id_ = part_id(settings, *file)
        yield Part(id=id_, files=(file.place,), broken=found.broken, detail=found.detail)
        return
    for piece in scan.cut(found.group_rows, all_rows):
        yield Part(id=part_id(settings, *file, *piece), files=(file.place,), **piece._asdict())


@lru_cache(maxsize=1)
def _model(place: str, sha256: str) -> Model:
    """The model of the job, read once in each process."""
    model = model_io.load(place)
    if model.sha256() != sha256:
        raise DataError(f"{place} has changed since the job began; start the job again")
    return model


def _kept(batch: pa.Table, field: pa.Field, rows: NDArray[np.int64]) -> Any:
    """A column to keep, of some rows; null in a file that does not have it."""
    if field.name not in batch.column_names:
        return pa.nulls(len(rows), field.type)
    column = batch.column(field.name).take(pa.array(rows))
    return column if column.type == field.type else column.cast(field.type)


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
