"""Pictures to Parquet: a part decodes, normalises and commits some hundred files.

OUT/part-ID.parquet               image struct<bytes: binary, path: string>, label int8 and, with
                                  --keep-original, original struct<bytes: binary, path: string>
OUT/_quarantine/part-ID.parquet   source_file, source_row, reason, detail
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa

from nanograd.digits.form import to_png
from nanograd.errors import Origin, Rejected, UnreadableError
from nanograd.images.inputs import InputFile, expand_pictures
from nanograd.images.labels import find_labels, parse_label_source
from nanograd.images.reader import read_pictures
from nanograd.images.writers import as_text, quarantine_table, to_parquet
from nanograd.jobs.earlier import find_earlier
from nanograd.jobs.job import Job
from nanograd.jobs.part import Part, commit_part, part_id
from nanograd.jobs.receipts import Counts, Receipt
from nanograd.pictures import decode, normalise
from nanograd.pictures.archives import SUFFIX, Archives
from nanograd.runtime import process, storage
from nanograd.runtime.events import Listener, ignore
from nanograd.runtime.json_files import JsonObject
from nanograd.settings.specs import IngestSpec

# Increase this when the same picture gives another image.
REVISION = 3

_FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

ROWS = pa.schema([("image", _FILE), ("label", pa.int8())])
ROWS_WITH_ORIGINALS = ROWS.append(pa.field("original", _FILE))

# Maximum bytes of the files of a part: a whole part is held in memory, and progress is per part.
_PART_BYTES = 256_000_000


@dataclass(frozen=True, kw_only=True)
class IngestWork:
    """The function that does a part. It is small, because it is sent to every actor."""

    spec: IngestSpec

    def __call__(self, part: Part) -> Receipt:
        """Read, normalise and commit the pictures of a part."""
        # Of 6.4 ms to decode a 1,600-pixel photo, page faults took 1.8 ms (2026-11-25).
        process.keep_freed()
        rows: list[JsonObject] = []
        rejected: list[Rejected] = []
        contents: dict[str, str | None] = {}
        convert = partial(normalise.normalise, polarity=self.spec.polarity)
        pictures = read_pictures(((file, None) for file in part.files), convert, self.spec)
        for file, version, (data, image) in zip(part.files, part.versions, pictures, strict=True):
            if data is not None:
                contents[file] = storage.checksum(data)
            if isinstance(image, UnreadableError):
                origin = Origin(file, None if _is_archive(file) else 0)
                rejected.append(Rejected(origin, image.reason, image.detail))
                continue
            path = as_text(file)
            row: JsonObject = {"image": {"bytes": to_png(image), "path": path}}
            row["label"] = version[-1]
            if self.spec.keep_original:
                row["original"] = {"bytes": data, "path": path}
            rows.append(row)
        schema = ROWS_WITH_ORIGINALS if self.spec.keep_original else ROWS
        files = {f"{part.stem}.parquet": to_parquet(pa.Table.from_pylist(rows, schema))}
        if rejected:
            table = quarantine_table(rejected)
            files[f"_quarantine/{part.stem}.parquet"] = to_parquet(table)
        reasons = Counter(str(each.reason) for each in rejected if each.origin.row is not None)
        counts = Counts(
            rows=len(rows) + reasons.total(),
            labelled=sum(row["label"] is not None for row in rows),
            quarantined=reasons.total(),
            broken_files=len(rejected) - reasons.total(),
            reasons=reasons,
        )
        return commit_part(part, files, counts, contents)


def plan(
    inputs: Sequence[str], spec: IngestSpec, listener: Listener = ignore
) -> tuple[Job, IngestWork]:
    """Plan an ingestion: find every file and its label, and divide the files into parts.

    Raises:
        DataError: an input does not exist, there are no pictures, or the list of labels is
            invalid.
        UsageError: the label pattern is invalid.
    """
    spec = replace(spec, output=storage.absolute(spec.output))
    identity = {"command": "ingest", "revision": REVISION, **spec.identity()}
    parse_label_source(spec.label_from)  # report a mistake before listing all pictures
    files = expand_pictures(inputs, listener=listener)[: spec.limit]
    labels = find_labels([file.place for file in files], inputs, spec.label_from, listener)
    # The attributes in the `InputFile` of each file, and its label.
    versions = {file.place: (*file[1:], label) for file, label in zip(files, labels, strict=True)}
    with Archives() as archives:

        def content_of(file: str) -> str | None:
            with suppress(UnreadableError):  # an archive, or a file that was removed meanwhile
                return storage.checksum(decode.read(file, spec, archives.read))
            return None

        earlier = find_earlier(spec, identity, versions, content_of, listener)
    done = earlier.files()
    new_files = [file for file in files if file.place not in done]
    parts = []
    for some in _cut(new_files, spec.part_rows):
        places = tuple(file.place for file in some)
        found = tuple(versions[place] for place in places)
        parts.append(
            Part(
                id=part_id(spec.identity(), [version[-1] for version in found], *some),
                name=part_id(places[0]),
                files=places,
                versions=found,
                num_rows=sum(not _is_archive(place) for place in places),
            )
        )
    facts = {"files": len(files), "new_files": len(new_files)}
    job = Job(spec=spec, identity=identity, parts=parts, earlier=earlier, facts=facts)
    return job, IngestWork(spec=spec)


def _is_archive(file: str) -> bool:
    """Return whether a file is an archive. It is listed only if its pictures cannot be listed."""
    return file.lower().endswith(SUFFIX)


def _cut(files: Sequence[InputFile], part_rows: int) -> Iterator[Sequence[InputFile]]:
    """Yield runs of at most `part_rows` files and `_PART_BYTES` bytes, but at least one file."""
    start, num_bytes = 0, 0
    for end, file in enumerate(files):
        num_bytes += file.num_bytes
        if end > start and (end - start == part_rows or num_bytes > _PART_BYTES):
            yield files[start:end]
            start, num_bytes = end, file.num_bytes
    if files:
        yield files[start:]
