"""One PNG file of several inspections: a row for each picture, its steps from left to right.

Sizes are pixels. A row has a line with the file's name, captions, panels and the scores.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from math import floor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from nanograd.errors import OutputExistsError, UnreadableError, UsageError
from nanograd.models.reference import UNFAMILIAR
from nanograd.pictures.normalise import Candidate
from nanograd.pictures.surroundings import Box
from nanograd.report.inspection import Inspection
from nanograd.runtime import storage

SOFTWARE = "nanograd inspect"

# Legible on white (contrast of 4.5 and more), except ORANGE, which fills areas.
INK, GREY, BLUE, RED = (31, 35, 40), (99, 106, 117), (29, 78, 216), (176, 32, 24)
ORANGE, LINE, PALE = (230, 126, 20), (208, 213, 221), (243, 244, 246)

# The copy in which the normaliser searches has 160 pixels: it is drawn at its own size.
SIDE = 160
NUM_PANELS = 6
SCORES_WIDTH = 190
_MARGIN, _GAP, _HEAD = 24, 14, 56
_NAME, _CAPTION, _BELOW = 32, 19, 20
_ROW = _NAME + _CAPTION + SIDE + _BELOW
_STRIDE = SIDE + _GAP
_PANELS_WIDTH = NUM_PANELS * _STRIDE - _GAP

Colour = tuple[int, int, int]
Draw = ImageDraw.ImageDraw
Pixels = NDArray[np.uint8]

load_font = cache(ImageFont.load_default)  # Pillow's own; the argument is its height


class Panel(NamedTuple):
    """The picture of one step."""

    caption: str  # text above it
    image: Image.Image  # SIDE pixels high, RGB


def check_output(place: str) -> None:
    """Refuse a name that does not end in .png, and a file that exists and is not a sheet."""
    if not place.lower().endswith(".png"):
        raise UsageError(f"--output {place}: the sheet is a PNG file, so its name ends in .png")
    if storage.exists(place) and not is_sheet(storage.read(place)):
        raise OutputExistsError(
            f"{place} exists and is not a sheet of this command; choose another --output"
        )


def is_sheet(data: bytes) -> bool:
    """Return whether a file is a sheet, which may be replaced."""
    try:
        with Image.open(BytesIO(data), formats=("PNG",)) as picture:
            return bool(picture.info.get("Software") == SOFTWARE)
    except (OSError, ValueError, SyntaxError):
        return False


def draw_sheet(inspections: Sequence[Inspection], model: str | None) -> bytes:
    """Return the bytes of a PNG file, marked as a sheet; without a model it has no scores."""
    width = 2 * _MARGIN + _PANELS_WIDTH + (_GAP + SCORES_WIDTH) * (model is not None)
    refused = sum(each.steps.refused is not None for each in inspections)
    plural = "s" * (len(inspections) != 1)
    title = f"{len(inspections)} picture{plural}, {refused} refused; model: {model or 'none'}"
    sheet = Image.new("RGB", (width, _HEAD + len(inspections) * _ROW), "white")
    title = shorten_text(title, 18, width - 2 * _MARGIN)
    draw_text(ImageDraw.Draw(sheet), (_MARGIN, 20), title, size=18)
    for number, inspection in enumerate(inspections):
        _draw_row(sheet, _HEAD + number * _ROW, inspection)
    about = PngInfo()
    about.add_text("Software", SOFTWARE)
    stream = BytesIO()
    sheet.save(stream, "PNG", pnginfo=about)
    return stream.getvalue()


def _draw_row(sheet: Image.Image, top: int, inspection: Inspection) -> None:
    draw = ImageDraw.Draw(sheet)
    right = sheet.width - _MARGIN
    draw.line((_MARGIN, top, right, top), fill=LINE)
    name = "/".join(Path(inspection.file).parts[-2:])
    draw_text(draw, (_MARGIN, top + 9), shorten_text(name, 15, right - _MARGIN - 320), size=15)
    outcome, colour = "accepted", GREY
    if refused := inspection.steps.refused:
        outcome, colour = f"refused: {refused.reason}", RED
    elif inspection.confidence is not None:
        score = format_score(inspection.confidence)
        outcome, colour = f"predicted {inspection.prediction}, score {score}", BLUE
        if (inspection.unfamiliarity or 0) > UNFAMILIAR:
            outcome, colour = f"{outcome}, unfamiliar", RED
    draw_text(draw, (right, top + 9), outcome, size=15, colour=colour, align_right=True)
    panels = draw_panels(inspection)
    _explain_gap(draw, top + _NAME + _CAPTION, refused, panels)
    if inspection.scores is not None:
        panels.append(draw_scores(inspection.scores))
    for place, panel in enumerate(panels):
        if panel:
            corner = (_MARGIN + place * _STRIDE, top + _NAME)
            draw_text(draw, corner, panel.caption, size=12, colour=GREY)
            sheet.paste(panel.image, (corner[0], corner[1] + _CAPTION))


def _explain_gap(
    draw: Draw, top: int, refused: UnreadableError | None, panels: Sequence[Panel | None]
) -> None:
    """Write in place of the missing steps why they are missing."""
    missing = [place for place, panel in enumerate(panels) if panel is None]
    if not missing:
        return
    reason, colour = "This picture has the form of MNIST already: it is used unchanged.", GREY
    if refused:
        reason, colour = str(refused), RED
    left, width = _MARGIN + missing[0] * _STRIDE, len(missing) * _STRIDE - _GAP
    draw.rectangle((left, top, left + width - 1, top + SIDE - 1), fill=PALE)
    for number, line in enumerate(wrap_text(reason, 14, width - 32)[:6]):
        draw_text(draw, (left + 16, top + 16 + 21 * number), line, size=14, colour=colour)


def draw_text(
    draw: Draw,
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
    # The font has ASCII only; accents are letters of their own in this form.
    letters = re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFKD", text))
    return re.sub("[^ -~]", "?", letters)


def format_score(score: float) -> str:
    """Format a score as a percentage, rounded down: only 1 is shown as 100 %.

    >>> [format_score(score) for score in (1.0, 0.99999, 0.0004)]
    ['100.0%', '99.9%', '0.0%']
    """
    return f"{floor(1000 * score) / 10}%"


def draw_panels(inspection: Inspection) -> list[Panel | None]:
    """Return NUM_PANELS steps in their order, from the decoded picture on; None if skipped."""
    steps, mask = inspection.steps, None
    if steps.ink is not None and steps.levels is not None:
        mask = steps.ink > steps.levels.weak
    width, height = inspection.size
    light = ", light ink" if steps.inverted else ""
    dropped = mask is not None and steps.marks is not None and bool((mask & ~steps.marks).any())
    drawn = {
        f"picture, {width} x {height}": inspection.picture
        and _outline(inspection.picture.convert("RGB"), steps.box),
        f"{_removed(steps)} removed{light}": None
        if steps.ink is None
        else _draw_ink(steps.ink, steps.lines),
        "all marks": None if mask is None else _darken(mask),
        f"marks kept{', orange: dropped' * dropped}": None
        if mask is None or steps.marks is None
        else _highlight(mask, steps.marks),
        "stroke width adjusted": None if steps.strokes is None else _darken(steps.strokes),
        "28 x 28, input of the net": None
        if steps.image is None
        else Image.fromarray(steps.image).convert("RGB"),
    }
    return [Panel(name, frame_image(image)) if image else None for name, image in drawn.items()]


def _removed(steps: Candidate) -> str:
    """Name what was removed from a picture beside its ink."""
    names = {"light": steps.light, "hue": steps.hue, "lines": steps.lines}
    return ", ".join(["paper", *(name for name, step in names.items() if step is not None)])


def _outline(image: Image.Image, box: Box | None) -> Image.Image:
    """Draw the sheet that was cut out of its surroundings."""
    if box is not None:
        edges = [round(edge * side) for edge, side in zip(box, 2 * image.size, strict=True)]
        ImageDraw.Draw(image).rectangle(edges, outline=ORANGE, width=max(1, max(image.size) // 80))
    return image


def _draw_ink(ink: NDArray[np.floating], lines: NDArray[np.floating] | None) -> Image.Image:
    """Draw the ink, and in orange the printed lines that were removed."""
    image = _darken(ink)
    if lines is not None:
        strength = np.round(255 * lines / max(float(lines.max()), 1e-3))
        image.paste(ORANGE, mask=Image.fromarray(strength.astype(np.uint8)))
    return image


def _darken(share: NDArray[np.floating] | NDArray[np.bool_]) -> Image.Image:
    """Draw ink, a share of 0 to 1, as black on white."""
    grey: Pixels = np.round(255 * (1 - share.astype(np.float32))).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _highlight(mask: NDArray[np.bool_], marks: NDArray[np.bool_]) -> Image.Image:
    pixels = np.full((*mask.shape, 3), 255, np.uint8)
    pixels[mask] = ORANGE
    pixels[marks] = INK
    return Image.fromarray(pixels)


def frame_image(image: Image.Image) -> Image.Image:
    """Centre a picture in a panel, uncropped; small ones are enlarged by a whole factor."""
    panel = Image.new("RGB", (SIDE, SIDE), PALE)
    factor = (SIDE - 2) / max(image.size)
    if factor >= 2:
        size = (image.width * int(factor), image.height * int(factor))
        image = image.resize(size, Image.Resampling.NEAREST)
    elif factor != 1:
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    panel.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    ImageDraw.Draw(panel).rectangle((0, 0, SIDE - 1, SIDE - 1), outline=LINE)
    return panel


def draw_scores(scores: NDArray[np.float32]) -> Panel:
    """Draw (10,) scores of 0 to 1 as bars, the best one in colour, SCORES_WIDTH x SIDE."""
    image = Image.new("RGB", (SCORES_WIDTH, SIDE), "white")
    draw = ImageDraw.Draw(image)
    height, left, right = SIDE // 10, 18, SCORES_WIDTH - 46
    for digit, score in enumerate(scores.tolist()):
        top, best = digit * height, digit == int(scores.argmax())
        ink = INK if best else GREY
        draw_text(draw, (4, top + 1), str(digit), size=12, colour=ink)
        draw.rectangle((left, top + 3, right, top + height - 3), fill=PALE)
        if length := round(score * (right - left)):
            bar = (left, top + 3, left + length, top + height - 3)
            draw.rectangle(bar, fill=BLUE if best else GREY)
        draw_text(draw, (right + 6, top + 1), format_score(score), size=12, colour=ink)
    return Panel("scores", image)
