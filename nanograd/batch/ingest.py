"""Pictures to Parquet: one part is some hundred files, decoded, normalised and committed.

OUT/part-ID.parquet               image struct<bytes: binary, path: string>, label int8 and, if
                                  asked for, original struct<bytes: binary, path: string>
OUT/_quarantine/part-ID.parquet   source_file, source_row, reason, detail
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any

import pyarrow as pa
from PIL import Image

from nanograd.batch.inputs import InputFile, expand_pictures
from nanograd.batch.job import Job
from nanograd.batch.labels import Label, find_labels, label_source
from nanograd.batch.part import Part, Receipt, commit_part, part_id
from nanograd.config.command_configs import IngestConfig
from nanograd.errors import UnreadableError
from nanograd.pictures import normalise
from nanograd.pictures.archives import Archives
from nanograd.pictures.decode import PictureReader, formats_named
from nanograd.runtime import process, storage
from nanograd.tables.files import to_parquet
from nanograd.tables.images import QUARANTINE

_FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

ROWS = pa.schema([("image", _FILE), ("label", pa.int8())])
ROWS_WITH_ORIGINALS = ROWS.append(pa.field("original", _FILE))

# Photos have megabytes: a part holds them all at once, and nothing is told until one is done.
_PART_BYTES = 256_000_000


@dataclass(frozen=True, kw_only=True)
class IngestWork:
    """Does one part; small, so that it can be sent to every actor."""

    place: str
    reader: PictureReader
    polarity: str
    keep_original: bool

    def __call__(self, part: Part) -> Receipt:
        """Read, normalise and commit the pictures of a part."""
        # Photos have megabytes: with the page faults of asking for them anew, decoding one of
        # 1,600 pixels took 6.4 ms, without them 4.6 (2026-11-25).
        process.keep_freed()
        rows: list[dict[str, Any]] = []
        rejects: list[dict[str, Any]] = []
        with Archives() as archives:
            for file, label in zip(part.files, part.labels, strict=True):
                try:
                    data = self.reader.read(file, archives.read)
                    rows.append(self._row(file, data, label))
                except UnreadableError as error:
                    rejects.append(_reject(file, error))
        schema = ROWS_WITH_ORIGINALS if self.keep_original else ROWS
        files = {f"part-{part.id}.parquet": to_parquet(pa.Table.from_pylist(rows, schema))}
        if rejects:
            table = pa.Table.from_pylist(rejects, QUARANTINE)
            files[f"_quarantine/part-{part.id}.parquet"] = to_parquet(table)
        return commit_part(self.place, part, files, _counts(part, rows, rejects))

    def _row(self, file: str, data: bytes, label: Label) -> dict[str, Any]:
        image = normalise.normalise(self.reader.decode(data), polarity=self.polarity)
        buffer = BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        path = _as_text(file)
        row = {"image": {"bytes": buffer.getvalue(), "path": path}, "label": label}
        return {**row, "original": {"bytes": data, "path": path}} if self.keep_original else row


def plan(
    config: IngestConfig, inputs: Sequence[str], say: Callable[[str], None]
) -> tuple[Job, IngestWork]:
    """What there is to do: every file and its label.

    Args:
        config: settings.
        inputs: files, folders or globs, local or in an object store.
        say: told what has no label.

    Raises:
        DataError: an input is not there, there is no picture at all, or a list of labels has a
            mistake.
        UsageError: a format or the pattern of labels is none.
    """
    reader = PictureReader(
        max_bytes=config.max_bytes,
        max_pixels=config.max_pixels,
        formats=formats_named(config.formats),
    )
    source = label_source(config.label_from)
    choices = {"polarity": config.polarity, "keep_original": config.keep_original}
    settings = {**asdict(reader), "formats": list(reader.formats), **choices}
    files = expand_pictures(inputs)
    labels = find_labels([file.place for file in files], inputs, source, say)
    parts = list(_parts(files, labels, config.part_rows, settings))
    identity = {"command": "ingest", **settings, "parts": [part.id for part in parts]}
    place = storage.absolute(config.output)
    job = Job(place=place, identity=identity, parts=parts, overwrite=config.overwrite)
    return job, IngestWork(
        place=place,
        reader=reader,
        polarity=config.polarity,
        keep_original=config.keep_original,
    )


def _parts(
    files: Sequence[InputFile],
    labels: Sequence[Label],
    part_rows: int,
    settings: dict[str, Any],
) -> Iterator[Part]:
    for part in _cut(files, part_rows):
        group, of_group = files[part], tuple(labels[part])
        yield Part(
            id=part_id(settings, of_group, *group),
            files=tuple(file.place for file in group),
            num_rows=len(group),
            labels=of_group,
        )


def _cut(files: Sequence[InputFile], part_rows: int) -> Iterator[slice]:
    """Neighbouring files, so many at most, and of so many bytes unless it is one."""
    start, num_bytes = 0, 0
    for end, file in enumerate(files):
        num_bytes += file.num_bytes
        if end > start and (end - start == part_rows or num_bytes > _PART_BYTES):
            yield slice(start, end)
            start, num_bytes = end, file.num_bytes
    yield slice(start, len(files))


def _as_text(file: str) -> str:
    """A path as Parquet can hold it: what of it is no UTF-8 is written out as an escape."""
    return file.encode(errors="backslashreplace").decode()


def _reject(file: str, error: UnreadableError) -> dict[str, Any]:
    return {
        "source_file": _as_text(file),
        "source_row": 0,
        "reason": error.reason,
        "detail": _as_text(error.detail),
    }


def _counts(
    part: Part, rows: Sequence[dict[str, Any]], rejects: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "rows": len(part.files),
        "ingested": len(rows),
        "labelled": sum(row["label"] is not None for row in rows),
        "quarantined": len(rejects),
        "reasons": dict(Counter(str(reject["reason"]) for reject in rejects)),
    }
