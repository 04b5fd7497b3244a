"""Listeners that write events as lines of text or JSON; progress at most every 5 seconds."""

import json
from collections.abc import Callable
from time import gmtime, perf_counter, strftime

from nanograd.runtime import events
from nanograd.runtime.events import Event, Level, WorkerState, duration

INTERVAL_S = 5.0
_PREFIXES = {Level.INFO: "", Level.WARNING: "WARNING: ", Level.ERROR: "nanograd: "}

AnyProgress = events.TrainingProgress | events.JobProgress
# Events that contain a sentence for the user.
_Sentence = events.Message | events.GroupEvent | events.ImageScored


class TextLog:
    """A listener that writes lines of text.

    Args:
        write: receives each line.
        clock: monotonic clock, in seconds.
    """

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = perf_counter
    ) -> None:
        self._write, self._clock = write, clock
        self._next: float | None = None

    def __call__(self, event: Event) -> None:
        """Write the line of an event, if it has one; skip progress within 5 s of the last line."""
        if isinstance(event, AnyProgress):
            now = self._clock()
            self._next = now + INTERVAL_S if self._next is None else self._next
            if now < self._next and not event.complete:
                return
            self._next = None if event.complete else now + INTERVAL_S
        if (line := self.line(event)) is not None:
            self._write(line)

    def line(self, event: Event) -> str | None:
        """Return the line of an event; None if it has no line.

        >>> event = events.JobProgress(command="predict", part=1, parts=2, row=90, rows=180,
        ...     rows_per_s=45.0, quarantined=3, time_s=2.0, left_s=2.0, complete=False)
        >>> TextLog(print).line(event)
        'predict  part 1/2  row 90/180  45 rows/s  3 quarantined  2 s left'
        """
        if not isinstance(event, AnyProgress):
            return sentence(event)
        words = [event.command, *position(event), *measures(event)]
        if not event.complete and event.left_s is not None:
            words.append(f"{duration(event.left_s)} left")
        return "  ".join(words)


class JsonLog(TextLog):
    """A listener that writes lines of JSON, including one per finished epoch."""

    def line(self, event: Event) -> str | None:
        """Return the line of an event; None if it has no line."""
        if isinstance(event, _Sentence):
            event = events.Message(text=str(event), level=event.level)
        elif not isinstance(event, events.EpochFinished | AnyProgress):
            return None
        return json.dumps({"time": strftime("%Y-%m-%dT%H:%M:%SZ", gmtime()), **event.record()})


def sentence(event: Event) -> str | None:
    """Return an event's sentence after its level's prefix; None if there is no sentence."""
    if not isinstance(event, _Sentence):
        return None
    keep = "\n" if event.level is Level.INFO else ""  # summaries have several lines
    return _PREFIXES[event.level] + events.printable(str(event), keep)


def position(event: AnyProgress) -> list[str]:
    """Return the position of a job as short texts, from the coarsest to the finest unit."""
    if isinstance(event, events.JobProgress):
        return [f"part {event.part:,}/{event.parts:,}", f"row {event.row:,}/{event.rows:,}"]
    net = [f"net {event.net}/{event.nets}"] if event.nets > 1 else []
    epoch = f"epoch {event.epoch:,}/{event.epochs:,}"
    return [*net, epoch, f"round {event.round:,}/{event.rounds:,}"]


def measures(event: AnyProgress) -> list[str]:
    """Return speed, loss, accuracy and similar measures, each as a short text."""
    if isinstance(event, events.JobProgress):
        return [rate(event.rows_per_s, "rows"), f"{event.quarantined:,} quarantined"]
    found = [rate(event.rounds_per_s, "rounds"), f"{event.images_per_s:,} images/s"]
    if event.loss is not None:
        found.append(f"loss {event.loss:.4f}")
    if event.val_accuracy is not None:
        found.append(f"validation {events.percent(event.val_accuracy)}")
    working = sum(state is WorkerState.WORKING for state in event.workers.values())
    if working < len(event.workers):
        found.append(f"{working} of {len(event.workers)} workers")
    return found


def rate(number: float, unit: str) -> str:
    """Format a rate; a rate below 10 has two significant digits.

    >>> rate(1234.5, "rows"), rate(3.14, "rows"), rate(0.0271, "rounds"), rate(0, "rows")
    ('1,234 rows/s', '3.1 rows/s', '0.027 rounds/s', '0 rows/s')
    """
    return f"{number:,.0f} {unit}/s" if number >= 10 else f"{number:.2g} {unit}/s"
