"""Workers and servers that die, freeze, are slow, far away or wrong.

Their settings are class attributes, see `variant`.
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import ray.cloudpickle

from nanograd.distributed.actors import ActorIdentity, SegmentFailure, ServerActor, WorkerActor
from nanograd.distributed.group import RayGroup
from nanograd.distributed.shared_memory import MemoryAddress
from nanograd.nn.optimizers import Vector
from nanograd.training.recipe import Recipe
from nanograd.training.server import Snapshot
from nanograd.training.tree import TreeNode
from nanograd.training.worker import Contribution

# Processes of Ray cannot import this module, so its classes are pickled by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def variant(kind: type, **values: object) -> type:
    """Return a class of actors with other settings."""
    return type("Variant", (kind,), values)


def pids(group: RayGroup) -> dict[str, int]:
    """Return the process ids of `server` (the first one) and of the ranks of the workers."""
    host = next(iter(group.servers.present))
    workers = {str(rank): each.identity.pid for rank, each in group.members.present.items()}
    return {"server": group.servers.identity(host).pid, **workers}


class DiesAtFirst(WorkerActor):
    """A worker whose process ends while it starts, as often as there are files in a folder."""

    marks: str

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        for mark in Path(self.marks).iterdir():
            mark.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


class NeverStarts(WorkerActor):
    """A worker whose environment is broken."""

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


class Far(WorkerActor):
    """A worker that may be far: only the first to attach to a memory reaches it.

    Each creates a file in a folder that is named after its kind, near or far, and its process.
    """

    folder: str

    def attach(self, address: MemoryAddress) -> bool:
        try:
            Path(self.folder, str(address.token)).touch(exist_ok=False)
        except FileExistsError:
            Path(self.folder, f"far-{os.getpid()}").touch()
            self._memory = None
            return False
        Path(self.folder, f"near-{os.getpid()}").touch()
        return super().attach(address)


class OtherBuild(WorkerActor):
    """A worker whose arithmetic is that of no other process."""

    def identify(self) -> ActorIdentity:
        return replace(super().identify(), fingerprint=f"numpy of process {os.getpid()}")


class NanAtRoundNine(WorkerActor):
    """A worker whose gradient of round 9 has a NaN, until a folder holds `most` files."""

    folder: str
    most: int

    def sum_node(self, round_: int, node: TreeNode, vector: Vector, out: Vector) -> Contribution:
        done = super().sum_node(round_, node, vector, out)
        if round_ == 9 and len(os.listdir(self.folder)) < self.most:  # noqa: PTH208
            Path(self.folder, f"{os.getpid()}-{node}").touch()
            out[7] = np.nan
        return done


class SlowToStart(ServerActor):
    """A server on a busy machine."""

    def __init__(self, *about: Any) -> None:
        sleep(6)
        super().__init__(*about)


class SlowSnapshot(ServerActor):
    """A server whose state takes longer to send than it is waited for."""

    def snapshot(self) -> Snapshot:
        sleep(2)
        return super().snapshot()


class DiesAfter(ServerActor):
    """A server that dies when it has run some segments."""

    num_segments: int

    def run(self, until: int, deadline_s: float) -> SegmentFailure | None:
        if not self.num_segments:
            os.kill(os.getpid(), signal.SIGKILL)
        self.num_segments -= 1
        return super().run(until, deadline_s)


class DiesOnce(ServerActor):
    """A server that dies when it is opened, unless a file exists."""

    mark: str

    def open(self, *arguments: Any) -> MemoryAddress:
        if not Path(self.mark).exists():
            Path(self.mark).touch()
            os._exit(1)
        return super().open(*arguments)


class Refused(ServerActor):
    """A server to which the system refuses a call."""

    call: str
    code: int

    def open(self, *arguments: Any) -> MemoryAddress:
        def refuse(*about: Any) -> int:
            raise OSError(self.code, os.strerror(self.code))

        setattr(os, self.call, refuse)
        return super().open(*arguments)


class FreezesWhenCopied(ServerActor):
    """A server that freezes before it sends its state."""

    def snapshot(self) -> Snapshot:
        os.kill(os.getpid(), signal.SIGSTOP)
        return super().snapshot()


class FreezesWhenRestored(ServerActor):
    """A server that freezes before it takes another state."""

    def restore(self, snapshot: Snapshot) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
