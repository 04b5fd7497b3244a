"""What happens to a picture on its way to the net, and what the net says: values to be drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nanograd.errors import UnreadableError
from nanograd.models.model import Model
from nanograd.pictures import normalise
from nanograd.pictures.archives import Archives
from nanograd.pictures.decode import PictureReader
from nanograd.pictures.normalise import Steps

# Of the decoded picture only so much is kept: a hundred whole photos would fill the memory.
SMALL_SIDE = 320


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """One picture, step by step.

    Args:
        file: its place.
        picture: as it was decoded, no side above SMALL_SIDE; None if it was not.
        size: width and height as decoded.
        steps: what each step of the normaliser gave.
        scores: (10,) float32 of the net; None without a model or an image.
        refused: why there is no image.
    """

    file: str
    picture: Image.Image | None = None
    size: tuple[int, int] = (0, 0)
    steps: Steps | None = None
    scores: NDArray[np.float32] | None = None
    refused: UnreadableError | None = None

    @property
    def prediction(self) -> int | None:
        """The digit with the best score."""
        return None if self.scores is None else int(self.scores.argmax())

    @property
    def confidence(self) -> float | None:
        """The best score."""
        return None if self.scores is None else float(self.scores.max())


def look_at(file: str, reader: PictureReader, polarity: str, model: Model | None) -> Inspection:
    """Read a picture, keep every step, and ask the net.

    Args:
        file: path or URI; it may lie in a ZIP file.
        reader: limits and formats.
        polarity: as of `normalise.normalise`.
        model: the net; None asks nobody.

    Raises:
        StorageError: the place fails as a whole.
    """
    try:
        with Archives() as archives:
            picture = reader.decode(reader.read(file, archives.read))
    except UnreadableError as error:
        return Inspection(file=file, refused=error)
    steps = normalise.steps(picture, polarity=polarity)
    small = picture.copy()
    small.thumbnail((SMALL_SIDE, SMALL_SIDE))
    scores = None
    if model is not None and steps.image is not None:
        [scores] = model.scores(steps.image.reshape(1, -1))
    return Inspection(
        file=file,
        picture=small,
        size=picture.size,
        steps=steps,
        scores=scores,
        refused=steps.refused,
    )


def counts(inspections: Sequence[Inspection]) -> dict[str, Any]:
    """Counts, and a few words on each picture, for the result line."""
    refused = sum(each.refused is not None for each in inspections)
    return {
        "pictures": len(inspections),
        "read": len(inspections) - refused,
        "refused": refused,
        "results": [_words(each) for each in inspections],
    }


def _words(each: Inspection) -> dict[str, Any]:
    return {
        "file": each.file,
        "prediction": each.prediction,
        "confidence": each.confidence,
        "reason": each.refused.reason if each.refused else None,
        "detail": each.refused.detail if each.refused else None,
    }
