"""The steps from a picture to its scores, as values that a sheet draws."""

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

# Decoded pictures are kept reduced to this side: a hundred whole photos would fill the memory.
SMALL_SIDE = 320


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """One picture, step by step."""

    file: str  # path or URI
    steps: Steps  # results of the steps of the normaliser; the reason of a refusal
    # The decoded picture, no side above SMALL_SIDE; None if decoding failed.
    picture: Image.Image | None = None
    size: tuple[int, int] = (0, 0)  # width and height as decoded
    # (10,) float32 of the model; None without a model or an image.
    scores: NDArray[np.float32] | None = None

    @property
    def prediction(self) -> int | None:
        """The digit with the best score."""
        return None if self.scores is None else int(self.scores.argmax())

    @property
    def confidence(self) -> float | None:
        """The best score."""
        return None if self.scores is None else float(self.scores.max())


def inspect_picture(
    file: str, reader: PictureReader, polarity: str, model: Model | None
) -> Inspection:
    """Decode and normalise a picture, classify it if there is a model, and keep every step.

    Raises:
        StorageError: the storage fails as a whole.
    """
    try:
        with Archives() as archives:
            picture = reader.decode(reader.read(file, archives.read))
    except UnreadableError as error:
        return Inspection(file=file, steps=Steps(refused=error))
    steps = normalise.trace(picture, polarity=polarity)
    small = picture.copy()
    small.thumbnail((SMALL_SIDE, SMALL_SIDE))
    scores = None
    if model is not None and steps.image is not None:
        [scores] = model.scores(steps.image.reshape(1, -1))
    return Inspection(file=file, picture=small, size=picture.size, steps=steps, scores=scores)


def summarize(inspections: Sequence[Inspection]) -> dict[str, Any]:
    """Return the counts and the outcome of each picture, for the result line."""
    num_refused = sum(each.steps.refused is not None for each in inspections)
    return {
        "pictures": len(inspections),
        "read": len(inspections) - num_refused,
        "refused": num_refused,
        "results": [
            {
                "file": each.file,
                "prediction": each.prediction,
                "confidence": each.confidence,
                "reason": each.steps.refused and each.steps.refused.reason,
                "detail": each.steps.refused and each.steps.refused.detail,
            }
            for each in inspections
        ],
    }
