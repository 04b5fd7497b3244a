"""What happens to workers and server, as rows of events.jsonl, each with its sentence."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

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
