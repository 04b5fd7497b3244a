"""Pictures, Parquet or CSV to predictions. `part` says which rows are a part.

A picture is row 0 of its file. Each input row is either in predictions or in quarantine. With
`--digits many`, predictions have a row per digit, and numbers a row per line of digits. A table or
archive that cannot be used at all is one row in quarantine, without a row number. The folders
always exist and hold at least an empty table. docs/formats.md lists the columns.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache, partial
from sys import maxsize
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nanograd import __version__
from nanograd.digits.dataset import NUM_CLASSES, NUM_PIXELS
from nanograd.errors import DataError, Reason
from nanograd.images import inputs, reader, scan, writers
from nanograd.images.columns import Partitions, find_partitions
from nanograd.images.labels import Label, find_labels
from nanograd.images.parquet import Decoder, RowRange
from nanograd.images.reader import Batch
from nanograd.images.rows import BAD_LABEL, Convert, require_root
from nanograd.images.scan import ScannedFile
from nanograd.images.writers import (
    NUMBERS,
    PLACE,
    PREDICTIONS,
    QUARANTINE,
    SOURCE,
    WITHOUT_PROBABILITIES,
)
from nanograd.jobs import receipts
from nanograd.jobs.job import Job
from nanograd.jobs.output import Manifest, find_earlier
from nanograd.jobs.part import Part, commit_part, group, plan_parts, plan_retry
from nanograd.jobs.review import PartReview, write_review
from nanograd.models import model as model_io
from nanograd.models.model import BUILT_IN, Assessment, Model
from nanograd.numbers.recognise import Number, read_numbers
from nanograd.pictures.archives import Archives
from nanograd.runtime import process, storage
from nanograd.runtime.events import Listener, ignore
from nanograd.settings.specs import PredictSpec, ReadOptions

# Increase this when the same row gives another prediction, or other columns.
REVISION = 40

# Names in the output that no kept column has, by `--digits`.
_TAKEN = {"one": [*PREDICTIONS.names, *QUARANTINE.names]}
_TAKEN["many"] = [*_TAKEN["one"], *PLACE.names, *NUMBERS.names]


@dataclass(frozen=True, kw_only=True)
class PredictWork:
    """The function that does a part. It is sent to every actor, which loads the model itself."""

    spec: PredictSpec  # with absolute paths
    model_sha256: str
    names: tuple[str, ...]  # the columns of the input to keep
    kept: bytes  # their fields in the output in Arrow's format, because pickle loses inner fields
    partitions: Partitions  # the columns in the names of folders

    @cached_property
    def keep(self) -> reader.Keep:
        """The columns of the input to keep."""
        return dict(zip(self.names, pa.ipc.read_schema(pa.py_buffer(self.kept)), strict=True))

    @cached_property
    def schemas(self) -> dict[str, pa.Schema]:
        """The columns of the files, by the names of their folders. The kept columns come first."""
        predicted = WITHOUT_PROBABILITIES if self.spec.no_probabilities else PREDICTIONS
        own = {"predictions": [*predicted], "quarantine": [*QUARANTINE]}
        if self.has_numbers:
            own = {**own, "predictions": [*predicted, *PLACE], "numbers": [*NUMBERS]}
        return {name: pa.schema([*self.keep.values(), *each]) for name, each in own.items()}

    @cached_property
    def _unfinished(self) -> dict[str, Decoder]:
        """See `reader.read`."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out `_unfinished`, because open files cannot be sent."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @property
    def has_numbers(self) -> bool:
        """Whether pictures hold lines of digits."""
        return self.spec.digits == "many"

    def encode(
        self, stem: str, tables: Mapping[str, Sequence[pa.Table]], even_empty: Collection[str]
    ) -> dict[str, bytes]:
        """Return the files of a part by their names in the output, from the rows of each folder.

        The folders `even_empty` get a file even without rows.
        """
        spec, made = self.spec, {"model_sha256": self.model_sha256, "version": __version__}
        # Every file stores this too, because it may be copied without the manifest.
        facts = {f"nanograd.{name}": str(v) for name, v in {**made, "revision": REVISION}.items()}
        files = dict[str, bytes]()
        for folder, schema in self.schemas.items():
            found = writers.encode_files(
                *(stem, schema, tables.get(folder, ()), spec.format),
                max_rows=spec.rows_per_file,
                partition_by=spec.partition_by if folder == "predictions" else (),
                lineage=facts,
                even_empty=folder in even_empty,
            )
            files |= {f"{folder}/{name}": data for name, data in found.items()}
        return files

    def __call__(self, part: Part) -> receipts.Receipt:
        """Read, predict and commit the rows of a part."""
        model = _load_model(self.spec.model, self.model_sha256)
        tables, predicted = defaultdict[str, list[pa.Table]](list), self.schemas["predictions"]
        doubtful = PartReview(self.spec, part.num_rows, predicted)
        counts, rejection = receipts.Counts(), part.rejection
        # A row of quarantine stands for one input row, for all rows of a file, or for a file whose
        # number of rows is unknown.
        is_broken = rejection is not None and rejection.reason is not Reason.WRONG_SCHEMA
        per_line = {"rows": part.num_rows, "files": int(is_broken)} if rejection else {}
        contents = dict[str, str | None]()
        read = partial(read_numbers, model=model, polarity=self.spec.polarity)
        convert = read if self.has_numbers else None
        for found in self._read(part, contents, convert):
            if isinstance(found, pa.Table):
                tables["quarantine"].append(found.combine_chunks())
                counts += receipts.count_quarantine(found, **per_line)
                continue
            pictures = list[Sequence[Number]]()
            if self.has_numbers:
                pictures = found.images.tolist()
                lines, found, assessed = _divide_batch(found, pictures)  # noqa: PLW2901
                tables["numbers"].append(lines.combine_chunks())
            else:
                assessed = model.assess(found.images)
            table = writers.beside(found.columns, found.predicted(*assessed))
            table = table.select(predicted.names)
            tables["predictions"].append(table.combine_chunks())
            doubtful.add(table, found.images)
            counted = receipts.count_predictions(table, found.images)
            if self.has_numbers:  # rows are pictures, and not digits
                rows, num_lines = len(pictures), sum(map(len, pictures))
                counted = replace(counted, rows=rows, predicted=rows, numbers=num_lines)
            bad, dark = int((found.labels == BAD_LABEL).sum()), found.num_dark
            counts += replace(counted, bad_labels=bad, dark_on_light=dark)
        even_empty = () if rejection or part.quarantine else ("predictions",)
        files = self.encode(part.stem, tables, even_empty)
        files |= doubtful.finish(part.stem)
        contents |= {
            file: inputs.content_of(file)
            for file, rows in zip(part.files, part.ranges, strict=part.has_tables)
            # If a file is divided, only its first part records the content.
            if rows.first_row == 0 and rejection is None and not part.quarantine
        }
        return commit_part(part, files, counts.condensed(), contents)

    def _read(
        self, part: Part, contents: dict[str, str | None], convert: Convert | None
    ) -> Iterator[Batch | pa.Table]:
        """Read the images of a part. Each row of the part is in a batch, or is rejected.

        `contents` is filled with a hash of each picture's bytes. `convert`: see `reader.read`.
        """
        if part.rejection is not None:
            [file], errors = part.files, [part.rejection]
            yield reader.refuse(file, [None], errors, self.partitions, self.keep)
            return
        process.keep_freed()
        versions = dict(zip(part.files, part.versions, strict=True))
        ranges = dict(zip(part.files, part.ranges, strict=part.has_tables))

        def check(files: Sequence[str]) -> Iterator[tuple[str, RowRange]]:
            for file in files:
                scan.check_version(file, versions[file])
                yield file, ranges[file]
                scan.check_version(file, versions[file])

        refused = [writers.read(place, QUARANTINE) for place in part.quarantine]
        passes = part.readings[-1:] if part.quarantine else part.readings or (self.spec.reading(),)
        for number, options in enumerate(passes):
            # The rows to read of each file; None for all rows of all files.
            again = _by_file(refused, part.files) if part.quarantine or number else None
            files, refused = [file for file in part.files if again is None or again[file]], []
            how = options, self.partitions, self.keep
            if part.has_tables:
                found = reader.read(
                    check(files), *how, again, convert=convert, unfinished=self._unfinished
                )
            else:
                pictures = [(file, cast("Label", versions[file][-1])) for file in files]
                found = reader.read_files(pictures, *how, contents, convert=convert)
            for each in found:
                if isinstance(each, pa.Table):
                    refused.append(each)
                else:
                    yield each
        if not part.has_tables:
            scan.check_pictures(part.files, part.versions)
        yield from refused


def plan(
    sources: Sequence[str], spec: PredictSpec, listener: Listener = ignore
) -> tuple[Job, PredictWork]:
    """Plan a prediction: load the model, list pictures, read every table's footer, make the parts.

    With `retry_quarantine`, all rows are planned with the options stored in a complete output, so
    that finished parts stay. Only quarantined rows are read again, with the given options.

    Raises:
        DataError: an input or `image_root` does not exist, no file can be used, the model is
            damaged, or the values of a column to keep have no common type.
        UsageError: an input would include the output; a setting has no effect on the inputs; a
            named column is in no file; or a column to keep or to partition by does not fit the
            format.
    """
    # Find the files, and the parts that earlier commands completed.
    model_sha256 = model_io.load(spec.model).sha256()
    # The model in the package has no path, because each host has a package of its own.
    model = None if spec.model is None else model_io.find(storage.absolute(spec.model))
    spec = replace(
        spec,
        model=model,
        output=storage.absolute(spec.output),
        image_root=spec.image_root and storage.absolute(spec.image_root),
    )
    tables, pictures = inputs.expand_all(
        sources, spec.output, spec.format, image_root=spec.image_root, listener=listener
    )
    if not tables:
        spec.refuse(
            ("image_column", "label_column", "image_root"),
            ": there are no tables in the input; leave it out",
        )
    if not pictures:
        spec.refuse(("label_from",), ": there are no pictures in the input; leave it out")
    labels = find_labels([each.place for each in pictures], sources, spec.label_from, listener)
    manifest = Manifest.find(spec.output) if spec.retry_quarantine else Manifest()
    given = spec.reading()
    if manifest.receipts:  # an unfinished output needs its own settings
        made = {each.name for each in fields(given)} & manifest.job.keys()
        spec = replace(spec, **{name: manifest.job[name] for name in made})
    settings = {"model_sha256": model_sha256, **spec.identity()}
    identity = {"command": "predict", "revision": REVISION, **settings}
    partitions = find_partitions(
        (file.place for file in (*tables, *pictures)), inputs.roots_of(sources, listener)
    )
    of_pictures = scan.as_pictures(pictures, labels, partitions)
    versions: dict[str, inputs.Version] = {file.place: file[1:] for file in tables}
    versions |= {place: each.version for place, each in of_pictures.items()}
    with Archives() as archives:
        of_picture = partial(reader.checksum_of_picture, options=spec, archives=archives)
        earlier = find_earlier(
            spec,
            identity,
            versions,
            lambda file: (of_picture if file in of_pictures else inputs.content_of)(file),
            listener,
            retry=spec.retry_quarantine,
        )
    retries = (given,) if spec.retry_quarantine and any(earlier) else ()
    # Find the columns. The types of columns to keep depend on all files.
    unusable = {each.unusable for each in earlier.kept if retries} & versions.keys()
    done = earlier.files() - unusable
    if retries or versions.keys() - done:
        require_root(given)
    unread = [file for file in tables if spec.keep or file.place not in done]
    scanned = scan.scan_files(
        unread, tables, partitions, spec.reading(), some_usable=bool(pictures)
    )
    scan.warn_of_unusable_labels(scanned, spec.reading(), listener)
    keep = scan.kept_columns(
        [*scanned, *of_pictures.values()],
        spec.keep,
        spec.format,
        [*_TAKEN[spec.digits], *(writers.PROBABILITIES if spec.format == "csv" else ())],
    )
    work = PredictWork(
        spec=spec,
        model_sha256=model_sha256,
        names=tuple(keep),
        kept=pa.schema(keep.values()).serialize().to_pybytes(),
        partitions=partitions,
    )
    columns = {"keep": {name: str(field.type) for name, field in keep.items()}}
    # Divide the rows into parts.
    own, before, together = spec.reading(), earlier.readings(), [r.inputs for r in earlier.stale]
    to_read = defaultdict[tuple[bool, tuple[ReadOptions, ...]], list[ScannedFile]](list)
    for each in (*scanned, *of_pictures.values()):
        if (file := each.file.place) not in done:
            planned, order = each.fit((own, *before.get(file, ()), *retries))
            to_read[file in of_pictures, () if order == (own,) else order].append(planned)
    parts = list[Part]()
    if retries:
        earlier, parts = plan_retry(earlier, versions.keys(), given, spec.output)
    limit = (spec.limit or maxsize) - sum(each.counts.rows for each in earlier.kept)
    for (_, order), files in to_read.items():
        groups = group(files, spec.rows_per_file, together, spec.digits == "many")
        left = limit - sum(part.num_rows for part in parts)
        parts += plan_parts([settings, columns], groups, left, order)
    what = "pictures" if spec.digits == "many" else f"pictures, labels from {spec.label_from}"
    job = Job(
        spec=spec,
        identity={**identity, **columns},
        parts=parts,
        earlier=earlier,
        facts={
            "files": len(versions),
            "new_files": len(versions.keys() - done),
            "columns": scan.describe_columns(scanned, spec.reading())
            | ({what: len(pictures)} if pictures else {}),
        },
        about={
            "ingest_quarantined": _rejected_by_ingest(sources),
            "model": storage.as_text(model or BUILT_IN),
            "inputs": [storage.as_text(storage.absolute(each)) for each in sources],
        },
        empty_tables=work.encode("part-0", {}, work.schemas),
        write_review=partial(write_review, spec, work.schemas["predictions"]),
    )
    return job, work


def _by_file(quarantine: Sequence[pa.Table], files: Sequence[str]) -> dict[str, pa.Table]:
    """Return the rows of quarantine without their kept columns, by file in order."""
    tables = (each.select(QUARANTINE.names) for each in quarantine)
    rows = pa.concat_tables([QUARANTINE.empty_table(), *tables]).sort_by("source_row")
    return {
        file: rows.filter(pc.equal(rows["source_file"], storage.as_text(file))) for file in files
    }


def _divide_batch(
    found: Batch, pictures: Sequence[Sequence[Number]]
) -> tuple[pa.Table, Batch, Assessment]:
    """Divide n pictures with numbers into lines and digits.

    Returns:
        A table with a row for each line; a batch with a row for each digit, and columns with its
        line, position and box; and the assessment of these digits, whose probabilities sum to at
        most 1, because a mark may be no digit.
    """
    lines = [(line, number) for numbers in pictures for line, number in enumerate(numbers)]
    digits = [
        (line, position, digit)
        for line, number in lines
        for position, digit in enumerate(number.digits)
    ]
    of_lines = [
        (line, each.text, each.confidence, *each.box, len(each.digits), len(each.left_out))
        for line, each in lines
    ]
    of_digits = [(line, position, *digit.box) for line, position, digit in digits]

    def to_table(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
        dicts = [dict(zip(schema.names, row, strict=True)) for row in rows]
        return pa.Table.from_pylist(dicts, schema)

    each, num_lines = np.arange(len(pictures)), list(map(len, pictures))
    num_digits = [sum(len(number.digits) for number in numbers) for numbers in pictures]
    origins, batch = (found.take(np.repeat(each, n)) for n in (num_lines, num_digits))
    own = pa.schema([field for field in NUMBERS if field.name not in SOURCE.names])
    numbers = writers.beside(origins.columns, to_table(of_lines, own))
    batch = replace(
        batch,
        images=np.array([digit.image for *_, digit in digits], np.uint8).reshape(-1, NUM_PIXELS),
        labels=np.full(len(digits), -1, np.int8),
        columns=writers.beside(batch.columns, to_table(of_digits, PLACE)),
    )
    probabilities = np.array([digit.probabilities for *_, digit in digits], np.float32)
    assessed = Assessment(
        probabilities.reshape(-1, NUM_CLASSES),
        np.array([digit.unfamiliarity for *_, digit in digits], np.float32),
    )
    return numbers, batch, assessed


def _rejected_by_ingest(sources: Sequence[str]) -> dict[str, int]:
    """Count by reason the pictures that `ingest` quarantined, if sources are its outputs."""
    counts: Counter[str] = Counter()
    folders = (place for place in map(storage.absolute, sources) if not inputs.kind_of(place))
    for place in dict.fromkeys(folders):
        with suppress(DataError):  # the manifest may be of another program
            manifest = Manifest.find(place)
            if manifest.job.get("command") == "ingest":
                for receipt in manifest.receipts:
                    counts.update(receipt.counts.reasons)
    return dict(sorted(counts.items()))


@lru_cache(maxsize=1)
def _load_model(place: str | None, sha256: str) -> Model:
    """Load the model of the job, once in each process."""
    model = model_io.load(place)
    if model.sha256() != sha256:
        text = f"{place} has changed since the job began; start the job again"
        if place is None:
            text = f"this worker's model, {BUILT_IN}, differs from that of the command; install "
            text += "the same version of nanograd on every host"
        raise DataError(text)
    return model
