"""Parquet or CSV to predictions: one part is one file, or some rows of a large one.

    OUT/predictions/part-NAME.parquet   kept columns, source_file, source_row, prediction,
                                        confidence, unfamiliarity, probabilities, label
    OUT/quarantine/part-NAME.parquet    source_file, source_row, reason, detail

    OUT/_review.pq                      the most doubtful rows with their pictures, see `review`

A row is in exactly one of the first two. A file that cannot be used at all is one row of quarantine
without a row number. Both folders exist, even if no row is in one.
"""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nanograd import __version__
from nanograd.digits.form import to_png
from nanograd.errors import DataError, Rejected
from nanograd.images import reader, scan, writers
from nanograd.images.columns import Partitions
from nanograd.images.inputs import check_version, content_of, expand_tables, roots_of
from nanograd.images.parquet import RowRange
from nanograd.images.reader import Batch
from nanograd.images.writers import (
    PREDICTIONS,
    QUARANTINE,
    OutputFiles,
    check_partition_columns,
    quarantine_table,
    rename_taken,
)
from nanograd.jobs import cutting
from nanograd.jobs.earlier import Earlier, find_earlier, rejected_by_ingest
from nanograd.jobs.job import Job
from nanograd.jobs.output import Manifest
from nanograd.jobs.part import Part, commit_part
from nanograd.jobs.receipts import (
    Mistake,
    PredictionCounts,
    Reading,
    Receipt,
    Retry,
    count_predictions,
    count_quarantine,
)
from nanograd.jobs.retry import read_quarantine, retries_of
from nanograd.jobs.review import PartReview, Selection
from nanograd.models import model as model_io
from nanograd.models.model import Assessment, Model
from nanograd.runtime import storage
from nanograd.runtime.events import Listener, ignore
from nanograd.settings.specs import PredictSpec, ReadOptions

# Raised with each change of what the same row becomes.
REVISION = 5

# Mistakes that are kept of a batch.
_NUM_WORST = 5


@dataclass(frozen=True, kw_only=True)
class PredictWork:
    """The work on a part; small, as it is sent to every actor, which loads the model itself."""

    spec: PredictSpec  # with absolute places, and the names of the columns to keep
    model_sha256: str
    kept: pa.Schema  # the columns to keep, renamed where predictions use their name
    partitions: Partitions  # the columns in the names of folders

    @property
    def schema(self) -> pa.Schema:
        """Columns of the predictions."""
        return output_schema(self.kept, probabilities=not self.spec.no_probabilities)

    @property
    def lineage(self) -> dict[str, str]:
        """What made the rows of a file, which may be copied away from its manifest."""
        made = {"model_sha256": self.model_sha256, "version": __version__, "revision": REVISION}
        return {f"nanograd.{name}": str(value) for name, value in made.items()}

    def _tables(self, stem: str) -> tuple[OutputFiles, OutputFiles]:
        """Return the files of predictions and quarantine, to be written."""
        spec, lineage = self.spec, self.lineage
        shape = (spec.format, spec.rows_per_file, spec.partition_by)
        return (
            OutputFiles(stem, self.schema, *shape, lineage=lineage),
            OutputFiles(stem, QUARANTINE, spec.format, lineage=lineage),
        )

    def empty_tables(self) -> dict[str, dict[str, bytes]]:
        """Return the files of tables without rows, by their folders."""
        tables = zip(("predictions", "quarantine"), self._tables("part-0"), strict=True)
        return {
            folder: {
                f"{folder}/{name}": bytes(data)
                for name, data in table.finish(even_empty=True).items()
            }
            for folder, table in tables
        }

    def __call__(self, part: Part) -> Receipt:
        """Read, predict and commit the rows of a part."""
        model = _load_model(self.spec.model, self.model_sha256)
        predictions, quarantine = self._tables(part.stem)
        counts, doubtful = PredictionCounts(), PartReview(Selection.of(self.spec), part.num_rows)
        # A line of quarantine counts for a row, or for the rows of its file.
        per_line = {"rows": part.num_rows, "files": part.num_broken} if part.rejection else {}
        for found in self._read(part):
            if isinstance(found, list):
                table = quarantine_table(found)
                quarantine.write(table)
                counts += count_quarantine(table, **per_line)
                continue
            assessed = model.assess(found.images)
            table = self._table(found, assessed)
            predictions.write(table)
            doubtful.add(table, found.images)
            counts += replace(
                count_predictions(table),
                worst=find_mistakes(found, assessed.probabilities),
                bad_labels=len(found.bad_labels),
                dark_on_light=found.num_dark,
            )
        written = predictions.finish(even_empty=not (part.rejection or part.quarantine))
        files = {f"predictions/{name}": data for name, data in written.items()}
        files |= {f"quarantine/{name}": data for name, data in quarantine.finish().items()}
        files |= doubtful.finish(part.stem)
        contents = {
            file: content_of(file)
            for file, rows in zip(part.files, part.ranges, strict=True)
            # Of a cut file, in its first part.
            if rows.first_row == 0 and part.rejection is None and not part.quarantine
        }
        return commit_part(part, files, counts.condensed(), contents)

    def _read(self, part: Part) -> Iterator[Batch | list[Rejected]]:
        """Read the images of a part; each of its rows is in a batch, or rejected."""
        if part.rejection is not None:
            yield [part.rejection]
            return
        options = ReadOptions(**part.reading.options) if part.reading else self.spec
        quarantine = read_quarantine(part, self.spec.format)
        unfit = {
            file
            for file, lines in quarantine.items()
            if not lines or not reader.fits(file, self.partitions, options)
        }
        yield from (quarantine[file] for file in unfit)  # these settings fit other files

        def files() -> Iterator[tuple[str, RowRange]]:
            for file, version, rows in zip(part.files, part.versions, part.ranges, strict=True):
                if file not in unfit:
                    check_version(file, version)
                    yield file, rows
                    check_version(file, version)

        kept = zip(self.spec.keep, self.kept, strict=True)
        keep = pa.schema([field.with_name(name) for name, field in kept])
        rows = {
            file: np.array([each.origin.row for each in lines], np.int64)
            for file, lines in quarantine.items()
        }
        yield from reader.read(files(), options, self.partitions, keep, rows or None)

    def _table(self, found: Batch, assessed: Assessment) -> pa.Table:
        """Return the predictions of a batch."""
        names = pa.array(map(writers.as_text, found.files), pa.string())
        columns = {
            **dict(zip(self.kept.names, found.kept.columns, strict=True)),
            "source_file": names.take(pa.array(found.owners)),
            "source_row": pa.array(found.rows),
            **predicted_columns(found, assessed),
        }
        return pa.table({name: columns[name] for name in self.schema.names}, self.schema)


def find_mistakes(found: Batch, scores: NDArray[np.float32]) -> tuple[Mistake, ...]:
    """Find the most confident mistakes among n images, with (n, 10) scores, and their pictures."""
    labels, best, confidence = found.labels, scores.argmax(axis=1), scores.max(axis=1)
    wrong = np.flatnonzero((labels >= 0) & (best != labels))
    wrong = wrong[np.lexsort((wrong, -confidence[wrong]))][:_NUM_WORST]
    return tuple(
        Mistake(
            source_file=found.origin(int(at)).file,
            source_row=int(found.rows[at]),
            label=int(labels[at]),
            prediction=int(best[at]),
            confidence=round(float(confidence[at]), 6),
            png=b64encode(to_png(found.images[at])).decode(),
        )
        for at in wrong
    )


def output_schema(kept: pa.Schema, *, probabilities: bool) -> pa.Schema:
    """Return the columns of predictions, the kept ones first."""
    own = [field for field in PREDICTIONS if probabilities or field.name != "probabilities"]
    return pa.schema([*kept, *own])


def predicted_columns(found: Batch, assessed: Assessment) -> dict[str, pa.Array]:
    """Return the columns that follow from n images and what a model predicts of them."""
    probabilities, unfamiliarity = assessed
    return {
        "prediction": pa.array(probabilities.argmax(axis=1).astype(np.int8)),
        "confidence": pa.array(probabilities.max(axis=1)),
        "unfamiliarity": pa.array(unfamiliarity),
        "probabilities": pa.FixedSizeListArray.from_arrays(pa.array(probabilities.ravel()), 10),
        "label": pa.array(found.labels, mask=found.labels < 0),
    }


def plan(
    inputs: Sequence[str], spec: PredictSpec, listener: Listener = ignore
) -> tuple[Job, PredictWork]:
    """Plan a prediction: load the model, read every file's footer and cut the rows into parts.

    With `retry_quarantine`, the rows are read with the options of the output, and those that are
    rejected also with the given ones.

    Args:
        inputs: Parquet or CSV files, folders or globs, local or in an object store.
        spec: settings of the command.
        listener: receives warnings about inputs and labels that cannot be used.

    Raises:
        DataError: an input does not exist, no file can be used, the model is damaged, the values
            of a column to keep have no common type.
        UsageError: an input is a picture or would include the output; no file has a column that is
            named; a column to keep or to partition by does not fit the format.
    """
    # The files, and what is done of them.
    output, model_sha256 = storage.absolute(spec.output), model_io.load(spec.model).sha256()
    spec = replace(spec, model=storage.absolute(spec.model))
    if spec.image_root:
        spec = replace(spec, image_root=storage.absolute(spec.image_root))
    files = expand_tables(
        inputs,
        storage.join(output, "predictions", f"part.{spec.format}"),
        pictures_expected=spec.image_root is not None,
        listener=listener,
    )
    before, given = Manifest.find(output), spec.reading()
    if spec.retry_quarantine:
        made = {each.name for each in fields(given)} & before.job.keys()
        spec = replace(spec, **{name: before.job[name] for name in made})
    settings: dict[str, Any] = {"model_sha256": model_sha256, **spec.identity()}
    identity = {"command": "predict", "revision": REVISION, **settings}
    versions = {file.place: file[1:] for file in files}
    earlier, retries = Earlier(), list[Retry]()
    if not spec.overwrite:
        earlier = find_earlier(
            output,
            identity,
            versions,
            content_of,
            sync=spec.sync,
            retry=spec.retry_quarantine,
            verify=spec.verify,
            listener=listener,
        )
    if earlier != Earlier():
        retries = [*before.retries, *retries_of(earlier.stale)]
        if spec.retry_quarantine:
            retries.append(Retry(Reading(0, given.identity())))
    # Their columns. The types of columns to keep depend on all files.
    done = earlier.files()
    unread = [file for file in files if spec.keep or file.place not in done]
    scanned, partitions = scan.scan_files(unread, files, roots_of(inputs, listener), spec)
    scan.warn_of_unusable_labels(scanned, spec, listener)
    kept = scan.kept_columns(scanned, spec.keep)
    spec = replace(spec, keep=tuple(kept.names))
    writers.check_columns(kept, spec.format)
    names = rename_taken(kept.names, PREDICTIONS.names)
    renamed = pa.schema([field.with_name(name) for field, name in zip(kept, names, strict=True)])
    work = PredictWork(spec=spec, model_sha256=model_sha256, kept=renamed, partitions=partitions)
    check_partition_columns(work.schema, spec.partition_by)
    columns = {
        "keep": {field.name: str(field.type) for field in kept},
        "folders": {field.name: str(field.type) for field in partitions.schema},
    }
    # Their rows.
    to_do = [each for each in scanned if each.file.place not in done]
    groups = cutting.group(to_do, spec.rows_per_file, [each.inputs for each in earlier.stale])
    if spec.limit is not None:
        groups = cutting.limit(groups, spec.limit - sum(each.counts.rows for each in earlier.kept))
    retried = {file for each in retries for file in each.inputs or ()}
    parts = [
        replace(part, is_retried=not retried.isdisjoint(part.files))
        for part in cutting.cut_into_parts([settings, columns], groups)
    ]
    job = Job(
        output=output,
        identity={**identity, **columns},
        parts=parts,
        earlier=earlier,
        files=frozenset(versions),
        roots=partitions.roots,
        retries=retries,
        overwrite=spec.overwrite,
        verify=spec.verify,
        max_error_rate=spec.max_error_rate,
        allow_none=False,
        max_broken_files=spec.max_broken_files,
        empty_tables=work.empty_tables(),
        counts=PredictionCounts,
        review=Selection.of(spec),
        about={
            "ingest_quarantined": rejected_by_ingest(inputs),
            "model": writers.as_text(spec.model),
            "inputs": [writers.as_text(storage.absolute(each)) for each in inputs],
        },
        facts={
            "files": len(files),
            "new_files": len(files) - len(done & versions.keys()),
            "columns": scan.describe_columns(scanned, spec),
        },
    )
    return job, work


@lru_cache(maxsize=1)
def _load_model(place: str, sha256: str) -> Model:
    """Load the model of the job, once in each process."""
    model = model_io.load(place)
    if model.sha256() != sha256:
        raise DataError(f"{place} has changed since the job began; start the job again")
    return model
