"""Sheets: PNG files that show the steps from a picture to its probabilities.

A sheet has a row for each picture: the file's name, captions, the steps from left to right, and the
probabilities. For lines of digits, the picture with a box around each digit takes the place of the
steps and probabilities. Sizes are in pixels.
"""

import re
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from math import floor
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from nanograd.digits.form import encode_png
from nanograd.errors import DataError, OutputExistsError, UnreadableError, UsageError
from nanograd.images.columns import ImageKind, find_image_column
from nanograd.images.inputs import Origin, expand, is_table
from nanograd.images.parquet import RowRange, open_parquet
from nanograd.images.reader import Content, read_pictures, read_rows
from nanograd.images.rows import without_bytes
from nanograd.images.writers import SOURCE
from nanograd.models.model import Model
from nanograd.models.reference import UNFAMILIAR
from nanograd.numbers.recognise import Number, read_numbers
from nanograd.pictures import normalise
from nanograd.pictures.normalise import Candidate
from nanograd.runtime import storage
from nanograd.runtime.arrays import Floats, Mask
from nanograd.runtime.events import count
from nanograd.runtime.json_files import JsonObject
from nanograd.settings.specs import InspectSpec

# Longest side of the kept pictures, and of pictures of numbers; a hundred photos of full size would
# fill the memory.
_SMALL_SIDE, _NUMBERS_SIDE = 320, 1000
SOFTWARE = "nanograd inspect"

# Legible on white (contrast of 4.5 and more), except ORANGE, which fills areas.
INK, GREY, BLUE, RED = (31, 35, 40), (99, 106, 117), (29, 78, 216), (176, 32, 24)
ORANGE, LINE, PALE = (230, 126, 20), (208, 213, 221), (243, 244, 246)

# The normaliser searches in a copy of 160 pixels, which is drawn at this size.
SIDE, NUM_PANELS, PROBABILITIES_WIDTH = 160, 6, 190
# A digit of a line is drawn in red if its confidence is lower.
_SURE = 0.9
MARGIN, HEAD, NAME, CAPTION, _GAP = 24, 56, 32, 19, 14
_ROW, _STRIDE = NAME + CAPTION + SIDE + 20, SIDE + _GAP

Colour: TypeAlias = tuple[int, int, int]
load_font = cache(ImageFont.load_default)  # Pillow's own font; the argument is its height


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """One picture, step by step."""

    file: str = ""  # path or URI
    steps: Candidate = field(
        default_factory=Candidate
    )  # results of the normaliser's steps, or why it refused
    # The decoded picture, reduced to _SMALL_SIDE; None if decoding failed.
    picture: Image.Image | None = None
    size: tuple[int, int] = (0, 0)  # width and height as decoded
    # The rest is None if the picture was refused.
    probabilities: Floats | None = None  # (10,)
    unfamiliarity: float | None = None  # 0 to 1
    numbers: Sequence[Number] | None = None  # lines of digits; None if one digit was looked for

    @property
    def prediction(self) -> int | None:
        """The most probable digit."""
        return None if self.probabilities is None else int(self.probabilities.argmax())

    @property
    def confidence(self) -> float | None:
        """The probability of the prediction."""
        return None if self.probabilities is None else float(self.probabilities.max())

    def to_json(self) -> JsonObject:
        """Return the outcome, for the result line."""
        refused, names = self.steps.refused, ("prediction", "confidence", "unfamiliarity")
        return {
            "file": self.file,
            **{name: getattr(self, name) for name in names},
            "numbers": self.numbers
            and [{"text": line.text, "confidence": line.confidence} for line in self.numbers],
            "reason": refused and refused.reason,
            "detail": refused and refused.detail,
        }


def find_pictures(
    inputs: Sequence[str], spec: InspectSpec, output: str
) -> tuple[dict[str, Content], int]:
    """Find up to `spec.limit` picture files, or rows of Parquet files that hold pictures.

    Returns:
        The name of each picture with its bytes, or with None if the picture is a file; and the
        number of pictures in all inputs, without the file `output` if it is among them.

    Raises:
        DataError: an input does not exist or has no pictures.
        UsageError: an image column is named, and no input is a table.
    """
    places = map(storage.absolute, inputs)
    tables = [each for each in places if storage.is_file(each) and is_table(each)]
    if not tables:
        spec.refuse(("image_column",), ": no Parquet file is named; leave it out")
    others = [each for each in inputs if storage.absolute(each) not in tables]
    found: dict[str, Content] = {}
    total = 0
    for table in tables:
        total += _read_rows(table, spec.image_column, max(spec.limit - len(found), 0), found)
    if others or not tables:
        hint = "check the path, or name a .parquet file whose rows hold pictures"
        files = [each.place for each in expand(others, hint=hint) if each.place != output]
        found |= dict.fromkeys(files[: spec.limit - len(found)])
        total += len(files)
    return found, total


def _read_rows(file: str, named: str | None, limit: int, found: dict[str, Content]) -> int:
    """Add the pictures of a Parquet file's first rows; return the number of all its rows."""
    try:
        with open_parquet(file) as parquet:
            schema, num_rows = parquet.schema_arrow, parquet.metadata.num_rows
            groups = parquet.metadata.num_row_groups
        column = find_image_column(schema, named)
        if column.kind != ImageKind.ENCODED:
            raise DataError(f"column {column.names[0]!r} holds no picture files")
        own = [name for name in SOURCE.names if SOURCE.field(name) in list(schema)]
        wanted = [n for n in schema.names if n in {*column.names, *own}]
        first = RowRange((0, groups), 0, 0, min(limit, num_rows))
        batches = list(read_rows(file, first, lambda _: wanted))
    except DataError as error:
        raise DataError(
            f"{file}: {error}; inspect takes pictures, and rows with pictures as in _review.pq"
        ) from error
    rows = (row for each in batches if isinstance(each, pa.RecordBatch) for row in each.to_pylist())
    for number, row in enumerate(rows):
        image = row[column.names[0]]
        if not isinstance(image, dict):
            image = {"path" if isinstance(image, str) else "bytes": image}
        path = str(image.get("path") or file)
        origin: dict[str, Any] = {"path": path, "source_file": file, "source_row": number}
        origin |= {name: row[name] for name in own if row[name] is not None}
        name = Origin(**origin).place
        if name in found:  # pictures of other folders may have the same path
            name = f"{file}, row {number:,}"
        data = image.get("bytes")
        found[name] = without_bytes(image.get("path")) if data is None else data
    return int(num_rows)


def inspect_pictures(
    files: Mapping[str, Content], spec: InspectSpec, model: Model
) -> list[Inspection]:
    """Decode, normalise and classify the pictures that `find_pictures` found; return each step.

    Raises:
        StorageError: the storage fails, not only a single file.
    """
    side = _SMALL_SIDE if spec.digits == "one" else _NUMBERS_SIDE

    def inspect(picture: Image.Image) -> Inspection:
        small = picture.copy()
        small.thumbnail((side, side))
        drawn = partial(Inspection, picture=small, size=picture.size)
        if spec.digits == "many":
            try:
                return drawn(numbers=read_numbers(picture, model, spec.polarity))
            except UnreadableError as error:
                return drawn(steps=Candidate(refused=error))
        steps = normalise.trace(picture, polarity=spec.polarity)
        if steps.image is None:
            return drawn(steps=steps)
        [[row], [unfamiliarity]] = model.assess(steps.image.reshape(1, -1))
        return drawn(steps=steps, probabilities=row, unfamiliarity=float(unfamiliarity))

    pictures = read_pictures(files.items(), inspect, spec, whole=spec.digits == "many")
    return [
        Inspection(file=file, steps=Candidate(refused=found))
        if isinstance(found, UnreadableError)
        else replace(found, file=file)
        for file, (_, found) in zip(files, pictures, strict=True)
    ]


class Panel(NamedTuple):
    """The picture of one step."""

    caption: str  # text above it
    image: Image.Image  # SIDE pixels high, RGB


def check_output(file: str) -> None:
    """Check that a sheet may be written to a file.

    Raises:
        UsageError: the name does not end in .png.
        OutputExistsError: the file exists and is not a sheet, or it cannot exist.
    """
    if not file.lower().endswith(".png"):
        raise UsageError(f"--output {file}: the sheet is a PNG file, so its name ends in .png")
    storage.refuse_file(file.rpartition("/")[0])
    mark = b"tEXtSoftware\0" + SOFTWARE.encode()  # `draw_sheet` writes it at the beginning
    is_sheet = storage.is_file(file) and mark in storage.read(file, 100)
    if storage.exists(file) and not is_sheet:
        raise OutputExistsError(
            f"{file} exists and is not a sheet of this command; choose another --output"
        )


def draw_sheet(inspections: Sequence[Inspection], model: str) -> bytes:
    """Return a PNG file that is marked as a sheet; `model` is the model's name for the title."""
    width = NUM_PANELS * _STRIDE + PROBABILITIES_WIDTH
    heights = [
        _ROW
        if each.numbers is None or each.picture is None
        else NAME + CAPTION * len(each.numbers) + each.picture.height + 20
        for each in inspections
    ]
    size = (width + 2 * MARGIN, HEAD + sum(heights))
    sheet = Image.new("RGB", size, "white")
    refused = sum(each.steps.refused is not None for each in inspections)
    title = f"{count(len(inspections), 'picture')}, {refused} refused; model: {model}"
    draw_text(ImageDraw.Draw(sheet), (MARGIN, 20), shorten_text(title, 18, width), size=18)
    top = HEAD
    for inspection, height in zip(inspections, heights, strict=True):
        draw, right = ImageDraw.Draw(sheet), sheet.width - MARGIN
        draw.line((MARGIN, top, right, top), fill=LINE)
        name = "/".join(Path(inspection.file).parts[-2:])
        draw_text(draw, (MARGIN, top + 9), shorten_text(name, 15, right - MARGIN - 320), size=15)
        draw_row = _draw_row if inspection.numbers is None else _draw_numbers
        draw_row(sheet, top, inspection)
        top += height
    about = PngInfo()
    about.add_text("Software", SOFTWARE)
    return encode_png(sheet, pnginfo=about)


def _draw_row(sheet: Image.Image, top: int, inspection: Inspection) -> None:
    draw, right, refused = ImageDraw.Draw(sheet), sheet.width - MARGIN, inspection.steps.refused
    outcome, colour = "accepted", GREY
    reason = "This picture has the form of MNIST already: it is used unchanged."
    if refused:
        outcome, reason, colour = f"refused: {refused.reason}", str(refused), RED
    if inspection.confidence is not None:
        confidence = format_share(inspection.confidence)
        outcome, colour = f"predicted {inspection.prediction}, confidence {confidence}", BLUE
        if (inspection.unfamiliarity or 0) > UNFAMILIAR:
            outcome, colour = f"{outcome}, unfamiliar", RED
    draw_text(draw, (right, top + 9), outcome, size=15, colour=colour, anchor="ra")

    panels, top = draw_panels(inspection), top + NAME
    if missing := [number for number, panel in enumerate(panels) if panel is None]:
        left, width = MARGIN + missing[0] * _STRIDE, len(missing) * _STRIDE - _GAP
        box = (left, top + CAPTION, left + width - 1, top + CAPTION + SIDE - 1)
        draw.rectangle(box, fill=PALE)
        # A wide letter of 14 pixels has 0.55 of them.
        lines = textwrap.wrap(_printable(reason), int((width - 32) / (0.55 * 14)))
        for number, line in enumerate(lines[:6]):
            corner = (left + 16, top + CAPTION + 16 + 21 * number)
            text = shorten_text(line, 14, width - 32)
            draw_text(draw, corner, text, size=14, colour=RED if refused else GREY)
    if inspection.probabilities is not None:
        panels.append(draw_probabilities(inspection.probabilities))
    for number, panel in enumerate(panels):
        if panel:
            left = MARGIN + number * _STRIDE
            draw_text(draw, (left, top), panel.caption, size=12, colour=GREY)
            sheet.paste(panel.image, (left, top + CAPTION))


def _draw_numbers(sheet: Image.Image, top: int, inspection: Inspection) -> None:
    """Draw a picture with a box around each digit, and the text of each line above it."""
    draw, right = ImageDraw.Draw(sheet), sheet.width - MARGIN
    picture, numbers = inspection.picture, inspection.numbers
    if picture is None or numbers is None:
        raise ValueError("the inspection has no numbers")
    top += NAME
    for number in numbers:
        text = f"{number.text}, confidence {format_share(number.confidence)}"
        draw_text(draw, (MARGIN, top), shorten_text(text, 14, right - MARGIN), size=14, colour=BLUE)
        top += CAPTION
    image = picture.convert("RGB")
    scale, pen = image.width / inspection.size[0], ImageDraw.Draw(image)

    def outline(box: tuple[int, ...], colour: Colour, text: str) -> None:
        left, upper, *others = (round(scale * side) for side in box)
        pen.rectangle((left, upper, *others), outline=colour)
        draw_text(pen, (left, max(upper - 15, 0)), text, size=13, colour=colour)

    for number in numbers:
        for box in number.left_out:
            outline(box, ORANGE, "")
        for digit in number.digits:
            is_sure = digit.confidence > _SURE and digit.unfamiliarity <= UNFAMILIAR
            outline(digit.box, BLUE if is_sure else RED, str(digit.digit))
    sheet.paste(image, (MARGIN, top))


def draw_text(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    text: str,
    *,
    size: int,
    colour: Colour = INK,
    anchor: str = "la",
) -> None:
    """Draw text with its upper left corner, or what Pillow's `anchor` names, at `corner`."""
    draw.text(corner, _printable(text), fill=colour, font=load_font(size), anchor=anchor)


def shorten_text(text: str, size: int, width: int) -> str:
    """Replace the middle of text by dots until it is at most `width` pixels wide."""
    text = shortened = _printable(text)
    for num_kept in range(len(text) - 1, 1, -1):
        if load_font(size).getlength(shortened) <= width:
            break
        shortened = f"{text[: (num_kept + 1) // 2]}...{text[len(text) - num_kept // 2 :]}"
    return shortened


def _printable(text: str) -> str:
    """Remove accents from letters, and replace other characters that the font lacks by "?".

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
    """Return a panel for each of the NUM_PANELS steps in order; None for a skipped step."""
    steps, panels = inspection.steps, list[Panel | None]([None] * NUM_PANELS)
    if inspection.picture:
        image = inspection.picture.convert("RGB")
        if steps.box is not None:  # mark the sheet of paper in its surroundings
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


def _paint(ink: Floats | Mask, orange: Floats | Mask | None = None) -> Image.Image:
    """Draw two arrays of shares from 0 to 1: `ink` as black on white, and `orange` in orange."""
    grey = np.round(255 * (1 - ink.astype(np.float32))).astype(np.uint8)
    image = Image.fromarray(grey).convert("RGB")
    if orange is not None:
        image.paste(ORANGE, mask=Image.fromarray(np.round(255 * orange).astype(np.uint8)))
    return image


def frame(caption: str, image: Image.Image) -> Panel:
    """Fit a whole picture into a panel, centred; enlarge a small picture by a whole factor."""
    factor, method = (SIDE - 2) / max(image.size), Image.Resampling.LANCZOS
    if factor >= 2:
        factor, method = int(factor), Image.Resampling.NEAREST
    image = image.resize([max(1, round(factor * side)) for side in image.size], method)
    panel = Image.new("RGB", (SIDE, SIDE), PALE)
    panel.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    ImageDraw.Draw(panel).rectangle((0, 0, SIDE - 1, SIDE - 1), outline=LINE)
    return Panel(caption, panel)


def draw_probabilities(probabilities: Floats) -> Panel:
    """Draw (10,) probabilities as bars, the largest in colour, in PROBABILITIES_WIDTH x SIDE."""
    image = Image.new("RGB", (PROBABILITIES_WIDTH, SIDE), "white")
    draw = ImageDraw.Draw(image)
    height, left, right = SIDE // 10, 18, PROBABILITIES_WIDTH - 46
    for digit, share in enumerate(probabilities.tolist()):
        top, is_best = digit * height, digit == int(probabilities.argmax())
        ink, fill = (INK, BLUE) if is_best else (GREY, GREY)
        draw_text(draw, (4, top + 1), str(digit), size=12, colour=ink)
        draw.rectangle((left, top + 3, right, top + height - 3), fill=PALE)
        if length := round(share * (right - left)):
            draw.rectangle((left, top + 3, left + length, top + height - 3), fill=fill)
        draw_text(draw, (right + 6, top + 1), format_share(share), size=12, colour=ink)
    return Panel("probabilities", image)
