"""The plots of a report as PNG files, drawn by Matplotlib, which is an extra."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from nanograd.errors import UsageError
from nanograd.report.accuracy import ConfusionMatrix
from nanograd.report.charts import Chart, Line
from nanograd.runtime import storage

REPORT, FOLDER = "report.html", "plots"

# The light colours of page.css.
BLUE, ORANGE, RED, GREEN = "#1d4ed8", "#b45309", "#b02018", "#1a7f37"
GREY, PALE = "#57606a", "#f4f5f7"
_COLOURS = {
    "main": BLUE, "second": ORANGE, "guide": GREY, "failed": RED, "joined": GREEN, "other": ORANGE,
    "hit": BLUE, "miss": ORANGE, "none": PALE,
}  # fmt: skip
_DOTS_PER_INCH = 120

Axes: TypeAlias = Any  # Matplotlib's, which may not be installed
Plot: TypeAlias = Chart | ConfusionMatrix


class Report(NamedTuple):
    """A report: one HTML file that opens offline."""

    html: str
    plots: Mapping[str, Sequence[Plot]]  # name of a PNG file -> the plots in it, side by side

    def write(self, place: str, *, as_png: bool) -> str:
        """Write the report into a folder, and its plots if `as_png`; return its path or URI."""
        file = storage.join(place, REPORT)
        storage.commit(file, self.html.encode(errors="backslashreplace"))
        if as_png:
            _write_plots(place, self.plots)
        return file


def require() -> None:
    """Check that Matplotlib is installed.

    Raises:
        UsageError: it is not.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--plots needs the package matplotlib: pip install matplotlib ({error})"
        ) from error


def _write_plots(place: str, plots: Mapping[str, Sequence[Plot]]) -> None:
    # No pyplot: it keeps figures and a display for the whole process.
    from matplotlib.figure import Figure

    for name, drawn in plots.items():
        figure = Figure((5.2 * len(drawn), 4), dpi=_DOTS_PER_INCH, layout="constrained")
        for plot, axes in zip(drawn, np.ravel(figure.subplots(1, len(drawn))), strict=True):
            axes.spines[["top", "right"]].set_visible(False)
            if isinstance(plot, Chart):
                _draw_chart(axes, plot)
            else:
                _draw_confusion(axes, plot)
        stream = BytesIO()
        figure.savefig(stream, format="png")
        storage.commit(storage.join(place, FOLDER, f"{name}.png"), stream.getvalue())


def _draw_chart(axes: Axes, chart: Chart) -> None:
    axes.set_title(chart.title, loc="left", size="medium", wrap=True)
    axes.set(xlim=chart.x[1:3], ylim=chart.y[1:3], xlabel=chart.x.name, ylabel=chart.y.name)
    axes.set_yscale("log" if chart.y.log else "linear")
    axes.minorticks_off()
    axes.set_xticks(chart.x.ticks(), map(chart.x.format, chart.x.ticks()))
    axes.set_yticks(chart.y.ticks(), map(chart.y.format, chart.y.ticks()))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    for series in chart.series:
        look = {"color": _COLOURS[series.style], "label": series.name}
        if isinstance(series, Line):
            dots = {"linestyle": "--"} if series.style == "guide" else {"marker": "."}
            axes.plot(*zip(*series.points, strict=True), clip_on=False, **look, **dots)
        else:
            lefts, rights = np.reshape(series.spans, (-1, 2)).T
            heights = np.subtract(series.heights, chart.y.low)
            axes.bar(lefts, heights, rights - lefts, chart.y.low, align="edge", **look)
    for mark in chart.marks:
        axes.axvline(mark.x, color=_COLOURS[mark.style], linestyle=":")
    if len(chart.series) > 1:
        axes.legend()


def _draw_confusion(axes: Axes, confusion: ConfusionMatrix) -> None:
    from matplotlib.colors import to_rgb

    pale = np.array(to_rgb(PALE))
    cells = confusion.cells()
    shades = [
        [pale + share / 100 * (to_rgb(_COLOURS[kind]) - pale) for _, kind, share in row]
        for row in cells
    ]
    axes.imshow(shades)
    for (row, column), count in np.ndenumerate(confusion.counts):
        if count:
            axes.text(column, row, count, ha="center", va="center", size=8)
    numbers = range(len(cells))
    axes.set(xlabel="predicted digit", ylabel="true digit", xticks=numbers, yticks=numbers)
