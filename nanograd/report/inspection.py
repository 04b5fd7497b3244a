"""The steps from a picture to its probabilities, as values that a sheet draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from PIL import Image

from nanograd.errors import DataError, UnreadableError
from nanograd.images.columns import ImageKind, find_image_column
from nanograd.images.inputs import expand_pictures, is_table
from nanograd.images.parquet import RowRange, open_parquet
from nanograd.images.reader import read_pictures, read_rows
from nanograd.models.model import Model
from nanograd.pictures import normalise
from nanograd.pictures.normalise import Candidate
from nanograd.runtime import storage
from nanograd.runtime.arrays import Floats
from nanograd.settings.specs import PictureFileOptions

# Decoded pictures are kept reduced to this side: a hundred whole photos would fill the memory.
_SMALL_SIDE = 320


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """One picture, step by step."""

    file: str  # path or URI
    steps: Candidate  # results of the steps of the normaliser; the reason of a refusal
    # The decoded picture, no side above _SMALL_SIDE; None if decoding failed.
    picture: Image.Image | None = None
    size: tuple[int, int] = (0, 0)  # width and height as decoded
    probabilities: Floats | None = None  # (10,); None without a model or an image
    unfamiliarity: float | None = None  # 0 to 1; None without a model or an image

    @property
    def prediction(self) -> int | None:
        """The most probable digit."""
        return None if self.probabilities is None else int(self.probabilities.argmax())

    @property
    def confidence(self) -> float | None:
        """The probability of the most probable digit."""
        return None if self.probabilities is None else float(self.probabilities.max())


def find_pictures(
    inputs: Sequence[str], limit: int, output: str
) -> tuple[dict[str, bytes | None], int]:
    """Find picture files, and rows of Parquet files that hold pictures.

    Args:
        inputs: files, folders or globs, local or in an object store.
        limit: pictures to return.
        output: absolute path or URI of a file to leave out.

    Returns:
        The name of each picture with its bytes, None for a file; the number of all pictures.

    Raises:
        DataError: an input does not exist or has no pictures.
    """
    tables = [each for each in inputs if is_table(storage.absolute(each))]
    others = [each for each in inputs if each not in tables]
    found: dict[str, bytes | None] = {}
    total = 0
    for table in tables:
        rows, num_rows = _read_rows(storage.absolute(table), max(limit - len(found), 0))
        found, total = {**found, **rows}, total + num_rows
    if others or not tables:
        hint = "check the path, or name a .parquet file whose rows hold pictures"
        files = [each.place for each in expand_pictures(others, hint) if each.place != output]
        found |= dict.fromkeys(files[: limit - len(found)])
        total += len(files)
    return found, total


def _read_rows(file: str, limit: int) -> tuple[dict[str, bytes], int]:
    """Read the pictures of the first rows of a Parquet file, by name; return also its rows."""
    try:
        with open_parquet(file) as parquet:
            schema, num_rows = parquet.schema_arrow, parquet.metadata.num_rows
            groups = parquet.metadata.num_row_groups
        column = find_image_column(schema)
        if column.kind != ImageKind.ENCODED:
            raise DataError(f"column {column.names[0]!r} holds no picture files")
        wanted = [n for n in schema.names if n in {*column.names, "source_file", "source_row"}]
        first = RowRange((0, groups), 0, 0, min(limit, num_rows))
        batches = list(read_rows(file, first, lambda _: wanted))
    except DataError as error:
        raise DataError(
            f"{file}: {error}; inspect takes pictures, and rows with pictures as in _review.pq"
        ) from error
    found = dict[str, bytes]()
    rows = (row for each in batches if isinstance(each, pa.RecordBatch) for row in each.to_pylist())
    for number, row in enumerate(rows):
        image = row[column.names[0]]
        data = image.get("bytes") if isinstance(image, dict) else image
        name = f"{row.get('source_file') or file}, row {row.get('source_row', number)}"
        found[name] = data or b""
    return found, num_rows


def inspect_pictures(
    files: Mapping[str, bytes | None], options: PictureFileOptions, model: Model | None
) -> list[Inspection]:
    """Decode and normalise pictures, classify them if there is a model, and keep every step.

    Args:
        files: path or URI of each, or the name of its bytes; None reads the file.
        options: polarity, and limits on picture files.
        model: to classify with; None for no probabilities.

    Raises:
        StorageError: the storage fails as a whole.
    """

    def inspect(picture: Image.Image) -> tuple[Image.Image, tuple[int, int], Candidate]:
        small = picture.copy()
        small.thumbnail((_SMALL_SIDE, _SMALL_SIDE))
        return small, picture.size, normalise.trace(picture, polarity=options.polarity)

    inspections = []
    pictures = read_pictures(files.items(), inspect, options)
    for file, (_, found) in zip(files, pictures, strict=True):
        if isinstance(found, UnreadableError):
            inspections.append(Inspection(file=file, steps=Candidate(refused=found)))
            continue
        small, size, steps = found
        each = Inspection(file=file, picture=small, size=size, steps=steps)
        if model is not None and steps.image is not None:
            [probabilities], [unfamiliarity] = model.assess(steps.image.reshape(1, -1))
            each = replace(each, probabilities=probabilities, unfamiliarity=float(unfamiliarity))
        inspections.append(each)
    return inspections


def summarize(inspections: Sequence[Inspection]) -> dict[str, Any]:
    """Return the counts and the outcome of each picture, for the result line."""
    refusals = [each.steps.refused for each in inspections]
    num_refused = len(refusals) - refusals.count(None)
    return {
        "pictures": len(inspections),
        "read": len(inspections) - num_refused,
        "refused": num_refused,
        "results": [
            {
                "file": each.file,
                "prediction": each.prediction,
                "confidence": each.confidence,
                "unfamiliarity": each.unfamiliarity,
                "reason": refused and refused.reason,
                "detail": refused and refused.detail,
            }
            for each, refused in zip(inspections, refusals, strict=True)
        ],
    }
