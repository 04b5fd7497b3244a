"""The group of workers as Ray actors, with the parameter server as one more.

Parameters and contributions travel as arguments of actor calls, from worker to server and back,
through Ray's object store; this process only says which call follows which, some rounds ahead.
"""

import os
from collections import deque
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from nanograd import blas
from nanograd.data.dataset import Dataset
from nanograd.errors import ClusterError, DivergedError, Stopped
from nanograd.optimizers import Vector
from nanograd.training.group import shards_of
from nanograd.training.recipe import Recipe
from nanograd.training.server import ParameterServer, Snapshot
from nanograd.training.worker import Contribution, Worker

# Rounds submitted before the first of them is done: the actors never wait for this process.
_ROUNDS_AHEAD = 8
_START_TIMEOUT_S = 60


class _WorkerActor(Worker):
    """A worker in a process of its own; Ray resolves shards only as top-level arguments."""

    def __init__(self, recipe: Recipe, shard_ids: range, *shards: Dataset) -> None:
        blas.use_one_thread()
        super().__init__(recipe, dict(zip(shard_ids, shards, strict=True)))

    def pid(self) -> int:
        """Its process, on whatever host."""
        return os.getpid()


class _ServerActor(ParameterServer):
    """A parameter server in a process of its own."""

    def __init__(self, recipe: Recipe, snapshot: Snapshot) -> None:
        blas.use_one_thread()
        super().__init__(recipe, snapshot)

    def apply(self, *contributions: list[Contribution]) -> Vector:
        """Take what all workers sent for a round; the parameters of the next one."""
        for contribution in (each for sent in contributions for each in sent):
            if reason := self.submit(contribution):
                raise DivergedError(f"round {self.round}: {reason}")
        return self.parameters()


class RayGroup:
    """Worker actors, one CPU each, that own neighbouring shards; and a server actor.

    Args:
        recipe: what to compute.
        dataset: the training images; each shard is shipped once.
        snapshot: where to begin.
        num_workers: W, 1 to S.

    Raises:
        ClusterError: the actors do not start.
    """

    def __init__(
        self, recipe: Recipe, dataset: Dataset, snapshot: Snapshot, num_workers: int
    ) -> None:
        plan = recipe.plan
        server: Any = ray.remote(num_cpus=0)(_ServerActor)
        worker: Any = ray.remote(num_cpus=1)(_WorkerActor)
        self._round = snapshot.round
        self._server = server.remote(recipe, snapshot)
        self._workers = []
        for rank in range(num_workers):
            ids = shards_of(plan.num_shards, rank, num_workers)
            shards = [ray.put(dataset.take(plan.shard_slice(shard))) for shard in ids]
            self._workers.append(worker.remote(recipe, ids, *shards))
        self._vector: Any = self._server.parameters.remote()
        self._wait_until_ready()

    def advance(self, until: int) -> None:
        """Apply all rounds below `until`."""
        under_way: deque[Any] = deque()
        while self._round < until:
            sent = [each.contribute.remote(self._round, self._vector) for each in self._workers]
            self._vector = self._server.apply.remote(*sent)
            self._round += 1
            under_way.append(self._vector)
            if len(under_way) > _ROUNDS_AHEAD:
                ray.wait([under_way.popleft()])
        _result(self._vector)

    def snapshot(self) -> Snapshot:
        """All that training needs to go on from here."""
        snapshot: Snapshot = _result(self._server.snapshot.remote())
        return snapshot

    def worker_pids(self) -> list[int]:
        """The processes of the workers, by rank."""
        pids: list[int] = _result([each.pid.remote() for each in self._workers])
        return pids

    def close(self) -> None:
        """End the actors, so that their CPUs are free for others."""
        for actor in [*self._workers, self._server]:
            ray.kill(actor)

    def _wait_until_ready(self) -> None:
        ready = [actor.__ray_ready__.remote() for actor in [*self._workers, self._server]]
        _, waiting = ray.wait(ready, num_returns=len(ready), timeout=_START_TIMEOUT_S)
        if waiting:
            raise ClusterError(
                f"{len(waiting)} of {len(ready)} actors did not start within {_START_TIMEOUT_S} s; "
                "look at `ray status`, or ask for fewer with --workers"
            )
        _result(ready)


def _result(ref: Any) -> Any:
    """What an actor's call returned, with the failures a user can understand."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        if not isinstance(error.cause, RayActorError):
            raise error.cause from error
        lost: RayError = error.cause
    except RayError as error:  # the actor, its node or an object of theirs is gone
        lost = error
    raise Stopped(
        f"a worker or the parameter server was lost ({str(lost).splitlines()[0]}); "
        "there is a checkpoint of each epoch"
    ) from lost
