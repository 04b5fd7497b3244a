"""One PNG file of several inspections: a row for each picture, its steps from left to right.

Sizes are pixels. A row has a line with the file's name, captions, panels and the scores.
"""

from collections.abc import Sequence
from io import BytesIO

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from nanograd.errors import OutputExistsError, UsageError
from nanograd.report.inspection import Inspection
from nanograd.report.panels import (
    BLUE,
    GREY,
    LINE,
    NUM_PANELS,
    PALE,
    RED,
    SCORES_WIDTH,
    SIDE,
    Panel,
    draw_panels,
    draw_scores,
    draw_text,
    format_score,
    short_path,
    shorten_text,
    wrap_text,
)
from nanograd.runtime import storage

SOFTWARE = "nanograd inspect"

_MARGIN, _GAP, _HEAD = 24, 14, 56
_NAME, _CAPTION, _BELOW = 32, 19, 20
_ROW = _NAME + _CAPTION + SIDE + _BELOW
_STRIDE = SIDE + _GAP
_PANELS_WIDTH = NUM_PANELS * _STRIDE - _GAP


def check_output(place: str) -> None:
    """Refuse to overwrite anything but a sheet.

    Raises:
        UsageError: the name does not end in .png.
        OutputExistsError: the file exists and is not a sheet.
    """
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
    """Return the bytes of a PNG file, marked as a sheet.

    Args:
        inspections: from top to bottom.
        model: path of the model that computed the scores; None omits their column.
    """
    width = 2 * _MARGIN + _PANELS_WIDTH + (_GAP + SCORES_WIDTH) * (model is not None)
    refused = sum(each.refused is not None for each in inspections)
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
    name = shorten_text(short_path(inspection.file), 15, right - _MARGIN - 320)
    draw_text(draw, (_MARGIN, top + 9), name, size=15)
    outcome, colour = "accepted", GREY
    if inspection.refused:
        outcome, colour = f"refused: {inspection.refused.reason}", RED
    elif inspection.confidence is not None:
        score = format_score(inspection.confidence)
        outcome, colour = f"predicted {inspection.prediction}, score {score}", BLUE
    draw_text(draw, (right, top + 9), outcome, size=15, colour=colour, align_right=True)
    panels = draw_panels(inspection)
    _explain_gap(draw, top + _NAME + _CAPTION, inspection, panels)
    if inspection.scores is not None:
        panels.append(draw_scores(inspection.scores))
    for place, panel in enumerate(panels):
        if panel:
            corner = (_MARGIN + place * _STRIDE, top + _NAME)
            draw_text(draw, corner, panel.caption, size=12, colour=GREY)
            sheet.paste(panel.image, (corner[0], corner[1] + _CAPTION))


def _explain_gap(
    draw: ImageDraw.ImageDraw, top: int, inspection: Inspection, panels: Sequence[Panel | None]
) -> None:
    """Write in place of the missing steps why they are missing."""
    missing = [place for place, panel in enumerate(panels) if panel is None]
    if not missing:
        return
    reason, colour = "This picture has the form of MNIST already: it is used unchanged.", GREY
    if inspection.refused:
        reason, colour = f"{inspection.refused.reason}: {inspection.refused.detail}", RED
    left, width = _MARGIN + missing[0] * _STRIDE, len(missing) * _STRIDE - _GAP
    draw.rectangle((left, top, left + width - 1, top + SIDE - 1), fill=PALE)
    for number, line in enumerate(wrap_text(reason, 14, width - 32)[:6]):
        draw_text(draw, (left + 16, top + 16 + 21 * number), line, size=14, colour=colour)
