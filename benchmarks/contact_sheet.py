"""Misread pictures on one sheet: each as it was, what the net saw of it, what was said."""

from collections.abc import Sequence

from PIL import Image, ImageDraw
from samples import Reading

from nanograd.errors import UnreadableError
from nanograd.pictures.decode import decode
from nanograd.report.panels import INK, RED, SIDE, draw_text, frame_image, shorten_text

_GAP, _CAPTION, _COLUMNS = 12, 20, 4
_CELL = 2 * SIDE + _GAP


def contact_sheet(readings: Sequence[Reading]) -> Image.Image:
    """Readings from left to right and from top to bottom."""
    rows = max(1, -(-len(readings) // _COLUMNS))
    width = _GAP + _COLUMNS * (_CELL + _GAP)
    sheet = Image.new("RGB", (width, _GAP + rows * (_CAPTION + SIDE + _GAP)), "white")
    for number, reading in enumerate(readings):
        row, column = divmod(number, _COLUMNS)
        left, top = _GAP + column * (_CELL + _GAP), _GAP + row * (_CAPTION + SIDE + _GAP)
        colour = INK if reading.all_right else RED
        words = shorten_text(str(reading), 12, _CELL)
        draw_text(ImageDraw.Draw(sheet), (left, top), words, size=12, colour=colour)
        for place, panel in enumerate(_panels(reading)):
            sheet.paste(panel, (left + place * (SIDE + _GAP), top + _CAPTION))
    # 64 tones are enough to see what is wrong, and a third of the bytes.
    return sheet.quantize(64)


def _panels(reading: Reading) -> list[Image.Image]:
    try:
        picture = decode(reading.sample.data)
    except UnreadableError:
        return []
    picture.thumbnail((SIDE, SIDE))
    shown = [frame_image(picture.convert("RGB"))]
    if reading.image is not None:
        shown.append(frame_image(Image.fromarray(reading.image).convert("RGB")))
    return shown
