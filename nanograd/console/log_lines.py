"""A job as lines of a log: sentences as they come, figures every few seconds, as text or JSON."""

import json
from collections.abc import Callable
from time import gmtime, perf_counter, strftime

from nanograd.runtime.events import Figures, duration

EVERY_S = 5.0
WARNING, ERROR = "WARNING: ", "nanograd: "
_LEVELS = {WARNING: "warning", ERROR: "error"}


class Lines:
    """Writes a line for each sentence, and one every few seconds for the figures.

    Args:
        write: told each line.
        as_json: whether lines are JSON objects; then each epoch has one, too.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        *,
        as_json: bool = False,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._write, self._as_json, self._clock = write, as_json, clock
        self._next: float | None = None

    def say(self, sentence: str) -> None:
        """A line for a sentence."""
        if not self._as_json:
            self._write(sentence)
            return
        prefix = next(filter(sentence.startswith, _LEVELS), "")
        level, message = _LEVELS.get(prefix, "info"), sentence.removeprefix(prefix)
        self._write(_json({"event": "message", "level": level, "message": message.strip()}))

    def show(self, figures: Figures) -> None:
        """A line for figures, if it is time for one or they are the last."""
        if figures["event"] != "progress":
            if self._as_json and figures["event"] == "epoch":
                self._write(_json(figures))
            return
        now = self._clock()
        self._next = now + EVERY_S if self._next is None else self._next
        if now >= self._next or figures["complete"]:
            self._next = None if figures["complete"] else now + EVERY_S
            self._write(_json(figures) if self._as_json else line(figures))


def line(figures: Figures) -> str:
    """Figures as one line for people.

    >>> line({"command": "predict", "part": 1, "parts": 2, "row": 90, "rows": 180,
    ...       "rows_per_s": 45.0, "quarantined": 3, "left_s": 2.0, "complete": False})
    'predict  part 1/2  row 90/180  45 rows/s  3 quarantined  2 s left'
    """
    return f"{figures['command']}  {'  '.join(words(figures))}"


def words(figures: Figures) -> list[str]:
    """Figures as a few words each: how far, how fast, how good, how long."""
    return [*_how_far(figures), *measures(figures), *_left(figures)]


def measures(figures: Figures) -> list[str]:
    """How fast and how good."""
    if figures["command"] != "train":
        return [rate(figures["rows_per_s"], "rows"), f"{figures['quarantined']:,} quarantined"]
    found = [
        rate(figures["rounds_per_s"], "rounds"),
        f"{figures['images_per_s']:,} images/s",
    ]
    if figures["loss"] is not None:
        found.append(f"loss {figures['loss']:.4f}")
    if figures["val_accuracy"] is not None:
        found.append(f"validation {100 * figures['val_accuracy']:.2f} %")
    if absent := [state for state in figures["workers"].values() if state != "working"]:
        number = len(figures["workers"])
        found.append(f"{number - len(absent)} of {number} workers")
    return found


def rate(number: float, unit: str) -> str:
    """How many a second; of few two digits, so that slow is not nothing.

    >>> rate(1234.5, "rows"), rate(3.14, "rows"), rate(0.0271, "rounds"), rate(0, "rows")
    ('1,234 rows/s', '3.1 rows/s', '0.027 rounds/s', '0 rows/s')
    """
    return f"{number:,.0f} {unit}/s" if number >= 10 else f"{number:.2g} {unit}/s"


def _how_far(figures: Figures) -> list[str]:
    if figures["command"] != "train":
        return [_of(figures, "part"), _of(figures, "row")]
    nets = [_of(figures, "net")] if figures["nets"] > 1 else []
    return [*nets, _of(figures, "epoch"), _of(figures, "round")]


def _of(figures: Figures, name: str) -> str:
    return f"{name} {figures[name]:,}/{figures[f'{name}s']:,}"


def _left(figures: Figures) -> list[str]:
    if figures["complete"] or figures["left_s"] is None:
        return []
    return [f"{duration(figures['left_s'])} left"]


def _json(figures: Figures) -> str:
    return json.dumps({"time": strftime("%Y-%m-%dT%H:%M:%SZ", gmtime()), **figures})
