"""A sheet of misclassified pictures, each with the input of the net and the predictions."""

from collections.abc import Sequence

from PIL import Image, ImageDraw
from samples import Result

from nanograd.errors import UnreadableError
from nanograd.pictures.decode import decode
from nanograd.report.sheet import INK, RED, SIDE, draw_text, frame, shorten_text

_GAP, _CAPTION, _COLUMNS = 12, 20, 4
_CELL = 2 * SIDE + _GAP


def contact_sheet(results: Sequence[Result]) -> Image.Image:
    """Draw results from left to right and from top to bottom."""
    rows = max(1, -(-len(results) // _COLUMNS))
    width = _GAP + _COLUMNS * (_CELL + _GAP)
    sheet = Image.new("RGB", (width, _GAP + rows * (_CAPTION + SIDE + _GAP)), "white")
    for number, result in enumerate(results):
        row, column = divmod(number, _COLUMNS)
        left, top = _GAP + column * (_CELL + _GAP), _GAP + row * (_CAPTION + SIDE + _GAP)
        colour = INK if result.all_correct else RED
        caption = shorten_text(str(result), 12, _CELL)
        draw_text(ImageDraw.Draw(sheet), (left, top), caption, size=12, colour=colour)
        for place, panel in enumerate(_panels(result)):
            sheet.paste(panel, (left + place * (SIDE + _GAP), top + _CAPTION))
    # 64 tones are enough to see the cause, in a third of the bytes.
    return sheet.quantize(64)


def _panels(result: Result) -> list[Image.Image]:
    try:
        picture = decode(result.sample.data)
    except UnreadableError:
        return []
    picture.thumbnail((SIDE, SIDE))
    panels = [frame("", picture.convert("RGB")).image]
    if result.image is not None:
        panels.append(frame("", Image.fromarray(result.image).convert("RGB")).image)
    return panels
