"""Each step of the normaliser as a small picture of one size, on paper white."""

from functools import cache
from math import floor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

from nanograd.pictures.normalise import Steps
from nanograd.report.inspection import Inspection

# Dark enough on white to be read (contrast of 4.5 and more), ORANGE apart, which is for areas.
INK, GREY, BLUE, RED = (31, 35, 40), (99, 106, 117), (29, 78, 216), (176, 32, 24)
ORANGE, LINE, PALE = (230, 126, 20), (208, 213, 221), (243, 244, 246)

Colour = tuple[int, int, int]


@cache
def font(size: int) -> FreeTypeFont:
    """The font that comes with Pillow, so many pixels high."""
    found = ImageFont.load_default(size)
    if not isinstance(found, FreeTypeFont):
        raise TypeError("this Pillow was built without FreeType")
    return found


def write(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    words: str,
    *,
    size: int,
    colour: Colour = INK,
    to_the_left: bool = False,
) -> None:
    """Words with their upper left or right corner at a point; what cannot be shown is a `?`."""
    anchor = "ra" if to_the_left else "la"
    draw.text(at, _printable(words), fill=colour, font=font(size), anchor=anchor)


def wrapped(words: str, size: int, width: int) -> list[str]:
    """Words in lines no wider than so many pixels, cut within a word only if it alone is wider."""
    lines = [""]
    for word in _printable(words).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font(size).getlength(longer) > width:
            lines.append(shortened(word, size, width))
        else:
            lines[-1] = shortened(longer, size, width)
    return lines


def shortened(words: str, size: int, width: int) -> str:
    """Words no wider than so many pixels, their middle left out if need be."""
    words = _printable(words)
    if font(size).getlength(words) <= width:
        return words
    keep = len(words) - 1
    while keep > 2 and font(size).getlength(_without_middle(words, keep)) > width:
        keep -= 1
    return _without_middle(words, keep)


def percent(score: float) -> str:
    """A share, cut and not rounded: what is not quite 1 is not said to be.

    >>> [percent(score) for score in (1.0, 0.99999, 0.0004)]
    ['100.0%', '99.9%', '0.0%']
    """
    return f"{floor(1000 * score) / 10}%"


def short_name(place: str) -> str:
    """A file by its folder and name.

    >>> short_name("s3://bucket/scans/7/img.png")
    '7/img.png'
    """
    return "/".join(Path(place).parts[-2:])


def _without_middle(words: str, keep: int) -> str:
    return f"{words[: (keep + 1) // 2]}...{words[len(words) - keep // 2 :]}"


def _printable(words: str) -> str:
    text = words.encode(errors="replace").decode()
    return "".join(letter if letter.isprintable() else "?" for letter in text)


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
