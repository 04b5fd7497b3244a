"""Worker groups: the interface for the training loop, and a group in this process."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event as StopSignal
from typing import Protocol, TypeAlias

import numpy as np

from nanograd.digits.dataset import Dataset
from nanograd.errors import DivergedError, InternalError
from nanograd.runtime import machine, process
from nanograd.runtime.events import Listener, WorkerState
from nanograd.training.recipe import Recipe
from nanograd.training.server import Snapshot, Update, split
from nanograd.training.worker import Contribution, Worker


class WorkerGroup(Protocol):
    """Workers and their parameter server, in this process or on a cluster."""

    def advance(self, until: int) -> None:
        """Compute all rounds below `until` (a segment of rounds).

        Raises:
            DivergedError: a gradient, loss or parameter is not finite.
        """

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


_Inbox = SimpleQueue[list[Contribution] | None]


def _meet(
    inboxes: Sequence[_Inbox], rank: int, mine: list[Contribution]
) -> list[list[Contribution] | None]:
    """Send to all threads, and return what all have sent to this one."""
    for inbox in inboxes:
        inbox.put(mine)
    return [inboxes[rank].get() for _ in inboxes]


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
    """One worker per core, as threads of this process, without Ray.

    numpy releases the GIL in matrix products, so the threads compute in parallel. Each thread also
    updates a slice of the parameters. Each matrix product uses one BLAS thread, and each sum has a
    fixed order, so the bits are the same as with a single worker. The listener and the stop signal
    of `StartGroup` are ignored, because no thread is lost while the process lives.
    """

    def __init__(
        self, recipe: Recipe, dataset: Dataset, snapshot: Snapshot, *ignored: object
    ) -> None:
        plan = recipe.plan
        world_size = min(plan.num_shards, machine.num_cpus())
        self._now = snapshot.copy()
        self._workers = [
            Worker(recipe, {s: dataset.take(plan.shard_slice(s)) for s in shards})
            for shards in assign_shards(plan.num_shards, world_size, range(world_size)).values()
        ]
        self._buffers = [
            {node: np.empty_like(snapshot.vector) for node in worker.nodes()}
            for worker in self._workers
        ]
        self._updates = [Update(recipe) for _ in self._workers]
        self._slices = split(len(snapshot.vector), world_size)
        # The calling thread is the first worker.
        self._pool = ThreadPoolExecutor(max(1, world_size - 1))

    def advance(self, until: int) -> None:
        """Compute all rounds below `until`."""
        # The sums of all threads, and their messages that a slice is updated, in an inbox of each
        # thread. None means that a thread has failed. Waiting at a `Barrier` takes longer.
        sums, updated = ([_Inbox() for _ in self._workers] for _ in range(2))

        def run(rank: int) -> None:
            try:
                for round_ in range(self._now.round, until):
                    sent = _meet(sums, rank, self._contribute(rank, round_))
                    if None in sent:
                        return
                    self._update(rank, [each for some in sent for each in some or ()])
                    if None in _meet(updated, rank, []):
                        return
            except BaseException:
                for inbox in (*sums, *updated):
                    inbox.put(None)
                raise

        with process.one_thread():
            others = [self._pool.submit(run, rank) for rank in range(1, len(self._workers))]
            run(0)
            for other in others:
                other.result()
        self._now.round = until

    def _contribute(self, rank: int, round_: int) -> list[Contribution]:
        worker, vector = self._workers[rank], self._now.vector
        buffers = self._buffers[rank].items()
        return [worker.sum_node(round_, node, vector, out) for node, out in buffers]

    def _update(self, rank: int, sums: Sequence[Contribution]) -> None:
        """Update a slice of the state; the first thread also updates the loss."""
        now, update, vectors = self._now, self._updates[rank], self._now.vectors()
        is_finite = update.apply(sums, self._slices[rank], vectors, vectors)
        progress = update.add_loss(sums, now.progress) if rank == 0 else now.progress
        if is_finite and progress is None and np.isfinite([each.loss for each in sums]).all():
            raise InternalError(f"round {sums[0].round}: wrong number of images; please report it")
        if not is_finite or progress is None:
            text = f"a parameter or loss is not finite after round {sums[0].round}"
            raise DivergedError(f"{text}: lower --learning-rate")
        if rank == 0:
            now.progress = progress

    def snapshot(self) -> Snapshot:
        """Return a copy of the whole state."""
        return self._now.copy()

    def workers(self) -> dict[int, WorkerState]:
        """Return {}: threads have no ranks."""
        return {}

    def fingerprints(self) -> Sequence[str]:
        """Return the `process.fingerprint` of this process."""
        return [process.fingerprint()]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
