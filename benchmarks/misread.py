"""What models still misread, on one sheet.

Each model reads MNIST's 10,000 test images. Every image that one of them misreads is drawn once:
those that the most models misread come first, then by digit. The words above an image are its
label, what was read instead by most, and by how many of the models. Nothing is chosen by this.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from common import Row, arguments, report
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nanograd.data import mnist
from nanograd.data.dataset import Dataset
from nanograd.models import model
from nanograd.report.panels import draw_text
from nanograd.runtime import process

_ENLARGED, _GAP, _CAPTION, _COLUMNS = 56, 10, 16, 12

Digits = NDArray[np.int64]


def measure(places: Sequence[str], test: Dataset) -> tuple[list[Row], Digits]:
    """A row for each model, and what each reads: (models, images)."""
    models = [model.load(place) for place in places]
    with process.one_thread():
        read = np.stack([each.scores(test.images).argmax(axis=1) for each in models])
    rows: list[Row] = [
        {"model": each.params_sha256()[:12], "nets": len(each.nets), "misread": int(wrong.sum())}
        for each, wrong in zip(models, read != test.labels, strict=True)
    ]
    number = (read != test.labels).sum(axis=0)
    together = {"by all": int((number == len(read)).sum()), "by any": int((number > 0).sum())}
    return [*rows, {"model": "together", "misread": together["by any"], **together}], read


def sheet(read: Digits, test: Dataset) -> Image.Image:
    """All images that any model misread, on one sheet."""
    captions = list(_captions(read, test.labels))
    cell, line = _ENLARGED + _GAP, _ENLARGED + _CAPTION + _GAP
    lines = max(1, -(-len(captions) // _COLUMNS))
    drawn = Image.new("RGB", (_GAP + _COLUMNS * cell, _GAP + lines * line), "white")
    for number, (index, words) in enumerate(captions):
        row, column = divmod(number, _COLUMNS)
        left, top = _GAP + column * cell, _GAP + row * line
        draw_text(ImageDraw.Draw(drawn), (left, top), words, size=12)
        ink = Image.fromarray(255 - test.images[index].reshape(28, 28))
        drawn.paste(ink.resize((_ENLARGED, _ENLARGED)), (left, top + _CAPTION))
    return drawn.quantize(32)


def _captions(read: Digits, labels: NDArray[np.uint8]) -> Iterator[tuple[int, str]]:
    """Index of each misread image and the words above it, the most misread first."""
    wrong = (read != labels).sum(axis=0)
    order = sorted(np.flatnonzero(wrong), key=lambda index: (-wrong[index], labels[index]))
    for index in order:
        answers = read[:, index][read[:, index] != labels[index]]
        most = np.bincount(answers).argmax()
        count = f" {wrong[index]}/{len(read)}" if len(read) > 1 else ""
        yield int(index), f"{labels[index]} as {most}{count}"


def main() -> None:
    """Read, count and draw."""
    parser = arguments(__doc__)
    parser.add_argument("models", nargs="+", help="model directories")
    parser.add_argument("--sheet", type=Path, help="a PNG file")
    options = parser.parse_args()
    test = mnist.load(options.data).test
    rows, read = measure(options.models, test)
    report(rows, options.json)
    if options.sheet is not None:
        sheet(read, test).save(options.sheet, optimize=True)


if __name__ == "__main__":
    main()
