"""Labelled picture files for `handwriting.py`, and the results of normaliser and nets."""

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from common import HERE
from numpy.typing import NDArray
from PIL import Image

from nanograd.digits.dataset import Dataset
from nanograd.errors import UnreadableError
from nanograd.models.model import Model
from nanograd.pictures.decode import decode
from nanograd.pictures.normalise import normalise

sys.path.append(str(HERE.parent))
from simulators.photos import photograph
from simulators.scenes import KINDS

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A picture file and its label."""

    name: str
    data: bytes
    label: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a sample.

    Args:
        sample: the picture file.
        image: (28, 28) uint8, the normalised image; None if the picture was refused.
        predictions: name of a net -> its digit, or the reason if the picture was refused.
    """

    sample: Sample
    image: Bytes | None
    predictions: Mapping[str, str]

    def is_correct(self, name: str) -> bool:
        """Return whether the prediction of a net equals the label."""
        return self.predictions[name] == str(self.sample.label)

    @property
    def all_correct(self) -> bool:
        """Whether the predictions of all nets equal the label."""
        return all(map(self.is_correct, self.predictions))

    def __str__(self) -> str:
        """Return `photo-b-03 is 2: 7`, or `photo-b-03 is 2: 7, 2` if the nets differ."""
        distinct = dict.fromkeys(self.predictions.values())
        return f"{self.sample.name} is {self.sample.label}: {', '.join(distinct)}"


def classify(samples: Sequence[Sample], models: Mapping[str, Model]) -> list[Result]:
    """Normalise and classify every sample."""
    normalised = [_normalise(sample.data) for sample in samples]
    blank = np.zeros((28, 28), np.uint8)
    images = np.stack([blank if isinstance(image, str) else image for image in normalised])
    digits = {
        name: model.probabilities(images.reshape(-1, 784)).argmax(1)
        for name, model in models.items()
    }
    return [
        Result(sample=sample, image=None, predictions=dict.fromkeys(models, image))
        if isinstance(image, str)
        else Result(
            sample=sample,
            image=image,
            predictions={name: str(digits[name][n]) for name in models},
        )
        for n, (sample, image) in enumerate(zip(samples, normalised, strict=True))
    ]


def _normalise(data: bytes) -> Bytes | str:
    try:
        return normalise(decode(data))
    except UnreadableError as error:
        return error.reason


def development(folder: Path) -> dict[str, list[Sample]]:
    """Return the picture files of the development set by series, sorted by name."""
    with (folder / "labels.csv").open() as lines:
        rows = sorted(csv.DictReader(lines), key=lambda row: row["file"])
    series: dict[str, list[Sample]] = {}
    for row in rows:
        name = row["file"].partition("-is-")[0]
        sample = Sample(
            name=name, data=(folder / row["file"]).read_bytes(), label=int(row["label"])
        )
        series.setdefault(row["series"], []).append(sample)
    return series


def optdigits(folder: Path) -> list[Sample]:
    """Return the bitmaps of the development set."""
    rows = pq.read_table(folder / "optdigits-test.parquet").to_pylist()
    return [
        Sample(name=f"row {number}", data=row["image"]["bytes"], label=row["label"])
        for number, row in enumerate(rows)
    ]


def as_png(images: Dataset) -> list[Sample]:
    """Encode images as PNG files."""
    return [
        Sample(name=str(place), data=_png(image.reshape(28, 28)), label=int(label))
        for place, (image, label) in enumerate(zip(images.images, images.labels, strict=True))
    ]


def _png(image: Bytes) -> bytes:
    stream = BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def simulated(images: Dataset, kind: str, number: int) -> list[Sample]:
    """Simulate photos of one kind; each kind uses a different range of the images."""
    first = list(KINDS).index(kind) * number
    return [
        Sample(
            name=f"{kind} {place}",
            data=photo(images, place, kind),
            label=int(images.labels[place]),
        )
        for place in (np.arange(first, first + number) % len(images)).tolist()
    ]


def photo(images: Dataset, place: int, kind: str) -> bytes:
    """Simulate a photo of an image; its place is the seed."""
    return photograph(images.images[place].reshape(28, 28), kind, place)
