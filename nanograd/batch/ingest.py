"""Pictures to Parquet: one part is some hundred files, decoded, normalised and committed.

OUT/part-ID.parquet               image struct<bytes: binary, path: string>, label int8
OUT/_quarantine/part-ID.parquet   source_file, source_row, reason, detail
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pyarrow as pa
from PIL import Image

from nanograd import storage
from nanograd.batch.inputs import InputFile, expand, to_parquet
from nanograd.batch.job import Job, Part, Receipt, commit_part, part_id
from nanograd.config import IngestConfig
from nanograd.data import handwriting, pictures
from nanograd.data.parquet import QUARANTINE
from nanograd.data.pictures import UnreadableError
from nanograd.errors import DataError

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".mpo", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm",
    ".pbm",
)  # fmt: skip

ROWS = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("label", pa.int8()),
    ]
)

# 7.png, 7_0012.png, 7 (2).png; or a word that says so: x-is-7.png, digit7.jpg, label_7-b.png.
# A bare number at the end (img_7.png) is more often a count than a label.
_LABEL_IN_NAME = (
    re.compile(r"^([0-9])(?![0-9])(?:[-_ (].*)?$"),
    re.compile(r"(?:^|[-_ ])(?:is|label|digit|class)[-_ ]?([0-9])(?![0-9])", re.IGNORECASE),
)


@dataclass(frozen=True, kw_only=True)
class IngestWork:
    """Does one part; small, so that it can be sent to every actor."""

    place: str
    polarity: str
    label_from: str
    max_pixels: int

    def __call__(self, part: Part) -> Receipt:
        """Read, normalise and commit the pictures of a part."""
        rows: list[dict[str, object]] = []
        rejects: list[dict[str, object]] = []
        for file in part.files:
            try:
                image = {"bytes": self._normalised(file), "path": file}
                rows.append({"image": image, "label": label_of(file, self.label_from)})
            except UnreadableError as error:
                rejects.append(
                    {
                        "source_file": file,
                        "source_row": 0,
                        "reason": error.reason,
                        "detail": error.detail,
                    }
                )
        files = {f"part-{part.id}.parquet": to_parquet(pa.Table.from_pylist(rows, ROWS))}
        if rejects:
            table = pa.Table.from_pylist(rejects, QUARANTINE)
            files[f"_quarantine/part-{part.id}.parquet"] = to_parquet(table)
        counts = {
            "rows": len(part.files),
            "ingested": len(rows),
            "labelled": sum(row["label"] is not None for row in rows),
            "quarantined": len(rejects),
            "reasons": dict(Counter(str(reject["reason"]) for reject in rejects)),
        }
        return commit_part(self.place, part, files, counts)

    def _normalised(self, file: str) -> bytes:
        try:
            data = storage.read(file)
        except DataError as error:
            raise UnreadableError("no_file", str(error)) from error
        picture = pictures.decode(data, max_pixels=self.max_pixels)
        image = handwriting.normalise(picture, polarity=self.polarity)
        buffer = BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        return buffer.getvalue()


def plan(config: IngestConfig, inputs: Sequence[str]) -> tuple[Job, IngestWork]:
    """What there is to do.

    Args:
        config: settings.
        inputs: files, folders or globs, local or in an object store.

    Raises:
        DataError: an input is not there, or there is no picture at all.
    """
    files = expand(inputs, SUFFIXES)
    place = storage.absolute(config.output)
    settings = {
        "polarity": config.polarity,
        "label_from": config.label_from,
        "max_pixels": config.max_pixels,
    }
    parts = list(_parts(files, config.part_rows, settings))
    identity = {"command": "ingest", **settings, "parts": [part.id for part in parts]}
    job = Job(place=place, identity=identity, parts=parts, overwrite=config.overwrite)
    work = IngestWork(
        place=place,
        polarity=config.polarity,
        label_from=config.label_from,
        max_pixels=config.max_pixels,
    )
    return job, work


def label_of(file: str, label_from: str) -> int | None:
    """The digit that a picture's folder or file name says it is, or None.

    Args:
        file: path or URI.
        label_from: auto (folder, else name), folder, name or none.

    >>> label_of("scans/7/img_3.png", "auto"), label_of("photo-a-01-is-0.jpg", "auto")
    (7, 0)
    >>> label_of("img_3.png", "auto") is None
    True
    """
    path = Path(file)
    if label_from in ("auto", "folder") and re.fullmatch("[0-9]", path.parent.name):
        return int(path.parent.name)
    if label_from in ("auto", "name"):
        for pattern in _LABEL_IN_NAME:
            if match := pattern.search(path.stem):
                return int(match[1])
    return None


def _parts(
    files: Sequence[InputFile], part_rows: int, settings: dict[str, object]
) -> Iterator[Part]:
    for start in range(0, len(files), part_rows):
        group = files[start : start + part_rows]
        yield Part(
            id=part_id(settings, *group),
            files=tuple(file.place for file in group),
            num_rows=len(group),
        )
