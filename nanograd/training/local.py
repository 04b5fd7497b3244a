"""Who computes the rounds: the protocol of a group of workers, and the group in this process."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from nanograd.data.dataset import Dataset
from nanograd.errors import DivergedError
from nanograd.runtime import process
from nanograd.training.recipe import Recipe
from nanograd.training.server import ParameterServer, Snapshot
from nanograd.training.worker import Contribution, Worker


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

    def workers(self) -> dict[int, str]:
        """What each rank does: `working` or `starting`."""

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
    """A server and a worker for each core, as threads of this process, without Ray.

    numpy gives up Python's lock inside matrix products, so the threads do compute side by side;
    each product still runs in one BLAS thread, and the bits are those of a single worker.

    Args:
        recipe: what to compute.
        dataset: the training images.
        snapshot: where to begin.
        others: for the likeness of other groups; threads have no losses to tell of or to mend.
    """

    def __init__(
        self, recipe: Recipe, dataset: Dataset, snapshot: Snapshot, *others: object
    ) -> None:
        plan = recipe.plan
        world_size = min(plan.num_shards, len(os.sched_getaffinity(0)))
        self._server = ParameterServer(recipe, snapshot)
        self._workers = [
            Worker(recipe, {s: dataset.take(plan.shard_slice(s)) for s in shards})
            for shards in share_out(plan.num_shards, world_size, range(world_size)).values()
        ]
        self._buffers = [
            {node: np.empty_like(snapshot.vector) for node in worker.nodes()}
            for worker in self._workers
        ]
        # The calling thread computes, too: one thread less to wake up in every round.
        self._pool = ThreadPoolExecutor(max(1, world_size - 1))

    def advance(self, until: int) -> None:
        """Apply all rounds below `until`."""
        with process.one_thread():
            while self._server.round < until:
                others = [
                    self._pool.submit(self._contribute, rank)
                    for rank in range(1, len(self._workers))
                ]
                computed = [self._contribute(0), *(other.result() for other in others)]
                for contribution in [each for sent in computed for each in sent]:
                    if reason := self._server.submit(contribution):
                        raise DivergedError(
                            f"round {self._server.round}: {reason}: lower --learning-rate"
                        )

    def snapshot(self) -> Snapshot:
        """All that training needs to go on from here."""
        return self._server.snapshot()

    def workers(self) -> dict[int, str]:
        """What each rank does; threads always work."""
        return dict.fromkeys(range(len(self._workers)), "working")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _contribute(self, rank: int) -> list[Contribution]:
        round_, vector = self._server.round, self._server.parameters()
        worker, buffers = self._workers[rank], self._buffers[rank]
        return [worker.sum_node(round_, node, vector, out) for node, out in buffers.items()]
