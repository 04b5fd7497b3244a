"""Parquet to predictions: one part is one file, or some row groups of a large one.

    OUT/predictions/part-ID.parquet   kept columns, source_file, source_row, prediction,
                                      confidence, scores, label
    OUT/quarantine/part-ID.parquet    source_file, source_row, reason, detail

A row is in exactly one of them. A file that cannot be read at all is one row of quarantine without
a row number.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nanograd.batch import account, scan
from nanograd.batch.account import Mistake
from nanograd.batch.inputs import expand
from nanograd.batch.job import Job
from nanograd.batch.part import Part, Receipt, commit_part, part_id
from nanograd.batch.scan import ScannedFile
from nanograd.errors import DataError, UsageError
from nanograd.models import model as model_io
from nanograd.models.model import Model
from nanograd.pictures.decode import SUFFIXES
from nanograd.runtime import storage
from nanograd.tables import writers
from nanograd.tables.columns import add_partitions
from nanograd.tables.files import RowRange, read_rows
from nanograd.tables.images import read, required_columns
from nanograd.tables.rows import ReadOptions
from nanograd.tables.writers import PREDICTIONS, quarantine_table

# Predictions and quarantine of some rows, each of which is in exactly one, and the worst mistakes.
Outcome: TypeAlias = tuple[pa.Table, pa.Table, list[Mistake]]


@dataclass(frozen=True, kw_only=True)
class PredictWork:
    """The work on a part; small, as it is sent to every actor, which loads the model itself."""

    place: str  # output folder or URI
    model: str  # model directory or URI, with its checksum
    model_sha256: str
    kept: pa.Schema  # the columns to copy
    partitions: pa.Schema  # the columns in the names of folders
    options: ReadOptions  # how images and labels are read
    format: str  # of the output files

    def __call__(self, part: Part) -> Receipt:
        """Read, predict and commit the rows of a part."""
        model = _load_model(self.model, self.model_sha256)
        tables, quarantines, mistakes = zip(*self._outcomes(part, model), strict=True)
        predictions, quarantine = pa.concat_tables(tables), pa.concat_tables(quarantines)
        files, name = {}, f"part-{part.id}.{self.format}"
        if part.rejection is None:
            files[f"predictions/{name}"] = writers.encode(predictions, self.format)
        if len(quarantine):
            files[f"quarantine/{name}"] = writers.encode(quarantine, self.format)
        counts = account.count_part(part, predictions, quarantine, chain(*mistakes))
        return commit_part(self.place, part, files, counts)

    def _outcomes(self, part: Part, model: Model) -> Iterator[Outcome]:
        """Yield the tables batch by batch; together they hold each row once."""
        [file], first = part.files, part.first_row
        if part.rejection is not None:
            yield PREDICTIONS.empty_table(), quarantine_table([(file, part.rejection)]), []
            return
        nothing = pa.schema([*self.kept, *PREDICTIONS]).empty_table()
        yield nothing, quarantine_table([]), []
        rows = RowRange(part.row_groups, part.skip, part.first_row, part.num_rows)
        for batch in read_rows(file, rows, lambda schema: self._columns(schema, file)):
            if isinstance(batch, pa.RecordBatch):
                table = add_partitions(pa.Table.from_batches([batch]), file, self.partitions)
                yield self._predict(model, file, first, table)
            else:
                yield nothing, quarantine_table([(file, each) for each in batch], first), []
            first += len(batch)

    def _columns(self, schema: pa.Schema, file: str) -> list[str]:
        required = required_columns(schema, file, self.partitions, self.options)
        return [name for name in schema.names if name in {*required, *self.kept.names}]

    def _predict(self, model: Model, file: str, first: int, table: pa.Table) -> Outcome:
        found, rejections = read(table, self.options)
        rows, scores = found.rows, model.scores(found.images)
        columns = {
            **{field.name: _take(table, field, rows) for field in self.kept},
            "source_file": pa.array([file] * len(rows), pa.string()),
            "source_row": pa.array(rows + first),
            "prediction": pa.array(scores.argmax(axis=1).astype(np.int8)),
            "confidence": pa.array(scores.max(axis=1)),
            "scores": pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), 10),
            "label": pa.array(found.labels, mask=found.labels < 0),
        }
        mistakes = account.find_mistakes(file, first, found, scores)
        quarantine = quarantine_table([(file, each) for each in rejections], first)
        predictions = pa.table(columns, pa.schema([*self.kept, *PREDICTIONS]))
        return predictions, quarantine, mistakes


def plan(
    inputs: Sequence[str],
    *,
    model: str,
    output: str,
    options: ReadOptions,
    keep: Sequence[str] = (),
    format_: str = "parquet",
    overwrite: bool = False,
    max_error_rate: float = 1.0,
) -> tuple[Job, PredictWork]:
    """Plan a prediction: load the model, read every file's footer and cut the rows into parts.

    Args:
        inputs: Parquet files, folders or globs, local or in an object store.
        model: model directory or URI.
        output: folder or URI.
        options: how images and labels are read.
        keep: names of further columns to copy.
        format_: parquet, csv or jsonl.
        overwrite: see `Job`.
        max_error_rate: see `Job`.

    Raises:
        DataError: an input does not exist, the model is damaged, a column to keep is missing.
        UsageError: an input is a picture; a column to keep has a name that predictions use, or does
            not fit the format.
    """
    if taken := sorted(set(keep) & set(PREDICTIONS.names)):
        raise UsageError(f"--keep {taken[0]}: the predictions have a column of that name already")
    model_sha256 = model_io.load(model).sha256()
    if options.image_root:
        options = replace(options, image_root=storage.absolute(options.image_root))
    files = expand(inputs, (".parquet", ".pq"), "`nanograd ingest` makes them of pictures")
    if pictures := [file.place for file in files if file.place.lower().endswith(SUFFIXES)]:
        raise UsageError(
            f"{pictures[0]} is a picture; `nanograd ingest` makes rows of it that can be predicted"
        )
    scanned, partitions = scan.scan_files(files, options)
    kept = scan.unify_kept(scanned, partitions, keep)
    writers.check_columns(kept, format_)
    work = PredictWork(
        place=storage.absolute(output),
        model=storage.absolute(model),
        model_sha256=model_sha256,
        kept=kept,
        partitions=partitions,
        options=options,
        format=format_,
    )
    # The parts' ids depend on the order of these.
    settings = {
        "model_sha256": model_sha256,
        **asdict(options),
        "keep": {field.name: str(field.type) for field in kept},
        "format": format_,
        "folders": {field.name: str(field.type) for field in partitions},
    }
    num_rows = sum(sum(each.group_rows) for each in scanned)
    parts = [part for each in scanned for part in _parts(each, settings, num_rows)]
    job = Job(
        place=work.place,
        identity={"command": "predict", **settings, "parts": [part.id for part in parts]},
        parts=parts,
        overwrite=overwrite,
        max_error_rate=max_error_rate,
        summarise=account.summarise,
    )
    return job, work


def _parts(scanned: ScannedFile, settings: dict[str, Any], num_job_rows: int) -> Iterator[Part]:
    """Yield the parts of a file; one that cannot be read is a part with a rejection."""
    file, files = scanned.file, (scanned.file.place,)
    if scanned.rejection:
        yield Part(id=part_id(settings, *file), files=files, rejection=scanned.rejection)
        return
    for rows in scan.cut(scanned.group_rows, num_job_rows):
        yield Part(id=part_id(settings, *file, *rows), files=files, **rows._asdict())


@lru_cache(maxsize=1)
def _load_model(place: str, sha256: str) -> Model:
    """Load the model of the job, once in each process."""
    model = model_io.load(place)
    if model.sha256() != sha256:
        raise DataError(f"{place} has changed since the job began; start the job again")
    return model


def _take(table: pa.Table, field: pa.Field, rows: NDArray[np.int64]) -> Any:
    """Return some rows of a column to keep; null in a file that does not have it."""
    if field.name not in table.column_names:
        return pa.nulls(len(rows), field.type)
    column = table.column(field.name).take(pa.array(rows))
    return column if column.type == field.type else column.cast(field.type)
