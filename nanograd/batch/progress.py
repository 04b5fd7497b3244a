"""How far a batch job is: a line every few seconds, and one at the end."""

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

_EVERY_S = 5.0


class Progress:
    """Counts receipts and says how far they go, and how fast since the first part was begun.

    Args:
        num_parts: of the whole job.
        num_rows: of the whole job.
        say: told a line.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        num_parts: int,
        num_rows: int,
        say: Callable[[str], None],
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._num_parts, self._num_rows, self._say, self._clock = num_parts, num_rows, say, clock
        self._parts = self._rows = self._quarantined = self._rows_before = 0
        self._began: float | None = None
        self._said = clock()

    def start_from(self, receipt: Mapping[str, Any]) -> None:
        """Count a part that an earlier command did; it says nothing about this one's speed."""
        self._count(receipt)
        self._rows_before += receipt["rows"]

    def add(self, receipt: Mapping[str, Any], seconds: float) -> None:
        """Count a part that was done just now, and took so long."""
        self._count(receipt)
        now = self._clock()
        # What others do before they begin (Ray, actors) is not known here, and no part's time.
        began = now - seconds
        self._began = began if self._began is None else min(self._began, began)
        if self._parts == self._num_parts or now - self._said >= _EVERY_S:
            self._said = now
            self._say(self._line(now - self._began))

    def running(self) -> tuple[int, float, float]:
        """Rows added, the moment at which the first of their parts was begun, and this moment."""
        now = self._clock()
        return self._rows - self._rows_before, now if self._began is None else self._began, now

    def _count(self, receipt: Mapping[str, Any]) -> None:
        self._parts += 1
        self._rows += receipt["rows"]
        self._quarantined += receipt["quarantined"]

    def _line(self, seconds: float) -> str:
        rate = (self._rows - self._rows_before) / max(seconds, 1e-3)
        words = [
            f"part {self._parts}/{self._num_parts}",
            f"{self._rows:,} of {self._num_rows:,} rows",
            f"{rate:,.0f} rows/s",
            f"{self._quarantined:,} quarantined",
        ]
        if self._parts < self._num_parts and rate:
            words.append(f"{duration((self._num_rows - self._rows) / rate)} left")
        return "  ".join(words)


def duration(seconds: float) -> str:
    """A time for people.

    >>> [duration(seconds) for seconds in (0.2, 89, 100, 7300)]
    ['1 s', '89 s', '2 min', '2 h 2 min']
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
