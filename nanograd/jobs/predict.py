"""Parquet or CSV to predictions: one part is one file, or some rows of a large one.

    OUT/predictions/part-NAME.parquet   kept columns, source_file, source_row, prediction,
                                        confidence, unfamiliarity, probabilities, label
    OUT/quarantine/part-NAME.parquet    source_file, source_row, reason, detail

    OUT/_review.pq                      the most doubtful rows with their pictures, see `account`

A row is in exactly one of the first two. A file that cannot be used at all is one row of quarantine
without a row number. Both folders exist, even if no row is in one.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa

from nanograd import __version__
from nanograd.errors import DataError, Rejected
from nanograd.images import reader, scan, writers
from nanograd.images.columns import Partitions
from nanograd.images.inputs import check_version, content_of, expand_tables, roots_of
from nanograd.images.parquet import RowRange
from nanograd.images.reader import Batch
from nanograd.images.scan import ScannedFile
from nanograd.images.writers import (
    PREDICTIONS,
    QUARANTINE,
    OutputFiles,
    check_partition_columns,
    quarantine_table,
    rename_taken,
)
from nanograd.jobs import account, cutting
from nanograd.jobs.account import Mistake, PartReview, Selection
from nanograd.jobs.earlier import Earlier, find_earlier, read_manifest, rejected_by_ingest
from nanograd.jobs.job import Job
from nanograd.jobs.part import Part, Receipt, commit_part, part_id
from nanograd.models import model as model_io
from nanograd.models.model import Assessment, Model
from nanograd.runtime import storage
from nanograd.runtime.events import Listener, ignore
from nanograd.settings.specs import PredictSpec, ReadOptions

# Raised with each change of what the same row becomes.
REVISION = 5

_FOLDERS = ("predictions", "quarantine")


@dataclass(frozen=True, kw_only=True)
class PredictWork:
    """The work on a part; small, as it is sent to every actor, which loads the model itself."""

    place: str  # output folder or URI
    spec: PredictSpec  # with absolute places, and the names of the columns to keep
    model_sha256: str
    kept: pa.Schema  # the columns to keep, renamed where predictions use their name
    partitions: Partitions  # the columns in the names of folders
    retries: tuple[ReadOptions, ...] = ()  # how rows are read that the spec rejects
    first_part: str  # the part that writes its tables even if they are empty

    @property
    def schema(self) -> pa.Schema:
        """Columns of the predictions."""
        return output_schema(self.kept, probabilities=not self.spec.no_probabilities)

    @property
    def lineage(self) -> dict[str, str]:
        """What made the rows of a file, which may be copied away from its manifest."""
        made = {"model_sha256": self.model_sha256, "version": __version__, "revision": REVISION}
        return {f"nanograd.{name}": str(value) for name, value in made.items()}

    def __call__(self, part: Part) -> Receipt:
        """Read, predict and commit the rows of a part."""
        model = _load_model(self.spec.model, self.model_sha256)
        predictions = OutputFiles(
            part.stem,
            self.schema,
            self.spec.format,
            self.spec.rows_per_file,
            self.spec.partition_by,
            lineage=self.lineage,
        )
        quarantine = OutputFiles(part.stem, QUARANTINE, self.spec.format, lineage=self.lineage)
        nothing = pa.Table.from_batches([], self.schema)  # empty_table fails for some tensors
        counted, rejected = [nothing.select(account.COUNTED)], [quarantine_table([])]
        mistakes, num_bad_labels, num_dark = list[Mistake](), 0, 0
        doubtful = PartReview(Selection.of(self.spec), part.num_rows)
        for found in self._read(part):
            if isinstance(found, list):
                table = quarantine_table(found)
                quarantine.write(table)
                rejected.append(table)
                continue
            assessed = model.assess(found.images)
            table = self._table(found, assessed)
            predictions.write(table)
            counted.append(table.select(account.COUNTED))
            doubtful.add(table, found.images)
            mistakes += account.find_mistakes(found, assessed.probabilities)
            num_bad_labels += len(found.bad_labels)
            num_dark += found.num_dark
        bad, is_first = pa.concat_tables(rejected), part.id == self.first_part
        written = predictions.finish(even_empty=part.rejection is None or is_first)
        files = {f"predictions/{name}": data for name, data in written.items()}
        if len(bad) or is_first:
            written = quarantine.finish(even_empty=True)
            files |= {f"quarantine/{name}": data for name, data in written.items()}
        files |= doubtful.finish(part.stem)
        counts = {
            **account.count_part(part, pa.concat_tables(counted), bad, mistakes),
            "bad_labels": num_bad_labels,
            "dark_on_light": num_dark,
            **({"retries": [each.identity() for each in self.retries]} if self.retries else {}),
        }
        contents = {
            file: content_of(file)
            for file, rows in zip(part.files, part.ranges, strict=True)
            if rows.first_row == 0 and part.rejection is None  # of a cut file, in its first part
        }
        return commit_part(self.place, part, files, counts, contents)

    def _read(self, part: Part) -> Iterator[Batch | list[Rejected]]:
        """Read the images of a part; each of its rows is in a batch, or rejected."""
        if part.rejection is not None:
            return iter([[part.rejection]])

        def files() -> Iterator[tuple[str, RowRange]]:
            for file, version, rows in zip(part.files, part.versions, part.ranges, strict=True):
                check_version(file, version)
                yield file, rows
                check_version(file, version)

        kept = zip(self.spec.keep, self.kept, strict=True)
        keep = pa.schema([field.with_name(name) for name, field in kept])
        return reader.read(files(), (self.spec, *self.retries), self.partitions, keep)

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
    place, loaded = storage.absolute(spec.output), model_io.load(spec.model)
    model_sha256, places = loaded.sha256(), [storage.absolute(each) for each in inputs]
    spec = replace(spec, model=storage.absolute(spec.model))
    if spec.image_root:
        spec = replace(spec, image_root=storage.absolute(spec.image_root))
    files = expand_tables(
        inputs,
        storage.join(place, "predictions", f"part.{spec.format}"),
        pictures_expected=spec.image_root is not None,
        listener=listener,
    )
    given = spec.reading()
    if spec.retry_quarantine:
        spec = replace(spec, **_reading_of(place))
    options = spec.reading()
    settings: dict[str, Any] = {"model_sha256": model_sha256, **spec.identity()}
    identity = {"command": "predict", "revision": REVISION, **settings}
    versions = {file.place: file[1:] for file in files}
    earlier = Earlier()
    if not spec.overwrite:
        earlier = find_earlier(
            place,
            identity,
            versions,
            content_of,
            sync=spec.sync,
            retry=spec.retry_quarantine,
            verify=spec.verify,
            listener=listener,
        )
        if versions.keys() <= earlier.files():
            earlier = earlier.with_files_in(*_FOLDERS)
    again = [ReadOptions(**each) for each in earlier.retries()]
    retries = tuple(dict.fromkeys([*again, *([given] if given != options else [])]))
    readings = (options, *retries)
    done = earlier.files()
    # The types of columns to keep depend on all files.
    unread = [file for file in files if spec.keep or file.place not in done]
    scanned, partitions = scan.scan_files(unread, files, roots_of(inputs, listener), readings)
    scan.warn_of_unusable_labels(scanned, partitions, options, listener)
    kept = scan.kept_columns(scanned, partitions, spec.keep, options)
    spec = replace(spec, keep=tuple(kept.names))
    writers.check_columns(kept, spec.format)
    names = rename_taken(kept.names, PREDICTIONS.names)
    renamed = pa.schema([field.with_name(name) for field, name in zip(kept, names, strict=True)])
    schema = output_schema(renamed, probabilities=not spec.no_probabilities)
    check_partition_columns(schema, spec.partition_by)
    columns = {
        "keep": {field.name: str(field.type) for field in kept},
        "folders": {field.name: str(field.type) for field in partitions.schema},
    }
    to_do = [each for each in scanned if each.file.place not in done]
    groups = cutting.group(to_do, spec.rows_per_file, [each["inputs"] for each in earlier.stale])
    if spec.limit is not None:
        groups = cutting.limit(
            groups, spec.limit - sum(receipt["rows"] for receipt in earlier.kept)
        )
    parts = _parts([settings, columns, [each.identity() for each in retries]], groups)
    work = PredictWork(
        place=place,
        spec=spec,
        model_sha256=model_sha256,
        kept=renamed,
        partitions=partitions,
        retries=retries,
        first_part=parts[0].id if parts and not earlier.has_files_in(*_FOLDERS) else "",
    )
    model = writers.as_text(spec.model)
    about = {"ingest_quarantined": rejected_by_ingest(inputs), "model": model}
    texts = [writers.as_text(each) for each in places]
    selection = Selection.of(spec)
    job = Job(
        place=place,
        identity={**identity, **columns},
        parts=parts,
        earlier=earlier,
        overwrite=spec.overwrite,
        verify=spec.verify,
        max_broken_files=spec.max_broken_files,
        max_error_rate=spec.max_error_rate,
        allow_none=False,
        gathered_by=asdict(selection),
        gather=partial(account.gather, selection, listener),
        summarise=lambda total: {**account.summarise(total), **about, "inputs": texts},
        describe=lambda: {
            "files": len(files),
            "new_files": len(files) - len(done & versions.keys()),
            "columns": scan.describe_columns(scanned, partitions, readings),
        },
    )
    return job, work


def _reading_of(place: str) -> dict[str, Any]:
    """Return the options with which the rows of an output were read first; {} if it has none."""
    job = read_manifest(place).get("job", {})
    return {each.name: job[each.name] for each in fields(ReadOptions) if each.name in job}


def _parts(
    settings: Sequence[Any], groups: Iterable[Sequence[tuple[ScannedFile, RowRange]]]
) -> list[Part]:
    """Return the parts; a file that cannot be read is one alone."""
    parts, numbers = list[Part](), Counter[str]()
    for contents in groups:
        files, rejection = [scanned.file for scanned, _ in contents], contents[0][0].rejected
        ranges = tuple(rows for _, rows in contents)
        what = zip(files, ranges, strict=True)
        first = files[0].place
        part = Part(
            id=part_id(settings, [(file, None if rejection else rows) for file, rows in what]),
            name=part_id(first, str(numbers[first])),
            files=tuple(file.place for file in files),
            versions=tuple(scanned.version for scanned, _ in contents),
            ranges=ranges,
            num_rows=sum(rows.num_rows for rows in ranges),
            rejection=rejection,
        )
        numbers[first] += 1
        parts.append(part)
    return parts


@lru_cache(maxsize=1)
def _load_model(place: str, sha256: str) -> Model:
    """Load the model of the job, once in each process."""
    model = model_io.load(place)
    if model.sha256() != sha256:
        raise DataError(f"{place} has changed since the job began; start the job again")
    return model
