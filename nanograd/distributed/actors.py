"""The worker and the parameter server as actors, each in a process of its own.

Inside a segment of rounds they talk to each other without the driver: a worker that reaches the
server's memory through that, any other through calls. The server's rounds are the same for both.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Condition
from time import monotonic
from typing import Any

import ray

from nanograd.data.dataset import Dataset
from nanograd.distributed import shared_memory
from nanograd.distributed.shared_memory import MemoryAddress, MemorySegment
from nanograd.errors import InternalError
from nanograd.nn.optimizers import Vector
from nanograd.runtime import process
from nanograd.training.recipe import Recipe
from nanograd.training.server import ParameterServer, Refusal, Snapshot
from nanograd.training.tree import TreeNode
from nanograd.training.worker import Contribution, Worker

# Concurrency group of the server's methods that may run during a segment of rounds.
CONCURRENT = "concurrent"


@dataclass(frozen=True)
class ActorIdentity:
    """Identity of an actor's process."""

    host: str  # Ray's id of its node
    pid: int  # its process id there
    fingerprint: str  # of numpy and BLAS, which determine the bits


@dataclass(frozen=True)
class LateShards:
    """Shards whose contribution did not arrive in time."""

    node: TreeNode

    def __str__(self) -> str:
        return f"shards {self.node[0]}-{self.node[1] - 1} did not arrive"


class WorkerActor(Worker):
    """A worker that holds no shards until it receives some."""

    def __init__(self, recipe: Recipe) -> None:
        process.use_one_thread()
        process.keep_freed()
        super().__init__(recipe, {})
        self._memory: MemorySegment | None = None

    def identify(self) -> ActorIdentity:
        """Return the identity of this process."""
        return _identity()

    def take(self, shard_ids: Sequence[int], *shards: Dataset) -> list[TreeNode]:
        """Hold these shards and return their tree nodes.

        Ray resolves references only as top-level arguments.
        """
        self.hold(dict(zip(shard_ids, shards, strict=True)))
        return self.nodes()

    def attach(self, address: MemoryAddress) -> bool:
        """Open the server's memory; return whether that is possible from here."""
        if self._memory is not None:
            self._memory.close()
        self._memory = shared_memory.attach(address)
        return self._memory is not None

    def run(self, first: int, until: int, server: Any, token: int) -> int:
        """Contribute to a segment of rounds; return the next round.

        Args:
            first: the first round.
            until: the round after the last one.
            server: to call if its memory is out of reach.
            token: of the server's memory.
        """
        if self._memory is not None:
            return self._run_in_memory(self._memory, first, until)
        exchange = server.exchange.options(concurrency_group=CONCURRENT)
        vector = ray.get(exchange.remote(token, [], first))
        for round_ in range(first, until):
            if vector is None:
                return round_
            awaited = round_ + 1 if round_ + 1 < until else None
            sent = exchange.remote(token, self.contribute(round_, vector), awaited)
            self.prepare(round_ + 1)
            vector = ray.get(sent)
        return until

    def _run_in_memory(self, memory: MemorySegment, first: int, until: int) -> int:
        slots = [(memory.address.nodes.index(node), node) for node in self.nodes()]
        for round_ in range(first, until):
            if not memory.wait_for_round(round_, lambda: _is_alive(memory.address.pid)):
                return round_
            for slot, node in slots:
                done = self.sum_node(round_, node, memory.parameters, memory.gradients[slot])
                memory.send(slot, round_, done.loss, done.num_images)
            self.prepare(round_ + 1)
        return until


class ServerActor(ParameterServer):
    """A parameter server that runs segments of rounds."""

    def __init__(self, recipe: Recipe, snapshot: Snapshot) -> None:
        process.use_one_thread()
        super().__init__(recipe, snapshot)
        self._memory: MemorySegment | None = None
        # Held while the memory is replaced or filled; notified when parameters are published.
        self._changed = Condition()

    def identify(self) -> ActorIdentity:
        """Return the identity of this process."""
        return _identity()

    def open(self, nodes: tuple[TreeNode, ...]) -> MemoryAddress:
        """Create memory for workers that send these tree nodes, in place of the one before."""
        self.stop()
        with self._changed:
            self.forget()
            before = self._memory
            self._memory = shared_memory.create(len(self.parameters()), nodes)
            self.use_memory(self._memory.parameters)
            if before is not None:
                before.close()
            return self._memory.address

    def stop(self) -> None:
        """End the segment of rounds that is running, if any; call it concurrently."""
        with self._changed:
            if self._memory is not None:
                self._memory.stop()
            self._changed.notify_all()

    def run(self, until: int, deadline_s: float) -> Refusal | LateShards | None:
        """Apply a segment of rounds.

        Args:
            until: the round after the last one.
            deadline_s: seconds to wait for the contributions of a round.

        Returns:
            None if all rounds were applied, else the cause of the failure.
        """
        memory = _opened(self._memory)
        while self.round < until:
            with self._changed:
                memory.publish(self.round)
                self._changed.notify_all()
            end = monotonic() + deadline_s
            late = memory.wait_for_slots(self.round, lambda: monotonic() < end)  # noqa: B023 - called at once
            if failure := LateShards(late) if late else self._submit_all(memory):
                self.stop()
                return failure
        return None

    def exchange(
        self, token: int, contributions: Sequence[Contribution], awaited: int | None
    ) -> Vector | None:
        """Stand in for the memory of a worker that cannot reach it; call it concurrently.

        Args:
            token: of the memory.
            contributions: of the worker.
            awaited: the round whose parameters to wait for, or None.

        Returns:
            (P,) float32, a copy of the parameters; None if none are awaited or the segment ended.
        """
        with self._changed:
            memory = _opened(self._memory)
            if memory.address.token != token:
                return None  # a late call: the memory has been replaced
            for each in contributions:
                slot = memory.address.nodes.index(each.node)
                memory.gradients[slot][...] = each.gradient
                memory.send(slot, each.round, each.loss, each.num_images)
            if awaited is None:
                return None
            self._changed.wait_for(lambda: memory.stopped or memory.published >= awaited)
            return None if memory.stopped else memory.parameters.copy()

    def _submit_all(self, memory: MemorySegment) -> Refusal | None:
        round_ = self.round
        for slot, node in enumerate(memory.address.nodes):
            loss, num_images = memory.sent(slot)
            refusal = self.submit(
                Contribution(
                    round=round_,
                    node=node,
                    gradient=memory.gradients[slot],
                    loss=loss,
                    num_images=num_images,
                )
            )
            if refusal is not None:
                return refusal
        return None


def _identity() -> ActorIdentity:
    return ActorIdentity(
        ray.get_runtime_context().get_node_id(), os.getpid(), process.fingerprint()
    )


def _opened(memory: MemorySegment | None) -> MemorySegment:
    if memory is None:
        raise InternalError("rounds were started without memory; please report this")
    return memory


def _is_alive(pid: int) -> bool:
    """Return whether a process of this host exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
