"""How far a job is: figures that a terminal, a log and the metrics of operators are told of."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, TypeAlias

# Names as in metrics.jsonl and in the result line; `event` says what they are figures of.
Figures: TypeAlias = Mapping[str, Any]
Show: TypeAlias = Callable[[Figures], None]


def ignore(figures: Figures) -> None:
    """Shows nothing."""


def to_all(shows: Sequence[Show]) -> Show:
    """Shows the same to several, in their order."""

    def show(figures: Figures) -> None:
        for each in shows:
            each(figures)

    return show


def duration(seconds: float) -> str:
    """A time for people.

    >>> [duration(seconds) for seconds in (0.2, 89, 100, 7300)]
    ['1 s', '89 s', '2 min', '2 h 2 min']
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Rate:
    """How fast a count grows, over its last seconds: what is left is guessed from it.

    Args:
        over_s: so many seconds.
        clock: seconds that only grow.
    """

    def __init__(self, over_s: float = 10.0, clock: Callable[[], float] = perf_counter) -> None:
        self._over_s, self._clock = over_s, clock
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, count: int) -> float:
        """The rate now that the count is this: 0 until it has grown.

        Args:
            count: as it is now.

        Returns:
            Counts a second.
        """
        now = self._clock()
        self._seen.append((now, count))
        while len(self._seen) > 2 and now - self._seen[0][0] > self._over_s:
            self._seen.popleft()
        then, before = self._seen[0]
        return (count - before) / max(now - then, 1e-3)
