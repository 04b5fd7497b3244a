"""The plots of a report as PNG files, drawn by Matplotlib, which is an extra."""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nanograd.errors import UsageError
from nanograd.nn import metrics
from nanograd.runtime import storage

FOLDER = "plots"

# Those of the page, light.
_BLUE, _ORANGE, _RED, _GREEN, _GREY = "#1d4ed8", "#b45309", "#b02018", "#1a7f37", "#57606a"
_DOTS_PER_INCH = 120

Axes: TypeAlias = Any  # Matplotlib's, which may not be there
Draw: TypeAlias = Callable[[Axes], None]
Row: TypeAlias = Mapping[str, Any]


def require() -> None:
    """Refuse early what cannot be done.

    Raises:
        UsageError: Matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--plots needs an extra: pip install 'nanograd[plots]' ({error})"
        ) from error


def write(place: str, plots: Mapping[str, Sequence[Draw]]) -> None:
    """Write PNG files.

    Args:
        place: the folder or URI beside whose report they go.
        plots: name of each file -> what is drawn in it, side by side.
    """
    for name, draws in plots.items():
        storage.commit(storage.join(place, FOLDER, f"{name}.png"), _png(draws))


def of_training(
    epochs: Sequence[Row],
    events: Sequence[Row],
    matrix: NDArray[np.int64],
    found: metrics.Calibration,
) -> dict[str, list[Draw]]:
    """The plots of a training run.

    Args:
        epochs: rows of metrics.jsonl.
        events: rows of events.jsonl.
        matrix: (10, 10) counts, row = true class.
        found: calibration on the test images.
    """
    curves = [("loss", "training loss"), ("val_accuracy", "validation accuracy")]
    return {
        "learning": [
            _curve(epochs, name, title)
            for name, title in [*curves, ("learning_rate", "learning rate")]
            if epochs[-1][name] is not None
        ],
        "speed": [_speed(epochs, events)],
        **of_reading(matrix, found),
    }


def of_reading(matrix: NDArray[np.int64], found: metrics.Calibration) -> dict[str, list[Draw]]:
    """How well digits were read: confusion and calibration."""
    return {"confusion": [_confusion(matrix)], "calibration": [_calibration(found)]}


def of_rows(read: NDArray[np.int64], progress: Sequence[Row]) -> dict[str, list[Draw]]:
    """What was read, and how it came in over time.

    Args:
        read: (10,) rows by digit.
        progress: rows of _metrics.jsonl.
    """

    def digits(axes: Axes) -> None:
        axes.bar(range(len(read)), read, color=_BLUE)
        axes.set(title="rows by digit", xlabel="digit", xticks=range(len(read)))

    def over_time(axes: Axes) -> None:
        axes.plot([row["time_s"] for row in progress], [row["row"] for row in progress], _BLUE)
        axes.set(title="rows over time", xlabel="seconds", ylim=(0, None))

    return {"digits": [digits], **({"speed": [over_time]} if progress else {})}


def _png(draws: Sequence[Draw]) -> bytes:
    # No pyplot: it keeps figures and a display for the whole process.
    from matplotlib.figure import Figure

    figure = Figure((5.2 * len(draws), 4), dpi=_DOTS_PER_INCH, layout="constrained")
    for draw, axes in zip(draws, np.ravel(figure.subplots(1, len(draws))), strict=True):
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
    stream = BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _curve(epochs: Sequence[Row], name: str, title: str) -> Draw:
    def draw(axes: Axes) -> None:
        numbers, heights = [row["epoch"] for row in epochs], [row[name] for row in epochs]
        axes.plot(numbers, heights, _BLUE, marker=".")
        axes.set(title=title, xlabel="epoch")
        axes.grid(axis="y", alpha=0.3)

    return draw


def _speed(epochs: Sequence[Row], events: Sequence[Row]) -> Draw:
    def draw(axes: Axes) -> None:
        rounds = [0, *(row["round"] for row in epochs)]
        axes.stairs([row["images_per_s"] for row in epochs], rounds, color=_BLUE)
        for event in events:
            colour = _GREEN if event["event"] == "joined" else _RED
            if "round" in event:
                axes.axvline(event["round"], color=colour, linestyle=":")
        axes.set(title="images a second; lost (red), back (green)", xlabel="round", ylim=(0, None))

    return draw


def _confusion(matrix: NDArray[np.int64]) -> Draw:
    def draw(axes: Axes) -> None:
        wrong = matrix - np.diag(np.diag(matrix))
        axes.imshow(wrong, cmap="Oranges", vmax=max(1, wrong.max()) * 2)
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                colour = _BLUE if row == column else "black"
                axes.text(column, row, count, ha="center", va="center", size=8, color=colour)
        numbers = range(len(matrix))
        axes.set(xlabel="read as", ylabel="is", xticks=numbers, yticks=numbers)

    return draw


def _calibration(found: metrics.Calibration) -> Draw:
    def draw(axes: Axes) -> None:
        axes.plot(
            (0, 1), (0, 1), color=_GREY, linestyle="--", label="scores that mean what they say"
        )
        filled = found.counts > 0
        axes.plot(
            found.confidence[filled], found.accuracy[filled], _ORANGE, marker="o", label="this net"
        )
        axes.set(title=f"calibration error {found.error:.2%}", xlabel="best score", ylabel="right")
        axes.legend()

    return draw
