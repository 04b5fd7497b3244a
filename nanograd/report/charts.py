"""Plots as SVG text: lines, bars, marks; readable by eye, by pointer and by screen reader."""

from collections.abc import Callable, Sequence
from html import escape
from math import ceil, floor, log10
from typing import NamedTuple

_WIDTH, _HEIGHT = 480, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 12, 14, 44

Format = Callable[[float], str]


class Axis(NamedTuple):
    """One axis of a plot.

    Args:
        name: what it measures, with its unit.
        low: value at its beginning.
        high: value at its end.
        format: a value in words.
    """

    name: str
    low: float
    high: float
    format: Format


class Line(NamedTuple):
    """A line through points.

    Args:
        name: what it shows.
        points: (x, y), finite.
        class_: how the style sheet paints it.
    """

    name: str
    points: Sequence[tuple[float, float]]
    class_: str = "main"


class Bars(NamedTuple):
    """Bars that stand on the x axis.

    Args:
        name: what they show.
        spans: where each begins and ends.
        heights: of each.
        class_: how the style sheet paints them.
    """

    name: str
    spans: Sequence[tuple[float, float]]
    heights: Sequence[float]
    class_: str = "main"


class Mark(NamedTuple):
    """Something that happened at one place of the x axis.

    Args:
        x: where.
        words: what.
        class_: how the style sheet paints it.
    """

    x: float
    words: str
    class_: str


def chart(
    title: str, x: Axis, y: Axis, shown: Sequence[Line | Bars], marks: Sequence[Mark] = ()
) -> str:
    """A plot with its title, as a figure; the legend names what is shown if there are several."""
    drawn = "".join(
        _line(each, x, y) if isinstance(each, Line) else _bars(each, x, y) for each in shown
    )
    happened = "".join(_mark(each, x) for each in marks)
    legend = ""
    if len(shown) > 1:
        names = "".join(
            f'<li><span class="key {each.class_}"></span>{escape(each.name)}</li>' for each in shown
        )
        legend = f'<ul class="legend">{names}</ul>'
    words = escape(f"{title}: {_in_words(shown[0], y)}", quote=True)
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{legend}"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{words}">'
        f"{_axes(x, y)}{drawn}{happened}</svg></figure>"
    )


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from low to high, at most so many.

    >>> ticks(0, 8), ticks(0.03, 0.31, 4)
    ([0.0, 2.0, 4.0, 6.0, 8.0], [0.1, 0.2, 0.3])
    """
    span = high - low
    rough = span / (most - 1)
    power = 10.0 ** floor(log10(rough))
    step = next(power * each for each in (1, 2, 5, 10) if power * each >= rough * (1 - 1e-9))
    digits = max(0, -floor(log10(step)))
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [round(each * step, digits) for each in range(first, last + 1)]


def around(values: Sequence[float], name: str, format_: Format, low: float | None = None) -> Axis:
    """An axis that holds all values, with a little room.

    Args:
        values: what it must hold, finite, at least one.
        name: as of Axis.
        format_: as of Axis.
        low: where it begins; None begins a little below the least value.
    """
    least, most = min(values), max(values)
    room = 0.06 * (most - least) or 0.06 * abs(most) or 1.0
    return Axis(name, least - room if low is None else low, most + room, format_)


def _in_words(shown: Line | Bars, y: Axis) -> str:
    values = [value for _, value in shown.points] if isinstance(shown, Line) else shown.heights
    if not values:
        return "nothing to show"
    return f"{y.name} from {y.format(values[0])} at the left to {y.format(values[-1])} at the right"


def _x(value: float, axis: Axis) -> float:
    inside = _WIDTH - _LEFT - _RIGHT
    return round(_LEFT + inside * (value - axis.low) / (axis.high - axis.low), 1)


def _y(value: float, axis: Axis) -> float:
    inside = _HEIGHT - _TOP - _BOTTOM
    return round(_HEIGHT - _BOTTOM - inside * (value - axis.low) / (axis.high - axis.low), 1)


def _axes(x: Axis, y: Axis) -> str:
    left, right, bottom = _LEFT, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    across = "".join(
        f'<path class="grid" d="M{left} {_y(value, y)}H{right}"/>'
        f'<text x="{left - 7}" y="{_y(value, y) + 4}" text-anchor="end">'
        f"{escape(y.format(value))}</text>"
        for value in ticks(y.low, y.high)
    )
    along = "".join(
        f'<text x="{_x(value, x)}" y="{bottom + 18}" text-anchor="middle">'
        f"{escape(x.format(value))}</text>"
        for value in ticks(x.low, x.high)
    )
    middle = (left + right) / 2
    return (
        f'{across}<path class="axis" d="M{left} {bottom}H{right}"/>{along}'
        f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x.name)}</text>'
    )


def _line(line: Line, x: Axis, y: Axis) -> str:
    places = [(_x(a, x), _y(b, y)) for a, b in line.points]
    path = " ".join(f"{a} {b}" for a, b in places)
    dots = "".join(
        f'<circle cx="{a}" cy="{b}" r="3.5"><title>{escape(_point_in_words(point, x, y))}</title>'
        "</circle>"
        for (a, b), point in zip(places, line.points, strict=True)
        if line.class_ != "guide"
    )
    return f'<g class="{line.class_}"><polyline points="{path}"/>{dots}</g>'


def _point_in_words(point: tuple[float, float], x: Axis, y: Axis) -> str:
    return f"{x.name} {x.format(point[0])}: {y.format(point[1])}"


def _bars(bars: Bars, x: Axis, y: Axis) -> str:
    return (
        f'<g class="{bars.class_}">'
        + "".join(
            _bar(span, height, x, y) for span, height in zip(bars.spans, bars.heights, strict=True)
        )
        + "</g>"
    )


def _bar(span: tuple[float, float], height: float, x: Axis, y: Axis) -> str:
    left, right = (_x(each, x) for each in span)
    top = _y(height, y)
    words = f"{x.format(span[0])} to {x.format(span[1])}: {y.format(height)}"
    return (
        f'<rect x="{left}" y="{top}" width="{right - left:.1f}" '
        f'height="{_HEIGHT - _BOTTOM - top:.1f}"><title>{escape(words)}</title></rect>'
    )


def _mark(mark: Mark, x: Axis) -> str:
    at = _x(mark.x, x)
    return (
        f'<g class="mark {mark.class_}"><path d="M{at} {_TOP}V{_HEIGHT - _BOTTOM}"/>'
        f'<circle cx="{at}" cy="{_TOP}" r="4.5"><title>{escape(mark.words)}</title></circle></g>'
    )
