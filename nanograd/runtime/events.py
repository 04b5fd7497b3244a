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


Event: TypeAlias = dict[str, Any]
Tell: TypeAlias = Callable[[Event], None]


def started(num_workers: int, num_hosts: int) -> Event:
    """The group is complete.

    >>> started(3, 2)["sentence"]
    '3 workers on 2 hosts'
    """
    sentence = f"{_count(num_workers, 'worker')} on {_count(num_hosts, 'host')}"
    return {"event": "started", "sentence": sentence}


def lost(rank: int, round_: int, how: str, heirs: Mapping[int, Sequence[int]]) -> Event:
    """A worker is lost.

    Args:
        rank: whose.
        round_: the one that is computed again.
        how: killed or hung.
        heirs: the shards that other ranks took over.

    >>> lost(2, 812, "killed", {0: [4, 5]})["sentence"]
    'worker 2 lost at round 812 (killed); shards 4-5 now on worker 0; 0 rounds lost'
    """
    where = [f"{_name(shards)} now on worker {heir}" for heir, shards in heirs.items() if shards]
    sentence = (
        f"worker {rank} lost at round {round_} ({how}); "
        f"{'; '.join(where) or 'its shards wait for a replacement'}; 0 rounds lost"
    )
    return {"event": "lost", "rank": rank, "round": round_, "how": how, "sentence": sentence}


def joined(rank: int, round_: int) -> Event:
    """A replacement takes its share back."""
    sentence = f"worker {rank} joined at round {round_}"
    return {"event": "joined", "rank": rank, "round": round_, "sentence": sentence}


def refused(round_: int, trouble: str) -> Event:
    """A round is computed again because what was sent is not finite."""
    sentence = f"round {round_}: {trouble}; computed again by new workers"
    return {"event": "refused", "round": round_, "sentence": sentence}


def server_lost(round_: int, why: str, copy: int) -> Event:
    """The server is lost; a new one begins at the round of the newest copy."""
    sentence = (
        f"the parameter server was lost at round {round_} ({why}); "
        f"a new one goes on from the copy of round {copy}"
    )
    return {"event": "server_lost", "round": round_, "sentence": sentence}


def mixed(rank: int, theirs: str, ours: str) -> Event:
    """A worker computes with another numpy or BLAS than the server."""
    sentence = f"worker {rank} computes with {theirs}, the server with {ours}: its bits may differ"
    return {"event": "mixed", "rank": rank, "sentence": sentence}


def _name(shards: Sequence[int]) -> str:
    """Name some shards, a run of them as a range.

    >>> _name([4, 5, 6]), _name([1]), _name([1, 4])
    ('shards 4-6', 'shard 1', 'shards 1, 4')
    """
    if len(shards) == 1:
        return f"shard {shards[0]}"
    if list(shards) == list(range(shards[0], shards[-1] + 1)):
        return f"shards {shards[0]}-{shards[-1]}"
    return f"shards {', '.join(map(str, shards))}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
