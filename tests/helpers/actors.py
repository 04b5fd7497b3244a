"""Workers and servers that die, freeze, are slow, far away or wrong."""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from time import sleep
from typing import Any

import numpy as np
import ray.cloudpickle

from nanograd.distributed.actors import ActorIdentity, ServerActor, WorkerActor
from nanograd.distributed.group import RayGroup
from nanograd.distributed.shared_memory import MemoryAddress
from nanograd.nn.optimizers import Vector
from nanograd.training.recipe import Recipe
from nanograd.training.tree import TreeNode
from nanograd.training.worker import Contribution

# Processes of Ray cannot import this module, so its classes are pickled by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def pids(group: RayGroup) -> dict[str, int]:
    """Return the process ids of `server` (the first one) and of the ranks of the workers."""
    host = next(iter(group.servers.present))
    workers = {str(rank): each.identity.pid for rank, each in group.members.present.items()}
    return {"server": group.servers.identity(host).pid, **workers}


def variant(kind: type, **values: object) -> type:
    return type("Variant", (kind,), values)


def before(kind: type, method: str, action: Callable[[Any], object]) -> type:
    """Return a class of actors that do something before a method."""

    def call(self: Any, *arguments: Any) -> Any:
        action(self)
        return getattr(kind, method)(self, *arguments)

    return variant(kind, **{method: call})


def end(number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)
    Event().wait()  # the signal may reach another thread first, and this one must do no more


SlowSnapshot = before(ServerActor, "snapshot", lambda actor: sleep(2))


def dies_after(num_segments: int) -> type:
    def die(actor: Any) -> None:
        actor.num_run = getattr(actor, "num_run", -1) + 1
        if actor.num_run == num_segments:
            end()

    return before(ServerActor, "run", die)


def refused(call: str, code: int) -> type:
    def refuse(*about: Any) -> int:
        raise OSError(code, os.strerror(code))

    return before(ServerActor, "open", lambda actor: setattr(os, call, refuse))


class NeverStarts(WorkerActor):
    def __init__(self, recipe: Recipe) -> None:
        raise OSError("libgomp.so.1 is missing")


class TakesNothing(WorkerActor):
    """A worker whose shards do not arrive: it answers, but never has them."""

    async def identify(self) -> Any:
        return super().identify()

    async def take(self, *shards: Any) -> Any:
        import asyncio

        await asyncio.Event().wait()


class CannotAttach(WorkerActor):
    """A worker that may not open the memory of its own host."""

    def attach(self, address: MemoryAddress) -> bool:
        return False


class OtherBuild(WorkerActor):
    """A worker whose arithmetic is that of no other process."""

    def identify(self) -> ActorIdentity:
        return replace(super().identify(), fingerprint=f"numpy of process {os.getpid()}")


class HasNan(WorkerActor):
    """A worker with a NaN in its gradients of round 9 until a file exists, and of round 15."""

    file: Path

    def sum_node(self, round_: int, node: TreeNode, vector: Vector, out: Vector) -> Contribution:
        done = super().sum_node(round_, node, vector, out)
        if round_ == 15 or (round_ == 9 and not self.file.exists()):
            self.file.touch()
            out[7] = np.nan
        return done
