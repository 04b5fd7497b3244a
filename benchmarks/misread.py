"""A sheet of the images that models misclassify.

Each model classifies MNIST's 10,000 test images. Every image that at least one model misclassifies
is drawn once. Images that more models misclassify come first; then the order is by digit. The
caption of an image is its label, the most frequent wrong prediction, and the number of models that
are wrong. The sheet is not used to choose settings.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from common import Row, arguments, report
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nanograd.digits.dataset import Dataset
from nanograd.images import sources
from nanograd.models import model
from nanograd.report.sheet import draw_text
from nanograd.runtime import process

_ENLARGED, _GAP, _CAPTION, _COLUMNS = 56, 10, 16, 12

Digits = NDArray[np.int64]


def measure(places: Sequence[str], test: Dataset) -> tuple[list[Row], Digits]:
    """Return a row for each model, and the predictions as (models, images)."""
    models = [model.load(place) for place in places]
    with process.one_thread():
        predicted = np.stack([each.probabilities(test.images).argmax(axis=1) for each in models])
    rows: list[Row] = [
        {"model": each.params_sha256()[:12], "nets": len(each.nets), "misread": int(wrong.sum())}
        for each, wrong in zip(models, predicted != test.labels, strict=True)
    ]
    number = (predicted != test.labels).sum(axis=0)
    together = {"by all": int((number == len(predicted)).sum()), "by any": int((number > 0).sum())}
    return [*rows, {"model": "together", "misread": together["by any"], **together}], predicted


def sheet(predicted: Digits, test: Dataset) -> Image.Image:
    """Draw all images that any model misclassifies."""
    captions = list(_captions(predicted, test.labels))
    cell, line = _ENLARGED + _GAP, _ENLARGED + _CAPTION + _GAP
    lines = max(1, -(-len(captions) // _COLUMNS))
    drawn = Image.new("RGB", (_GAP + _COLUMNS * cell, _GAP + lines * line), "white")
    for number, (index, caption) in enumerate(captions):
        row, column = divmod(number, _COLUMNS)
        left, top = _GAP + column * cell, _GAP + row * line
        draw_text(ImageDraw.Draw(drawn), (left, top), caption, size=12)
        ink = Image.fromarray(255 - test.images[index].reshape(28, 28))
        drawn.paste(ink.resize((_ENLARGED, _ENLARGED)), (left, top + _CAPTION))
    return drawn.quantize(32)


def _captions(predicted: Digits, labels: NDArray[np.uint8]) -> Iterator[tuple[int, str]]:
    """Yield the index and caption of each misclassified image; most often misclassified first."""
    wrong = (predicted != labels).sum(axis=0)
    order = sorted(np.flatnonzero(wrong), key=lambda index: (-wrong[index], labels[index]))
    for index in order:
        mistakes = predicted[:, index][predicted[:, index] != labels[index]]
        most = np.bincount(mistakes).argmax()
        count = f" {wrong[index]}/{len(predicted)}" if len(predicted) > 1 else ""
        yield int(index), f"{labels[index]} as {most}{count}"


def main() -> None:
    """Classify, count and draw."""
    parser = arguments(__doc__)
    parser.add_argument("models", nargs="+", help="model directories")
    parser.add_argument("--sheet", type=Path, help="a PNG file")
    options = parser.parse_args()
    test = sources.load([options.data]).test
    rows, predicted = measure(options.models, test)
    report(rows, options.json)
    if options.sheet is not None:
        sheet(predicted, test).save(options.sheet, optimize=True)


if __name__ == "__main__":
    main()
