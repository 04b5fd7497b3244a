"""Who computes the rounds: the protocol of a group of workers, and the group in this process."""

from collections.abc import Sequence
from typing import Protocol

from nanograd import blas
from nanograd.data.dataset import Dataset
from nanograd.errors import DivergedError
from nanograd.training.recipe import Recipe
from nanograd.training.server import ParameterServer, Snapshot
from nanograd.training.worker import Worker


class WorkerGroup(Protocol):
    """Workers and their parameter server; where they live is their own business.

    A group advances by stretches of rounds: inside a stretch nobody else has a say, between two
    stretches the training loop looks at the clock, evaluates, saves and stops.
    """

    def advance(self, until: int) -> None:
        """Apply all rounds below `until`.

        Raises:
            DivergedError: parameters or loss left the finite numbers.
        """

    def snapshot(self) -> Snapshot:
        """All that training needs to go on from here."""

    def close(self) -> None:
        """Give back what the group holds."""


def shards_of(plan_shards: int, rank: int, world_size: int) -> range:
    """The neighbouring shards that a rank owns.

    >>> [list(shards_of(8, rank, 3)) for rank in range(3)]
    [[0, 1], [2, 3, 4], [5, 6, 7]]
    """
    return range(plan_shards * rank // world_size, plan_shards * (rank + 1) // world_size)


def share_out(num_shards: int, world_size: int, ranks: Sequence[int]) -> dict[int, list[int]]:
    """Which shards each rank that is there holds.

    Everyone holds its own neighbouring shards; those of a missing rank go, one by one, to whoever
    holds the fewest, the nearest rank first.

    Args:
        num_shards: S.
        world_size: W, how many ranks there should be.
        ranks: those that are there; at least one.

    >>> share_out(8, 4, [0, 1, 3])
    {0: [0, 1], 1: [2, 3, 4], 3: [5, 6, 7]}
    """
    held = {rank: list(shards_of(num_shards, rank, world_size)) for rank in ranks}
    for missing in sorted(set(range(world_size)) - set(ranks)):
        for shard in shards_of(num_shards, missing, world_size):
            heir = min(ranks, key=lambda rank: (len(held[rank]), abs(rank - missing)))
            held[heir] = sorted([*held[heir], shard])
    return held


class LocalGroup:
    """One worker with all shards and a server, in this process, without Ray."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        snapshot: Snapshot,
        tell: object = None,  # a group in one process has no losses to tell of
    ) -> None:
        plan = recipe.plan
        shards = {s: dataset.take(plan.shard_slice(s)) for s in range(plan.num_shards)}
        self._worker = Worker(recipe, shards)
        self._server = ParameterServer(recipe, snapshot)

    def advance(self, until: int) -> None:
        """Apply all rounds below `until`."""
        with blas.one_thread():
            while self._server.round < until:
                parameters = self._server.parameters()
                for contribution in self._worker.contribute(self._server.round, parameters):
                    if reason := self._server.submit(contribution):
                        raise DivergedError(f"round {self._server.round}: {reason}")

    def snapshot(self) -> Snapshot:
        """All that training needs to go on from here."""
        return self._server.snapshot()

    def close(self) -> None:
        """Nothing to give back."""
