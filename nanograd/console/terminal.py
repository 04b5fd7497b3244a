"""Where a job is told of: a live view on a terminal, lines of text or JSON elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nanograd.console.log_lines import WARNING, Lines, measures
from nanograd.runtime.events import Figures, duration

_PER_SECOND = 4
_NUM_EPOCHS = 5
_BLOCKS = "▁▂▃▄▅▆▇█"


class LiveView:
    """Draws the newest figures in place.

    Args:
        console: the terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._epochs: list[Figures] = []

    def say(self, sentence: str) -> None:
        """A sentence, above what is drawn."""
        style = "yellow" if sentence.startswith(WARNING) else ""
        self._console.print(Text(sentence, style=style), soft_wrap=True)

    def show(self, figures: Figures) -> None:
        """Draw figures in place of those before; the last ones stay."""
        if figures["event"] == "epoch":
            self._epochs.append(figures)
        if figures["event"] != "progress":
            return
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=_PER_SECOND)
            self._live.start()
        self._live.update(view(figures, self._epochs))
        if figures["complete"]:
            self.close()

    def close(self) -> None:
        """Leave what is drawn as it is."""
        if self._live is not None:
            self._live.stop()
            self._live, self._epochs = None, []


def view(figures: Figures, epochs: list[Figures]) -> RenderableType:
    """What is drawn for figures.

    Args:
        figures: how far the job is.
        epochs: of training, a row of figures for each epoch seen.
    """
    parts: list[RenderableType] = [_bar(figures), Text("  ".join(measures(figures)))]
    if figures["command"] == "train":
        parts.append(_workers(figures["workers"]))
        if epochs:
            parts.append(_epochs(epochs))
    return Group(*parts)


def _bar(figures: Figures) -> Table:
    unit = "round" if figures["command"] == "train" else "row"
    done, total = figures[unit], figures[f"{unit}s"]
    row = Table.grid(padding=(0, 2), expand=True)
    row.add_column()
    row.add_column(ratio=1)
    row.add_column(justify="right")
    row.add_column(justify="right", min_width=9)
    left = figures["left_s"]
    row.add_row(
        Text(_title(figures), style="bold"),
        ProgressBar(total=total, completed=done, complete_style="cyan", finished_style="green"),
        f"{unit} {done:,}/{total:,}",
        "done" if figures["complete"] else "" if left is None else f"{duration(left)} left",
    )
    return row


def _title(figures: Figures) -> str:
    if figures["command"] != "train":
        return str(figures["command"])
    net = f"net {figures['net']}/{figures['nets']} " if figures["nets"] > 1 else ""
    return f"train {net}epoch {figures['epoch']}/{figures['epochs']}"


def _workers(states: dict[str, str]) -> Text:
    """Who works (a filled circle) and who is starting (an empty one), as many as a line holds."""
    words = Text("workers ", style="dim", overflow="ellipsis", no_wrap=True)
    for rank, state in states.items():
        at_work = state == "working"
        words.append(f" {'●' if at_work else '○'} {rank}", style="green" if at_work else "yellow")
        words.append("" if at_work else f" {state}", style="yellow")
    return words


def _epochs(epochs: list[Figures]) -> RenderableType:
    """The newest epochs as a table, and the way of loss and validation as blocks."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("epoch", "loss", "validation", "images/s", "seconds"):
        table.add_column(name, justify="right")
    for row in epochs[-_NUM_EPOCHS:]:
        accuracy = row["val_accuracy"]
        table.add_row(
            str(row["epoch"]),
            f"{row['loss']:.4f}",
            "-" if accuracy is None else f"{100 * accuracy:.2f} %",
            f"{row['images_per_s']:,}",
            f"{row['train_s']:.1f}",
        )
    return table


class Listener(Protocol):
    """Whoever is told of a job."""

    def say(self, sentence: str) -> None:
        """Something happened."""

    def show(self, figures: Figures) -> None:
        """The job is so far."""


class Quiet:
    """Passes on warnings alone.

    Args:
        say: told the warnings.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def say(self, sentence: str) -> None:
        """Something happened, which is passed on if it is a warning."""
        if sentence.startswith(WARNING):
            self._say(sentence)

    def show(self, figures: Figures) -> None:
        """The job is so far, which nobody wants to know."""


@contextmanager
def listener(log_format: str, *, quiet: bool, stream: TextIO) -> Iterator[Listener]:
    """Who is told of a job, as the settings say.

    Args:
        log_format: auto (a live view if the stream is a terminal, else text), text or json.
        quiet: whether only warnings are told.
        stream: where to, usually standard error.
    """
    if log_format == "auto" and not quiet and stream.isatty():
        console = Console(file=stream, highlight=False, markup=False, emoji=False)
        if not console.is_dumb_terminal:
            view = LiveView(console)
            try:
                yield view
            finally:
                view.close()
            return

    def write(line: str) -> None:
        stream.write(f"{line}\n")
        stream.flush()

    lines = Lines(write, as_json=log_format == "json")
    yield Quiet(lines.say) if quiet else lines
