"""One PNG of any number of pictures: a row each, every step beside the one before.

Sizes are pixels. A row is a line with the file's name, captions, panels, and what the net says.
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
    Colour,
    Panel,
    panels,
    percent,
    score_bars,
    short_name,
    shortened,
    wrapped,
    write,
)
from nanograd.runtime import storage

SOFTWARE = "nanograd inspect"

_MARGIN, _GAP, _HEAD = 24, 14, 56
_NAME, _CAPTION, _BELOW = 32, 19, 20
_ROW = _NAME + _CAPTION + SIDE + _BELOW
_STRIDE = SIDE + _GAP
_PANELS_WIDTH = NUM_PANELS * _STRIDE - _GAP


def check_output(place: str) -> None:
    """Refuse to write over anything but a sheet.

    Raises:
        UsageError: the name does not end in .png.
        OutputExistsError: something else is there.
    """
    if not place.lower().endswith(".png"):
        raise UsageError(f"--output {place}: the sheet is a PNG file, so its name ends in .png")
    if storage.exists(place) and not is_sheet(storage.read(place)):
        raise OutputExistsError(
            f"{place} is there already and is no sheet of this command; choose another --output"
        )


def draw(inspections: Sequence[Inspection], model: str | None) -> bytes:
    """The sheet as the bytes of a PNG file that says who drew it.

    Args:
        inspections: from top to bottom.
        model: where the net is from that was asked; None leaves out the column of its scores.
    """
    width = 2 * _MARGIN + _PANELS_WIDTH + (_GAP + SCORES_WIDTH) * (model is not None)
    refused = sum(each.refused is not None for each in inspections)
    plural = "s" * (len(inspections) != 1)
    title = f"{len(inspections)} picture{plural}, {refused} refused"
    title += f"; the net is {model}" if model else "; no net was asked"
    sheet = Image.new("RGB", (width, _HEAD + len(inspections) * _ROW), "white")
    write(ImageDraw.Draw(sheet), (_MARGIN, 20), shortened(title, 18, width - 2 * _MARGIN), size=18)
    for number, inspection in enumerate(inspections):
        _draw_row(sheet, _HEAD + number * _ROW, inspection)
    about = PngInfo()
    about.add_text("Software", SOFTWARE)
    stream = BytesIO()
    sheet.save(stream, "PNG", pnginfo=about)
    return stream.getvalue()


def is_sheet(data: bytes) -> bool:
    """Whether a file is a sheet that was drawn here and may be drawn anew."""
    try:
        with Image.open(BytesIO(data), formats=("PNG",)) as picture:
            return bool(picture.info.get("Software") == SOFTWARE)
    except (OSError, ValueError, SyntaxError):
        return False


def _draw_row(sheet: Image.Image, top: int, inspection: Inspection) -> None:
    draw = ImageDraw.Draw(sheet)
    right = sheet.width - _MARGIN
    draw.line((_MARGIN, top, right, top), fill=LINE)
    verdict, colour = _verdict(inspection)
    name = shortened(short_name(inspection.file), 15, right - _MARGIN - 320)
    write(draw, (_MARGIN, top + 9), name, size=15)
    write(draw, (right, top + 9), verdict, size=15, colour=colour, to_the_left=True)
    shown = panels(inspection)
    for place, panel in enumerate(shown):
        if panel:
            _draw_panel(sheet, _MARGIN + place * _STRIDE, top + _NAME, panel)
    _explain_gap(draw, top + _NAME + _CAPTION, inspection, shown)
    if inspection.scores is not None:
        left = _MARGIN + NUM_PANELS * _STRIDE
        bars = Panel("what the net says", score_bars(inspection.scores))
        _draw_panel(sheet, left, top + _NAME, bars)


def _draw_panel(sheet: Image.Image, left: int, top: int, panel: Panel) -> None:
    write(ImageDraw.Draw(sheet), (left, top), panel.caption, size=12, colour=GREY)
    sheet.paste(panel.image, (left, top + _CAPTION))


def _verdict(inspection: Inspection) -> tuple[str, Colour]:
    if inspection.refused:
        return f"refused: {inspection.refused.reason}", RED
    if inspection.confidence is None:
        return "readable", GREY
    return f"reads {inspection.prediction}, score {percent(inspection.confidence)}", BLUE


def _explain_gap(
    draw: ImageDraw.ImageDraw, top: int, inspection: Inspection, shown: Sequence[Panel | None]
) -> None:
    """Say where steps are missing why they are."""
    missing = [place for place, panel in enumerate(shown) if panel is None]
    if not missing:
        return
    words = "This picture has the form of MNIST already: it is passed on unchanged."
    if inspection.refused:
        words = f"{inspection.refused.reason}: {inspection.refused.detail}"
    left, width = _MARGIN + missing[0] * _STRIDE, len(missing) * _STRIDE - _GAP
    draw.rectangle((left, top, left + width - 1, top + SIDE - 1), fill=PALE)
    colour = RED if inspection.refused else GREY
    for number, line in enumerate(wrapped(words, 14, width - 32)[:6]):
        write(draw, (left + 16, top + 16 + 21 * number), line, size=14, colour=colour)
