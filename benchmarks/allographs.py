"""Claim: every shape of the table of variants is recognised.

Models classify `--number` drawings of each shape in `nanograd/digits/variants.toml`. The drawings
have a seed with which no model was trained. Each shape has a row with the share of correct
predictions and the most frequent wrong prediction. `--sheet` draws some drawings. Without models,
nothing is measured.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import Row, arguments, report
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nanograd.digits.dataset import SIDE, Dataset
from nanograd.digits.variants import draw_variants, variants
from nanograd.models import model
from nanograd.models.model import Model
from nanograd.report.sheet import draw_text
from nanograd.runtime import process

_SEED = 2**62
_NAME_WIDTH, _SHOWN, _GAP, _COLUMNS = 150, 10, 2, 2

Digits = NDArray[np.int64]


def measure(models: Sequence[Model], number: int) -> list[Row]:
    """Classify `number` drawings of each shape; the last row is for all drawings together."""
    names, digits = _draw(number)
    with process.one_thread():
        predicted = np.stack([each.probabilities(digits.images).argmax(axis=1) for each in models])
    shapes = {name: np.flatnonzero(names == name)[:number] for name in dict.fromkeys(names)}
    every = np.concatenate([*shapes.values()])
    return [
        _figures(name, predicted[:, part], digits.labels[part])
        for name, part in {**shapes, "all": every}.items()
    ]


def _draw(number: int) -> tuple[NDArray[np.str_], Dataset]:
    """Draw each shape at least `number` times; return the shape's name for each drawing, too."""
    names = [shape.name for shape in variants()]
    return np.tile(names, number), draw_variants(number * len(names), _SEED)


def _figures(name: str, predicted: Digits, labels: NDArray[np.uint8]) -> Row:
    shares = 100 * (predicted == labels).mean(axis=1)
    wrong = predicted[predicted != labels]
    return {
        "shape": name,
        "drawings": len(labels),
        **{f"model {n}": f"{share:.1f} %" for n, share in enumerate(shares, 1)},
        "mostly taken for": str(np.bincount(wrong).argmax()) if len(wrong) else "",
    }


def sheet() -> Image.Image:
    """Draw every shape a few times, beside its name."""
    drawings, digits = _draw(_SHOWN)
    names = list(dict.fromkeys(drawings))
    lines = -(-len(names) // _COLUMNS)
    cell = SIDE + _GAP
    width = _NAME_WIDTH + _SHOWN * cell
    drawn = Image.new("RGB", (_COLUMNS * width, _GAP + lines * cell), "white")
    for n, name in enumerate(names):
        column, line = divmod(n, lines)
        left, top = column * width, _GAP + line * cell
        draw_text(ImageDraw.Draw(drawn), (left + 2 * _GAP, top + 6), name, size=13)
        for place, image in enumerate(digits.images[drawings == name][:_SHOWN]):
            ink = Image.fromarray(255 - image.reshape(SIDE, SIDE))
            drawn.paste(ink, (left + _NAME_WIDTH + place * cell, top))
    return drawn.quantize(16)


def main() -> None:
    """Classify and draw."""
    parser = arguments(__doc__)
    parser.add_argument("models", nargs="*", help="model directories")
    parser.add_argument("--number", type=int, default=500, help="drawings of each shape")
    parser.add_argument("--sheet", type=Path, help="a PNG file")
    options = parser.parse_args()
    if options.models:
        report(measure([model.load(each) for each in options.models], options.number), options.json)
    if options.sheet is not None:
        sheet().save(options.sheet, optimize=True)


if __name__ == "__main__":
    main()
