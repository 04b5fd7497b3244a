"""Workers and servers that do not start, are far away or lack memory."""

import os
import sys
from errno import ENOMEM

import ray.cloudpickle

from nanograd.distributed.actors import ServerActor, WorkerActor
from nanograd.distributed.group import RayGroup
from nanograd.distributed.shared_memory import MemoryAddress
from nanograd.training.recipe import Recipe
from nanograd.training.tree import TreeNode

# Processes of Ray cannot import this module, so its classes are pickled by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def pids(group: RayGroup) -> dict[str, int]:
    """Return the process ids of `server` (the first one) and of the ranks of the workers."""
    host = next(iter(group.servers.present))
    workers = {str(rank): each.identity.pid for rank, each in group.members.present.items()}
    return {"server": group.servers.present[host].identity.pid, **workers}


class LacksMemory(ServerActor):
    """A server to which the system gives no memory for vectors."""

    def open(self, nodes: tuple[TreeNode, ...], is_alone: bool) -> MemoryAddress:
        def refuse(*about: object) -> int:
            raise OSError(ENOMEM, os.strerror(ENOMEM))

        os.posix_fallocate = refuse
        return super().open(nodes, is_alone)


class NeverStarts(WorkerActor):
    """A worker whose environment is broken."""

    def __init__(self, recipe: Recipe) -> None:
        raise OSError("libgomp.so.1 is missing")


class CannotAttach(WorkerActor):
    """A worker that may not open the memory of its own host."""

    def attach(self, address: MemoryAddress) -> bool:
        return False
