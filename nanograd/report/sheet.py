"""One PNG file of several inspections: a row for each picture, its steps from left to right.

Sizes are pixels. A row has a line with the file's name, captions, panels and the probabilities.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from math import floor
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from nanograd.errors import OutputExistsError, UsageError
from nanograd.models.reference import UNFAMILIAR
from nanograd.report.inspection import Inspection
from nanograd.runtime import storage
from nanograd.runtime.arrays import Floats, Mask

SOFTWARE = "nanograd inspect"

# Legible on white (contrast of 4.5 and more), except ORANGE, which fills areas.
INK, GREY, BLUE, RED = (31, 35, 40), (99, 106, 117), (29, 78, 216), (176, 32, 24)
ORANGE, LINE, PALE = (230, 126, 20), (208, 213, 221), (243, 244, 246)

# The copy in which the normaliser searches has 160 pixels: it is drawn at its own size.
SIDE = 160
NUM_PANELS = 6
PROBABILITIES_WIDTH = 190
MARGIN, HEAD = 24, 56
_GAP = 14
NAME, CAPTION, _BELOW = 32, 19, 20
_ROW = NAME + CAPTION + SIDE + _BELOW
_STRIDE = SIDE + _GAP
_PANELS_WIDTH = NUM_PANELS * _STRIDE - _GAP

Colour: TypeAlias = tuple[int, int, int]
Shares: TypeAlias = Floats | Mask

load_font = cache(ImageFont.load_default)  # Pillow's own; the argument is its height


class Panel(NamedTuple):
    """The picture of one step."""

    caption: str  # text above it
    image: Image.Image  # SIDE pixels high, RGB


def check_output(file: str) -> None:
    """Check that a sheet may be written to a file.

    Raises:
        UsageError: the name does not end in .png.
        OutputExistsError: the file exists and is not a sheet.
        StorageError: the file cannot be read.
    """
    if not file.lower().endswith(".png"):
        raise UsageError(f"--output {file}: the sheet is a PNG file, so its name ends in .png")
    if not storage.exists(file):
        return
    try:
        with Image.open(BytesIO(storage.read(file)), formats=("PNG",)) as picture:
            is_sheet = picture.info.get("Software") == SOFTWARE
    except (OSError, ValueError, SyntaxError):
        is_sheet = False
    if not is_sheet:
        raise OutputExistsError(
            f"{file} exists and is not a sheet of this command; choose another --output"
        )


def draw_sheet(inspections: Sequence[Inspection], model: str | None) -> bytes:
    """Return a PNG file, marked as a sheet; without a model it has no probabilities."""
    width = 2 * MARGIN + _PANELS_WIDTH + (_GAP + PROBABILITIES_WIDTH) * (model is not None)
    sheet = Image.new("RGB", (width, HEAD + len(inspections) * _ROW), "white")
    refused = sum(each.steps.refused is not None for each in inspections)
    plural = "s" * (len(inspections) != 1)
    title = f"{len(inspections)} picture{plural}, {refused} refused; model: {model or 'none'}"
    title = shorten_text(title, 18, width - 2 * MARGIN)
    draw_text(ImageDraw.Draw(sheet), (MARGIN, 20), title, size=18)
    for number, inspection in enumerate(inspections):
        _draw_row(sheet, HEAD + number * _ROW, inspection)
    about = PngInfo()
    about.add_text("Software", SOFTWARE)
    stream = BytesIO()
    sheet.save(stream, "PNG", pnginfo=about)
    return stream.getvalue()


def _draw_row(sheet: Image.Image, top: int, inspection: Inspection) -> None:
    draw, right, refused = ImageDraw.Draw(sheet), sheet.width - MARGIN, inspection.steps.refused
    draw.line((MARGIN, top, right, top), fill=LINE)
    name = "/".join(Path(inspection.file).parts[-2:])
    draw_text(draw, (MARGIN, top + 9), shorten_text(name, 15, right - MARGIN - 320), size=15)
    outcome, colour = "accepted", GREY
    if refused:
        outcome, colour = f"refused: {refused.reason}", RED
    elif inspection.confidence is not None:
        confidence = format_share(inspection.confidence)
        outcome, colour = f"predicted {inspection.prediction}, confidence {confidence}", BLUE
        if (inspection.unfamiliarity or 0) > UNFAMILIAR:
            outcome, colour = f"{outcome}, unfamiliar", RED
    draw_text(draw, (right, top + 9), outcome, size=15, colour=colour, align_right=True)

    panels, top = draw_panels(inspection), top + NAME
    if missing := [number for number, panel in enumerate(panels) if panel is None]:
        reason, colour = "This picture has the form of MNIST already: it is used unchanged.", GREY
        if refused:
            reason, colour = str(refused), RED
        left, width = MARGIN + missing[0] * _STRIDE, len(missing) * _STRIDE - _GAP
        box = (left, top + CAPTION, left + width - 1, top + CAPTION + SIDE - 1)
        draw.rectangle(box, fill=PALE)
        for number, line in enumerate(wrap_text(reason, 14, width - 32)[:6]):
            corner = (left + 16, top + CAPTION + 16 + 21 * number)
            draw_text(draw, corner, line, size=14, colour=colour)
    if inspection.probabilities is not None:
        panels.append(draw_probabilities(inspection.probabilities))
    for number, panel in enumerate(panels):
        if panel:
            left = MARGIN + number * _STRIDE
            draw_text(draw, (left, top), panel.caption, size=12, colour=GREY)
            sheet.paste(panel.image, (left, top + CAPTION))


def draw_text(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    text: str,
    *,
    size: int,
    colour: Colour = INK,
    align_right: bool = False,
) -> None:
    """Draw text with its upper left or upper right corner at a point."""
    anchor = "ra" if align_right else "la"
    draw.text(corner, _printable(text), fill=colour, font=load_font(size), anchor=anchor)


def wrap_text(text: str, size: int, width: int) -> list[str]:
    """Split text into lines of at most `width` pixels, shortening words that are wider."""
    lines = [""]
    for word in _printable(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and load_font(size).getlength(longer) > width:
            lines.append(shorten_text(word, size, width))
        else:
            lines[-1] = shorten_text(longer, size, width)
    return lines


def shorten_text(text: str, size: int, width: int) -> str:
    """Replace the middle of text by dots until it is at most `width` pixels wide."""
    text = shortened = _printable(text)
    num_kept = len(text) - 1
    while load_font(size).getlength(shortened) > width and num_kept >= 2:
        shortened = f"{text[: (num_kept + 1) // 2]}...{text[len(text) - num_kept // 2 :]}"
        num_kept -= 1
    return shortened


def _printable(text: str) -> str:
    """Replace what the font cannot draw: accented letters by their letters, others by "?".

    >>> _printable("höher 七")
    'hoher ?'
    """
    # The font has ASCII only. NFKD separates a letter from its accent.
    letters = re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFKD", text))
    return re.sub("[^ -~]", "?", letters)


def format_share(share: float) -> str:
    """Format a share as a percentage, rounded down: only 1 is shown as 100 %.

    >>> [format_share(share) for share in (1.0, 0.99999, 0.0004)]
    ['100.0%', '99.9%', '0.0%']
    """
    return f"{floor(1000 * share) / 10}%"


def draw_panels(inspection: Inspection) -> list[Panel | None]:
    """Return NUM_PANELS steps in order, from the decoded picture on; None for a skipped step."""
    steps, panels = inspection.steps, list[Panel | None]([None] * NUM_PANELS)
    if inspection.picture:
        image = inspection.picture.convert("RGB")
        if steps.box is not None:  # the sheet of paper in its surroundings
            sides = zip(steps.box, 2 * image.size, strict=True)
            edges, width = [round(share * side) for share, side in sides], max(image.size) // 80
            ImageDraw.Draw(image).rectangle(edges, outline=ORANGE, width=max(1, width))
        panels[0] = frame("picture, {} x {}".format(*inspection.size), image)
    if steps.ink is not None:
        names = [name for name in ("light", "hue", "lines") if getattr(steps, name) is not None]
        caption = f"{', '.join(['paper', *names])} removed{', light ink' * bool(steps.inverted)}"
        lines = None if steps.lines is None else steps.lines / max(float(steps.lines.max()), 1e-3)
        panels[1] = frame(caption, _paint(steps.ink, lines))
    if steps.ink is not None and steps.levels is not None:
        mask = steps.ink > steps.levels.weak
        panels[2] = frame("all marks", _paint(mask))
        if steps.marks is not None:
            dropped = mask & ~steps.marks
            caption = f"marks kept{', orange: dropped' * bool(dropped.any())}"
            panels[3] = frame(caption, _paint(steps.marks, dropped))
    if steps.strokes is not None:
        panels[4] = frame("stroke width adjusted", _paint(steps.strokes))
    if steps.image is not None:
        panels[5] = frame("28 x 28, input of the net", Image.fromarray(steps.image).convert("RGB"))
    return panels


def _paint(ink: Shares, orange: Shares | None = None) -> Image.Image:
    """Draw shares of 0 to 1: ink as black on white, and something else in orange."""
    grey = np.round(255 * (1 - ink.astype(np.float32))).astype(np.uint8)
    image = Image.fromarray(grey).convert("RGB")
    if orange is not None:
        image.paste(ORANGE, mask=Image.fromarray(np.round(255 * orange).astype(np.uint8)))
    return image


def frame(caption: str, image: Image.Image) -> Panel:
    """Centre a picture in a panel, uncropped; small ones are enlarged by a whole factor."""
    factor, method = (SIDE - 2) / max(image.size), Image.Resampling.LANCZOS
    if factor >= 2:
        factor, method = int(factor), Image.Resampling.NEAREST
    image = image.resize([max(1, round(factor * side)) for side in image.size], method)
    panel = Image.new("RGB", (SIDE, SIDE), PALE)
    panel.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    ImageDraw.Draw(panel).rectangle((0, 0, SIDE - 1, SIDE - 1), outline=LINE)
    return Panel(caption, panel)


def draw_probabilities(probabilities: Floats) -> Panel:
    """Draw (10,) probabilities as bars, the best one in colour, PROBABILITIES_WIDTH x SIDE."""
    image = Image.new("RGB", (PROBABILITIES_WIDTH, SIDE), "white")
    draw = ImageDraw.Draw(image)
    height, left, right = SIDE // 10, 18, PROBABILITIES_WIDTH - 46
    for digit, share in enumerate(probabilities.tolist()):
        top, best = digit * height, digit == int(probabilities.argmax())
        ink = INK if best else GREY
        draw_text(draw, (4, top + 1), str(digit), size=12, colour=ink)
        draw.rectangle((left, top + 3, right, top + height - 3), fill=PALE)
        if length := round(share * (right - left)):
            bar = (left, top + 3, left + length, top + height - 3)
            draw.rectangle(bar, fill=BLUE if best else GREY)
        draw_text(draw, (right + 6, top + 1), format_share(share), size=12, colour=ink)
    return Panel("probabilities", image)
