"""Groups of workers: the protocol that the training loop uses, and a group in this process."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event as StopSignal
from typing import Protocol, TypeAlias

import numpy as np

from nanograd.data.dataset import Dataset
from nanograd.errors import DivergedError, InternalError
from nanograd.runtime import machine, process
from nanograd.runtime.events import Listener, WorkerState
from nanograd.training.recipe import Recipe
from nanograd.training.server import ParameterServer, RefusalReason, Snapshot
from nanograd.training.worker import Contribution, Worker


class WorkerGroup(Protocol):
    """Workers and their parameter server, wherever they run.

    A group advances by segments of rounds. Nothing interrupts a segment; between two segments the
    training loop evaluates, saves and stops.
    """

    def advance(self, until: int) -> None:
        """Apply all rounds below `until`.

        Raises:
            DivergedError: a gradient, loss or parameter is not finite.
        """

    def snapshot(self) -> Snapshot:
        """Return a copy of the whole state of training."""

    def workers(self) -> dict[int, WorkerState]:
        """Return the state of each rank."""

    def fingerprints(self) -> Sequence[str]:
        """Describe the arithmetic of each kind of worker so far, see `process.fingerprint`."""

    def close(self) -> None:
        """Release the workers."""


# Starts workers for a recipe on the training images, at a snapshot. The listener receives group
# events; the stop signal also ends a recovery from failures.
StartGroup: TypeAlias = Callable[[Recipe, Dataset, Snapshot, Listener, StopSignal], WorkerGroup]


def shards_of(num_shards: int, rank: int, world_size: int) -> range:
    """Return the neighbouring shards that a rank owns.

    >>> [list(shards_of(8, rank, 3)) for rank in range(3)]
    [[0, 1], [2, 3, 4], [5, 6, 7]]
    """
    return range(num_shards * rank // world_size, num_shards * (rank + 1) // world_size)


def assign_shards(num_shards: int, world_size: int, ranks: Sequence[int]) -> dict[int, list[int]]:
    """Assign all shards to the ranks that are present.

    Each rank holds its own shards. Those of a missing rank go, one by one, to the rank that holds
    the fewest, the nearest one first.

    Args:
        num_shards: S.
        world_size: W, the number of ranks of the whole group.
        ranks: the ranks that are present; at least one.

    >>> assign_shards(8, 4, [0, 1, 3])
    {0: [0, 1], 1: [2, 3, 4], 3: [5, 6, 7]}
    """
    held = {rank: list(shards_of(num_shards, rank, world_size)) for rank in ranks}
    for missing in sorted(set(range(world_size)) - set(ranks)):
        for shard in shards_of(num_shards, missing, world_size):
            heir = min(ranks, key=lambda rank: (len(held[rank]), abs(rank - missing)))
            held[heir] = sorted([*held[heir], shard])
    return held


class LocalGroup:
    """A parameter server and one worker a core, as threads of this process, without Ray.

    numpy releases Python's lock inside matrix products, so the threads compute in parallel. Each
    product still runs in one BLAS thread: the bits are those of a single worker.

    Args:
        recipe: the computation.
        dataset: the training images.
        snapshot: the state to start from.
        ignored: listener and stop signal of `StartGroup`; threads do not fail.
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
                    self._submit(contribution)

    def snapshot(self) -> Snapshot:
        """Return a copy of the whole state of training."""
        return self._server.snapshot()

    def workers(self) -> dict[int, WorkerState]:
        """Return {}: threads of this process have no ranks."""
        return {}

    def fingerprints(self) -> Sequence[str]:
        """Describe the arithmetic of this process."""
        return [process.fingerprint()]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _contribute(self, rank: int) -> list[Contribution]:
        round_, vector = self._server.round, self._server.parameters()
        worker, buffers = self._workers[rank], self._buffers[rank]
        return [worker.sum_node(round_, node, vector, out) for node, out in buffers.items()]

    def _submit(self, contribution: Contribution) -> None:
        refusal = self._server.submit(contribution)
        if refusal is None:
            return
        where = f"round {self._server.round}: {refusal}"
        if refusal.reason is RefusalReason.NOT_FINITE:
            raise DivergedError(f"{where}: lower --learning-rate")
        raise InternalError(f"{where}; please report this")
