"""Each step of the normaliser as a small picture of one size, on paper white."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nanograd.data.handwriting import Steps
from nanograd.report.inspection import Inspection
from nanograd.report.text import BLUE, GREY, INK, LINE, ORANGE, PALE, percent, write

# The copy in which the normaliser looks for the digit has 160 pixels: it is drawn as it is.
SIDE = 160
NUM_PANELS = 6
SCORES_WIDTH = 190

_WHITE = (255, 255, 255)

Pixels = NDArray[np.uint8]


class Panel(NamedTuple):
    """A picture of one step and what it is.

    Args:
        caption: a few words above it.
        image: SIDE x SIDE, RGB.
    """

    caption: str
    image: Image.Image


def panels(inspection: Inspection) -> list[Panel | None]:
    """NUM_PANELS steps in their order, the decoded picture first; None where one was not taken."""
    steps, mask = inspection.steps or Steps(), None
    if steps.ink is not None and steps.levels is not None:
        mask = steps.ink > steps.levels.weak
    width, height = inspection.size
    light = ", light ink" if steps.inverted else ""
    dropped = mask is not None and steps.marks is not None and bool((mask & ~steps.marks).any())
    drawn = {
        f"picture, {width} x {height}": inspection.picture and inspection.picture.convert("RGB"),
        f"paper removed{light}": None if steps.ink is None else _dark(steps.ink),
        "all marks": None if mask is None else _dark(mask),
        f"marks kept{', orange: not' * dropped}": None
        if mask is None or steps.marks is None
        else _kept(mask, steps.marks),
        "pen adjusted": None if steps.strokes is None else _dark(steps.strokes),
        "28 x 28, for the net": None if steps.image is None else _grey(steps.image),
    }
    return [Panel(name, framed(image)) if image else None for name, image in drawn.items()]


def _grey(values: Pixels) -> Image.Image:
    return Image.fromarray(values).convert("RGB")


def _dark(share: NDArray[np.floating] | NDArray[np.bool_]) -> Image.Image:
    """Ink black on white, from its share of 0 to 1."""
    grey: Pixels = np.round(255 * (1 - share.astype(np.float32))).astype(np.uint8)
    return _grey(grey)


def _kept(mask: NDArray[np.bool_], marks: NDArray[np.bool_]) -> Image.Image:
    pixels = np.full((*mask.shape, 3), 255, np.uint8)
    pixels[mask] = ORANGE
    pixels[marks] = INK
    return Image.fromarray(pixels)


def framed(image: Image.Image) -> Image.Image:
    """A picture in the middle of a panel: whole pixels enlarged as squares, nothing cropped."""
    panel = Image.new("RGB", (SIDE, SIDE), PALE)
    inside = SIDE - 2
    factor = inside / max(image.size)
    if factor >= 2:
        size = (image.width * int(factor), image.height * int(factor))
        image = image.resize(size, Image.Resampling.NEAREST)
    elif factor != 1:
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    panel.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    ImageDraw.Draw(panel).rectangle((0, 0, SIDE - 1, SIDE - 1), outline=LINE)
    return panel


def score_bars(scores: NDArray[np.float32]) -> Image.Image:
    """Ten scores as bars, the best one in colour.

    Args:
        scores: (10,) float32, 0 to 1.

    Returns:
        SCORES_WIDTH x SIDE, RGB.
    """
    panel = Image.new("RGB", (SCORES_WIDTH, SIDE), _WHITE)
    draw = ImageDraw.Draw(panel)
    height, left, right = SIDE // 10, 18, SCORES_WIDTH - 46
    for digit, score in enumerate(scores.tolist()):
        top, best = digit * height, digit == int(scores.argmax())
        colour = BLUE if best else GREY
        write(draw, (4, top + 1), str(digit), size=12, colour=INK if best else GREY)
        draw.rectangle((left, top + 3, right, top + height - 3), fill=PALE)
        length = round(score * (right - left))
        if length:
            draw.rectangle((left, top + 3, left + length, top + height - 3), fill=colour)
        write(draw, (right + 6, top + 1), percent(score), size=12, colour=INK if best else GREY)
    return panel
