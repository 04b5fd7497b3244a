"""Plots as data: `page/parts.html` draws them as SVG, `plots.py` as PNG."""

from collections.abc import Sequence
from math import ceil, floor, log10
from typing import NamedTuple


class Axis(NamedTuple):
    """One axis of a plot."""

    name: str  # quantity and unit
    low: float  # value at its beginning
    high: float  # value at its end
    spec: str  # format of a value
    log: bool = False  # whether the scale is logarithmic

    def format(self, value: float) -> str:
        """Return a value as text."""
        return format(value, self.spec)

    def place(self, value: float, begin: float, end: float) -> float:
        """Return the position of a value on an axis that is drawn from pixel `begin` to `end`."""
        low, high, at = (log10(x) if self.log else x for x in (self.low, self.high, value))
        return round(begin + (end - begin) * ((at - low) / (high - low)), 1)

    def ticks(self, most: int = 6) -> list[float]:
        """Return round numbers from `low` to `high`, powers of ten on a logarithmic scale.

        They are far enough apart that no two are the same text.

        >>> Axis("x", 0, 8, "g").ticks(), Axis("x", 0.03, 0.31, "g").ticks(4)
        ([0.0, 2.0, 4.0, 6.0, 8.0], [0.1, 0.2, 0.3])
        >>> Axis("rows", 0, 1.06, ".0f").ticks()
        [0.0, 1.0]
        >>> Axis("x", 0.4, 300, "g", log=True).ticks()
        [1.0, 10.0, 100.0]
        """
        if self.log:
            powers = range(ceil(log10(self.low)), floor(log10(self.high)) + 1)
            return [10.0**power for power in powers]
        rough = (self.high - self.low) / (most - 1)
        power = 10.0 ** floor(log10(rough))
        for each in (1, 2, 5, 10, 20, 50, 100, 1000):
            step = power * each
            digits = max(0, -floor(log10(step)))
            first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
            found = [round(number * step, digits) for number in range(first, last + 1)]
            if step >= rough * (1 - 1e-9) and len(set(map(self.format, found))) == len(found):
                break
        return found


def fit_axis(values: Sequence[float], name: str, spec: str, low: float | None = None) -> Axis:
    """Return an axis from `low`, or a little below the least value, to a little above all."""
    least, most = min(values), max(values)
    margin = 0.06 * (most - least) or 0.06 * abs(most) or 1.0
    return Axis(name, least - margin if low is None else low, most + margin, spec)


class Line(NamedTuple):
    """A line through points."""

    name: str  # entry in the legend
    points: Sequence[tuple[float, float]]  # (x, y), finite
    style: str = "main"  # main, second or guide, a class of page.css


class Bars(NamedTuple):
    """Bars that stand on the x axis."""

    name: str  # entry in the legend
    spans: Sequence[tuple[float, float]]  # beginning and end of each on the x axis
    heights: Sequence[float]  # of each
    labels: Sequence[str]  # what each counts
    style: str = "main"  # see Line


class Mark(NamedTuple):
    """An event at one place of the x axis."""

    x: float  # the place
    text: str  # description
    style: str  # failed, joined or other, a class of page.css


class Chart(NamedTuple):
    """A plot."""

    title: str  # above it
    x: Axis  # horizontal axis
    y: Axis  # vertical axis
    series: Sequence[Line | Bars]  # lines and bars; a legend names them if there are several
    marks: Sequence[Mark] = ()  # vertical lines
