"""Worker groups: the interface for the training loop, and a group in this process."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event as StopSignal
from typing import Protocol, TypeAlias

import numpy as np

from nanograd.digits.dataset import Dataset
from nanograd.errors import DivergedError, InternalError
from nanograd.runtime import machine, process
from nanograd.runtime.events import Listener, WorkerState
from nanograd.training.recipe import Recipe
from nanograd.training.server import ParameterServer, Refusal, Snapshot
from nanograd.training.worker import Contribution, Worker


class WorkerGroup(Protocol):
    """Workers and their parameter server, in this process or on a cluster."""

    def advance(self, until: int) -> None:
        """Compute all rounds below `until`; DivergedError if a number is not finite."""

    def snapshot(self) -> Snapshot:
        """Return a copy of the whole state of training."""

    def workers(self) -> dict[int, WorkerState]:
        """Return the state of each rank."""

    def fingerprints(self) -> Sequence[str]:
        """Return the distinct `process.fingerprint` of all workers so far."""

    def close(self) -> None:
        """Stop the workers."""


# Starts a worker group that trains the recipe on the images, beginning at the snapshot. The
# listener receives group events. The stop signal also ends a recovery from failures.
StartGroup: TypeAlias = Callable[[Recipe, Dataset, Snapshot, Listener, StopSignal], WorkerGroup]


def assign_shards(num_shards: int, world_size: int, ranks: Sequence[int]) -> dict[int, list[int]]:
    """Assign S shards to the available ones of W workers; a rank is the number of a worker.

    Each worker gets its own range of shards. Each shard of a missing worker goes to the worker with
    the fewest shards; of several, to the one with the nearest rank.

    >>> assign_shards(8, 3, [0, 1, 2])
    {0: [0, 1], 1: [2, 3, 4], 2: [5, 6, 7]}
    >>> assign_shards(8, 4, [0, 1, 3])
    {0: [0, 1], 1: [2, 3, 4], 3: [5, 6, 7]}
    """
    own = [
        list(range(num_shards * rank // world_size, num_shards * (rank + 1) // world_size))
        for rank in range(world_size)
    ]
    held = {rank: own[rank] for rank in ranks}
    for missing in sorted(set(range(world_size)) - set(ranks)):
        for shard in own[missing]:
            heir = min(ranks, key=lambda rank: (len(held[rank]), abs(rank - missing)))
            held[heir] = sorted([*held[heir], shard])
    return held


class LocalGroup:
    """A parameter server and one worker per core, as threads of this process, without Ray.

    numpy releases the GIL in matrix products, so the threads compute in parallel. Each matrix
    product uses one BLAS thread, and each sum has a fixed order, so the parameters have the same
    bits as with a single worker. A thread is never lost, so listener and stop signal are ignored.
    """

    def __init__(
        self, recipe: Recipe, dataset: Dataset, snapshot: Snapshot, *ignored: object
    ) -> None:
        plan = recipe.plan
        world_size = min(plan.num_shards, machine.num_cpus())
        self._server = ParameterServer(recipe, snapshot)
        self._workers = [
            Worker(recipe, {s: dataset.take(plan.shard_slice(s)) for s in shards})
            for shards in assign_shards(plan.num_shards, world_size, range(world_size)).values()
        ]
        self._buffers = [
            {node: np.empty_like(snapshot.vector) for node in worker.nodes}
            for worker in self._workers
        ]
        # The calling thread is the first worker, so a round wakes one thread less.
        self._pool = ThreadPoolExecutor(max(1, world_size - 1))

    def advance(self, until: int) -> None:
        """Compute all rounds below `until`."""

        def contribute(rank: int) -> list[Contribution]:
            round_, vector = self._server.round, self._server.parameters()
            worker, buffers = self._workers[rank], self._buffers[rank]
            return [worker.sum_node(round_, node, vector, out) for node, out in buffers.items()]

        with process.one_thread():
            while self._server.round < until:
                others = self._pool.map(contribute, range(1, len(self._workers)))
                computed = [contribute(0), *others]
                if refusal := self._server.submit([each for sent in computed for each in sent]):
                    text = f"round {self._server.round}: {refusal}"
                    if refusal is Refusal.NOT_FINITE:
                        raise DivergedError(f"{text}: lower --learning-rate")
                    raise InternalError(f"{text}; please report this")

    def snapshot(self) -> Snapshot:
        """Return a copy of the whole state of training."""
        return self._server.snapshot()

    def workers(self) -> dict[int, WorkerState]:
        """Return {}: threads have no ranks."""
        return {}

    def fingerprints(self) -> Sequence[str]:
        """Return the `process.fingerprint` of this process."""
        return [process.fingerprint()]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
