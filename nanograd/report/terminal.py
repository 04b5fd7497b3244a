"""Where a job is told of: a live view on a terminal, lines of text or JSON elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console

from nanograd.progress import Figures
from nanograd.report.lines import WARNING, Lines
from nanograd.report.live import LiveView


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
