"""Listeners for people: a live view on a terminal or in a notebook, otherwise log lines."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import accumulate
from time import perf_counter
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from nanograd.console.log_lines import AnyProgress, JsonLog, TextLog, measures, position, sentence
from nanograd.errors import ArgumentError
from nanograd.runtime import events
from nanograd.runtime.events import Event, Level, Listener, WorkerState, broadcast, percent

_REFRESHES_PER_S = 4
_WIDTH = 100  # columns in a notebook
_NUM_EPOCHS = 5


@contextmanager
def stderr_listener(log_format: str, *, quiet: bool, stream: TextIO) -> Iterator[Listener]:
    """Provide a listener that writes events to stderr, as the log settings say.

    Write errors are ignored, because they must not end a job. The format `auto` is a live
    view if the stream is a terminal, otherwise text.
    """
    if log_format == "auto" and not quiet and stream.isatty():
        console = Console(file=stream, highlight=False, markup=False, emoji=False)
        if not console.is_dumb_terminal:
            with closing(LiveView(console)) as view:
                yield view
            return

    def write(line: str) -> None:
        with suppress(OSError):  # a full disk or a closed pipe
            stream.write(f"{line}\n")
            stream.flush()

    log = (JsonLog if log_format == "json" else TextLog)(write)

    def warnings_only(event: Event) -> None:
        if event.level is not Level.INFO:
            log(event)

    yield warnings_only if quiet else log


@contextmanager
def shown(listener: Listener, progress: bool) -> Iterator[Listener]:
    """Provide the listener; with `progress`, also show events on stderr or in the notebook."""
    if not callable(listener):
        raise ArgumentError(f"listener is {listener!r}: it must be a function")
    if not progress:
        yield listener
        return
    with ExitStack() as stack:
        view: Listener
        if Console().is_jupyter:
            view = stack.enter_context(closing(NotebookView()))
        else:
            view = stack.enter_context(stderr_listener("auto", quiet=False, stream=sys.stderr))
        yield view if listener is events.log_warnings else broadcast([listener, view])


class LiveView:
    """A listener that shows progress in place, with messages above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None, complete_style="cyan", finished_style="green"),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            expand=True,
        )
        self._epochs: list[events.EpochMetrics] = []

    def __call__(self, event: Event) -> None:
        """Show an event; progress replaces the previous progress."""
        with suppress(OSError):  # a closed terminal
            if isinstance(event, events.EpochFinished):
                self._epochs.append(event.metrics)
            elif isinstance(event, AnyProgress):
                self.show(self.view(event), is_last=event.complete)
                if event.complete:
                    self.close()
            elif (text := sentence(event)) is not None:
                style = "" if event.level is Level.INFO else "yellow"
                self._console.print(Text(text, style=style), soft_wrap=True)

    def show(self, view: RenderableType, *, is_last: bool) -> None:
        """Replace the previous progress; `is_last` if no more will follow."""
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=_REFRESHES_PER_S)
            self._live.start()
        self._live.update(view)

    def view(self, event: AnyProgress) -> RenderableType:
        """Render progress: bar, measures, workers, epochs."""
        *words, count = position(event)
        title = " ".join([event.command, *words])
        if isinstance(event, events.JobProgress):
            done, total = event.row, event.rows
        else:
            done, total = event.round, event.rounds
        [task] = self._bar.task_ids or [
            self._bar.add_task(title, total=total, completed=done, count=count)
        ]
        self._bar.update(task, description=title, total=total, completed=done, count=count)
        parts: list[RenderableType] = [self._bar, Text("  ".join(measures(event)))]
        if isinstance(event, events.TrainingProgress):
            line = Text("workers ", style="dim", overflow="ellipsis", no_wrap=True)
            for rank, state in event.workers.items():
                mark, style = ("●", "green") if state is WorkerState.WORKING else ("○", "yellow")
                line.append(f" {mark} {rank}", style=style)
                line.append("" if mark == "●" else f" {state}", style="yellow")
            parts.append(line if event.workers else Text("in this process", style="dim"))
            if self._epochs:
                parts.append(_epoch_table(self._epochs, self._console.width))
        return Group(*parts)

    def close(self) -> None:
        """Stop updating; the last state stays on the terminal."""
        if self._live is not None:
            with suppress(OSError):
                self._live.stop()
        self._live, self._epochs = None, []
        for task in self._bar.task_ids:
            self._bar.remove_task(task)


class NotebookView(LiveView):
    """A live view as plain text below the cell of a notebook. It needs no widgets."""

    def __init__(self) -> None:
        super().__init__(Console(width=_WIDTH, force_jupyter=False, color_system=None))
        self._cell: Any = None  # IPython's handle of the displayed text
        self._next = 0.0  # when the text may be replaced

    def show(self, view: RenderableType, *, is_last: bool) -> None:
        """Replace the displayed text, at most four times a second."""
        from IPython.display import display  # noqa: PLC0415 - the notebook has loaded it

        if perf_counter() < self._next and not is_last:
            return
        self._next = perf_counter() + 1 / _REFRESHES_PER_S
        with self._console.capture() as text:
            self._console.print(view)
        data = {"text/plain": text.get()}
        if self._cell is None:
            self._cell = display(data, raw=True, display_id=True)
        else:
            self._cell.update(data, raw=True)

    def close(self) -> None:
        """Let the next progress begin below."""
        super().close()
        self._cell, self._next = None, 0.0


def _epoch_table(epochs: list[events.EpochMetrics], width: int) -> Table:
    """Render the newest epochs as a table; leave out the last columns if they do not fit."""
    rows = [["epoch", "loss", "validation", "images/s", "seconds"]]
    for each in epochs[-_NUM_EPOCHS:]:
        speed = f"{each.images_per_s:,}", f"{each.train_s:.1f}"
        rows.append([str(each.epoch), f"{each.loss:.4f}", percent(each.val_accuracy), *speed])
    used = accumulate(2 + max(map(len, column)) for column in zip(*rows, strict=True))
    num_columns = sum(end <= width for end in used)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in rows[0][:num_columns]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*row[:num_columns])
    return table
