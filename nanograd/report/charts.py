"""Charts, which consist of shapes; `page/parts.html` writes them as SVG, `draw_png` as PNG."""

from collections.abc import Sequence
from math import ceil, floor, log10
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from nanograd.digits.dataset import NUM_CLASSES
from nanograd.digits.form import encode_png
from nanograd.runtime.arrays import Ints

# Size of a chart in pixels, and the area between its axes. It is legible on a phone of 360 pixels.
WIDTH, HEIGHT = 360, 288
LEFT, RIGHT, TOP, BOTTOM = 76, 340, 30, 244
_LEFT_OF_CELLS = 24  # of a confusion matrix
_HALF_A_LETTER = 4.2  # of a label, at most

_MAX_DOTS = 150  # more dots would hide their line

# Radius of a dot, and of the smallest and largest dot of a series whose dots have sizes.
_RADIUS, _LEAST_RADIUS, _MOST_RADIUS = 3.5, 2.0, 9.0
# PNG files: scale of a chart, factor by which it is first painted larger to smooth the edges, and
# pixels above it for title and legend.
_SCALE, _FINER, _HEAD = 3, 3, 52
COLOURS = {  # the light colours of page.css
    "main": "#1d4ed8", "second": "#b45309", "guide": "#57606a",
    "failed": "#b02018", "joined": "#1a7f37", "other": "#b45309",
    "hit": "#1d4ed8", "miss": "#b45309", "none": "#f4f5f7",
    "grid": "#d0d7de", "axis": "#57606a", "label": "#57606a", "title": "#1f2328",
}  # fmt: skip
_DASHED = ("guide", "failed", "joined", "other")
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}  # Pillow's names


class Axis(NamedTuple):
    """One axis of a chart."""

    name: str  # quantity and unit
    low: float  # value at its beginning
    high: float  # value at its end
    spec: str  # format of a value
    log: bool = False  # whether the scale is logarithmic
    max_ticks: int = 6

    def format(self, value: float) -> str:
        """Return a value as text.

        >>> Axis("share", 0, 1, ".0%").format(0.25)
        '25 %'
        """
        return format(value, self.spec).replace("%", " %")

    def position(self, value: float, begin: float, end: float) -> float:
        """Return the pixel position of a value on an axis from pixel `begin` to `end`."""
        low, high, at = (log10(x) if self.log else x for x in (self.low, self.high, value))
        return begin + (end - begin) * (at - low) / (high - low)

    def ticks(self) -> list[float]:
        """Return round numbers whose texts differ; on a logarithmic scale, powers of ten.

        >>> Axis("x", 0.03, 0.31, "g", max_ticks=4).ticks()
        [0.1, 0.2, 0.3]
        >>> Axis("rows", 0, 1.06, ".0f").ticks()
        [0.0, 1.0]
        >>> Axis("x", 0.4, 300, "g", log=True).ticks()
        [1.0, 10.0, 100.0]
        """
        if self.log:
            powers = range(ceil(log10(self.low)), floor(log10(self.high)) + 1)
            return [10.0**power for power in powers]
        rough = (self.high - self.low) / (self.max_ticks - 1)
        power = 10.0 ** floor(log10(rough))
        for factor in (1, 2, 5, 10, 20, 50, 100, 1000):
            step = power * factor
            digits = max(0, -floor(log10(step)))
            first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
            found = [round(number * step, digits) for number in range(first, last + 1)]
            if step >= rough * (1 - 1e-9) and len(set(map(self.format, found))) == len(found):
                break
        return found


def fit_axis(values: Sequence[float], name: str, spec: str, low: float | None = None) -> Axis:
    """Return an axis from `low`, or from just below the values, to just above the values."""
    least, most = min(values), max(values)
    margin = 0.06 * (most - least) or 0.06 * abs(most) or 1.0
    return Axis(name, least - margin if low is None else low, most + margin, spec)


class Series(NamedTuple):
    """A line through points, or bars on the x axis."""

    name: str  # entry in the legend
    points: Sequence[tuple[float, float]]  # finite x and y; for a bar, its left edge and height
    style: str = "main"  # main, second or guide, a class of page.css
    width: float = 0  # width of bars, in units of x; 0 for a line
    labels: Sequence[str] = ()  # what each bar or dot counts
    weights: Sequence[float] = ()  # for dots without a line: the area of each, in any unit


class Shape(NamedTuple):
    """A part of a chart. Positions are pixels from the upper left corner of the chart."""

    kind: str  # line, dot, bar or text
    style: str  # a class of page.css
    # The points of a line, the centre of a dot, the upper left and lower right corners of a bar, or
    # the anchor of a text on its baseline.
    points: Sequence[tuple[float, float]]
    text: str = ""  # a text, or the tooltip of a dot or bar
    anchor: str = "middle"  # anchor of a text: start, middle or end
    opacity: float = 1  # opacity of a bar
    radius: float = _RADIUS  # radius of a dot


class Chart(NamedTuple):
    """A chart, laid out in pixels."""

    title: str
    summary: str  # description for screen readers
    shapes: Sequence[Shape]
    legend: Sequence[tuple[str, str]] = ()  # style and name of each series, if there are several


def label(x: float, y: float, text: str, anchor: str = "middle") -> Shape:
    """Return a text of an axis."""
    return Shape("text", "label", [(x, y)], text, anchor)


def name_axes(x_name: str, y_name: str) -> list[Shape]:
    """Return the names of both axes, below and above the chart."""
    return [label((LEFT + RIGHT) / 2, HEIGHT - 6, x_name), label(0, 14, y_name, "start")]


def plot(
    title: str,
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    *,
    marks: Sequence[tuple[float, str, str]] = (),
) -> Chart:
    """Lay out lines and bars between two axes; `marks` are vertical lines (x, text, style)."""

    def at(value: float, height: float) -> tuple[float, float]:
        return x.position(value, LEFT, RIGHT), y.position(height, BOTTOM, TOP)

    shapes = name_axes(x.name, y.name)
    for value in y.ticks():
        _, height = at(x.low, value)
        shapes.append(Shape("line", "grid", [(LEFT, height), (RIGHT, height)]))
        shapes.append(label(LEFT - 7, height + 5, y.format(value), "end"))
    shapes.append(Shape("line", "axis", [(LEFT, BOTTOM), (RIGHT, BOTTOM)]))
    for value in x.ticks():
        text = x.format(value)
        most = WIDTH - _HALF_A_LETTER * len(text)  # a longer text is moved to the left
        shapes.append(label(min(at(value, y.low)[0], most), BOTTOM + 18, text))
    for name, points, style, width, labels, weights in series:
        places = labels or [x.format(value) for value, _ in points]
        if not width and not weights:
            shapes.append(Shape("line", style, [at(*point) for point in points]))
        if not width and (style == "guide" or len(points) > _MAX_DOTS):
            continue
        radii = [_RADIUS] * len(points)
        if weights:
            shares = (weight / max(weights) for weight in weights)
            radii = [max(_LEAST_RADIUS, _MOST_RADIUS * share**0.5) for share in shares]
        for place, (value, height), radius in zip(places, points, radii, strict=True):
            kind, corners = "dot", [at(value, height)]
            if width:
                kind, corners = "bar", [*corners, at(value + width, y.low)]
            tooltip = f"{name}, {x.name} {place}: {y.format(height)}"
            shapes.append(Shape(kind, style, corners, tooltip, radius=radius))
    for value, text, style in marks:
        left, _ = at(value, y.low)
        shapes.append(Shape("line", style, [(left, TOP), (left, BOTTOM)]))
        shapes.append(Shape("dot", style, [(left, TOP)], text))
    first, last = (y.format(series[0].points[at][1]) for at in (0, -1))
    summary = f"{y.name} from {first} at the left to {last} at the right"
    legend = [(each.style, each.name) for each in series] if len(series) > 1 else []
    return Chart(title, summary, shapes, legend)


def confusion_chart(counts: Ints) -> Chart:
    """Draw a confusion matrix: (10, 10) counts of images, one row for each true digit.

    Cells on the diagonal are shaded relative to the largest cell there, and the other cells
    relative to the largest of the others.
    """
    hits = np.diag(np.diag(counts))
    most = np.where(hits, hits.max(), (counts - hits).max())
    wide, tall = (WIDTH - _LEFT_OF_CELLS) / NUM_CLASSES, (BOTTOM - TOP) / NUM_CLASSES
    shapes = name_axes("predicted digit", "true digit")
    for (true, digit), count in np.ndenumerate(counts):
        left, top = _LEFT_OF_CELLS + wide * digit, TOP + tall * true
        style = "none" if not count else "hit" if true == digit else "miss"
        opacity = 0.08 + 0.32 * count / most[true, digit] if count else 1
        corners = [(left + 1, top + 1), (left + wide, top + tall)]
        tooltip = f"{true} as {digit}: {count:,}"
        shapes.append(Shape("bar", style, corners, tooltip, opacity=opacity))
        if count:
            text = str(count) if count < 10_000 else f"{count / 1000:.0f}k"
            shapes.append(Shape("text", "title", [(left + wide / 2, top + 15)], text))
    for number, name in enumerate("0123456789"):
        shapes.append(label(_LEFT_OF_CELLS + wide * (number + 0.5), BOTTOM + 18, name))
        shapes.append(label(_LEFT_OF_CELLS - 7, TOP + tall * number + 15, name, "end"))
    return Chart("Confusion matrix", "images by true and predicted digit", shapes)


def draw_png(charts: Sequence[Chart]) -> bytes:
    """Paint charts side by side, with their titles and legends, on white; return a PNG file."""
    size, scale = (_SCALE * WIDTH, _SCALE * (_HEAD + HEIGHT)), _SCALE * _FINER
    font = ImageFont.load_default(12 * scale)
    sheet = Image.new("RGB", (size[0] * len(charts), size[1]))
    for number, chart in enumerate(charts):
        head, left = [Shape("text", "title", [(4, 18 - _HEAD)], chart.title, "start")], 4.0
        for style, name in chart.legend:
            head.append(Shape("bar", style, [(left, 28 - _HEAD), (left + 12, 40 - _HEAD)]))
            head.append(label(left + 18, 39 - _HEAD, name, "start"))
            left += 34 + font.getlength(name) / scale
        image = Image.new("RGB", (_FINER * size[0], _FINER * size[1]), "white")
        draw = ImageDraw.Draw(image, "RGBA")
        for shape in (*head, *chart.shapes):
            points = [(scale * x, scale * (_HEAD + y)) for x, y in shape.points]
            colour = ImageColor.getrgb(COLOURS[shape.style])
            if shape.kind == "text":
                draw.text(points[0], shape.text, colour, font, anchor=_ANCHORS[shape.anchor])
            elif shape.kind == "dot":
                draw.circle(points[0], shape.radius * scale, colour)
            elif shape.kind == "bar":
                draw.rectangle([*points[0], *points[1]], (*colour[:3], round(255 * shape.opacity)))
            elif shape.style in _DASHED:
                for dash in np.linspace(points[0], points[-1], 48).reshape(24, 4).tolist():
                    draw.line(dash, colour, round(1.5 * scale))
            else:
                width = scale if shape.style in ("grid", "axis") else round(2.5 * scale)
                draw.line(points, colour, width, joint="curve")
        sheet.paste(image.reduce(_FINER), (size[0] * number, 0))
    return encode_png(sheet, optimize=True)
