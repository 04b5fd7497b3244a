"""The worker and the parameter server, each in a process of its own, wrapped for Ray from outside.

Inside a stretch they talk to each other: a worker that reaches the server's memory through that,
any other through calls. The server's rounds are the same for both.
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
from nanograd.distributed.shared_memory import Address, Segment
from nanograd.errors import InternalError
from nanograd.nn.optimizers import Vector
from nanograd.runtime import process
from nanograd.training.recipe import Recipe
from nanograd.training.server import ParameterServer, Snapshot
from nanograd.training.tree import Node
from nanograd.training.worker import Contribution, Worker

# The server's methods that may run beside a stretch.
BESIDE = "beside"


@dataclass(frozen=True)
class Identity:
    """Who an actor is.

    Args:
        node: Ray's id of its node.
        pid: of its process there.
        fingerprint: what the bits depend on there.
    """

    node: str
    pid: int
    fingerprint: str


class WorkerActor(Worker):
    """A worker that holds no shards until it is given some."""

    def __init__(self, recipe: Recipe) -> None:
        process.use_one_thread()
        process.keep_freed()
        super().__init__(recipe, {})
        self._segment: Segment | None = None

    def whoami(self) -> Identity:
        """Who this is."""
        return _identity()

    def take(self, shard_ids: Sequence[int], *shards: Dataset) -> list[Node]:
        """Hold these shards (Ray resolves references only as top-level arguments); its nodes."""
        self.hold(dict(zip(shard_ids, shards, strict=True)))
        return self.nodes()

    def attach(self, address: Address) -> bool:
        """Whether the server's memory can be reached from here."""
        if self._segment is not None:
            self._segment.close()
        self._segment = shared_memory.attach(address)
        return self._segment is not None

    def run(self, first: int, until: int, server: Any, token: int) -> int:
        """Contribute to the rounds of a stretch; the round it stopped at.

        Args:
            first: the round to begin with.
            until: the round to end before.
            server: whom to call if its memory is out of reach.
            token: of the server's memory.
        """
        if self._segment is not None:
            return self._run_in_memory(self._segment, first, until)
        exchange = server.exchange.options(concurrency_group=BESIDE)
        vector = ray.get(exchange.remote(token, [], first))
        for round_ in range(first, until):
            if vector is None:
                return round_
            awaited = round_ + 1 if round_ + 1 < until else None
            sent = exchange.remote(token, self.contribute(round_, vector), awaited)
            self.prepare(round_ + 1)
            vector = ray.get(sent)
        return until

    def _run_in_memory(self, segment: Segment, first: int, until: int) -> int:
        slots = [(segment.address.nodes.index(node), node) for node in self.nodes()]
        for round_ in range(first, until):
            if not segment.wait_for_round(round_, lambda: _is_alive(segment.address.pid)):
                return round_
            for slot, node in slots:
                done = self.sum_node(round_, node, segment.parameters, segment.gradients[slot])
                segment.send(slot, round_, done.loss, done.num_images)
            self.prepare(round_ + 1)
        return until


class ServerActor(ParameterServer):
    """A parameter server that also runs stretches."""

    def __init__(self, recipe: Recipe, snapshot: Snapshot) -> None:
        process.use_one_thread()
        super().__init__(recipe, snapshot)
        self._segment: Segment | None = None
        # Held while the memory changes or is filled in; told when parameters are published.
        self._news = Condition()

    def whoami(self) -> Identity:
        """Who this is."""
        return _identity()

    def open(self, nodes: tuple[Node, ...]) -> Address:
        """Memory for workers that send these nodes; what was open before is left."""
        self.stop()
        with self._news:
            self.forget()
            before, self._segment = (
                self._segment,
                shared_memory.create(len(self.parameters()), nodes),
            )
            self.use_memory(self._segment.parameters)
            if before is not None:
                before.close()
            return self._segment.address

    def stop(self) -> None:
        """End the stretch, if one is under way (to be called beside it)."""
        with self._news:
            if self._segment is not None:
                self._segment.stop()
            self._news.notify_all()

    def run(self, until: int, deadline_s: float) -> str | None:
        """Apply the rounds of a stretch.

        Args:
            until: the round to end before.
            deadline_s: how long to wait for the contributions of a round.

        Returns:
            None if all rounds were applied, else why not.
        """
        segment = _opened(self._segment)
        while self.round < until:
            with self._news:
                segment.publish(self.round)
                self._news.notify_all()
            if reason := self._wait(segment, deadline_s) or self._submit_all(segment):
                self.stop()
                return reason
        return None

    def exchange(
        self, token: int, contributions: Sequence[Contribution], awaited: int | None
    ) -> Vector | None:
        """Fill in for a worker that cannot reach the memory (to be called beside a stretch).

        Args:
            token: of the memory that is meant.
            contributions: what the worker sends.
            awaited: the round whose parameters it waits for; None if for none.

        Returns:
            (P,) float32, a copy of the parameters; None if none are awaited or the stretch ended.
        """
        with self._news:
            segment = _opened(self._segment)
            if segment.address.token != token:
                return None  # it comes late: the memory is not what it was
            for each in contributions:
                slot = segment.address.nodes.index(each.node)
                segment.gradients[slot][...] = each.gradient
                segment.send(slot, each.round, each.loss, each.num_images)
            if awaited is None:
                return None
            self._news.wait_for(lambda: segment.stopped or segment.published >= awaited)
            return None if segment.stopped else segment.parameters.copy()

    def _wait(self, segment: Segment, deadline_s: float) -> str | None:
        """Wait for all gradients of a round; which did not come, if one did not."""
        end = monotonic() + deadline_s
        late = segment.wait_for_slots(self.round, lambda: monotonic() < end)
        return None if late is None else f"shards {late[0]}-{late[1] - 1} did not arrive"

    def _submit_all(self, segment: Segment) -> str | None:
        round_ = self.round
        for slot, node in enumerate(segment.address.nodes):
            loss, num_images = segment.sent(slot)
            reason = self.submit(
                Contribution(
                    round=round_,
                    node=node,
                    gradient=segment.gradients[slot],
                    loss=loss,
                    num_images=num_images,
                )
            )
            if reason is not None:
                return reason
        return None


def _identity() -> Identity:
    return Identity(ray.get_runtime_context().get_node_id(), os.getpid(), process.fingerprint())


def _opened(segment: Segment | None) -> Segment:
    if segment is None:
        raise InternalError("a stretch was begun without memory; please report this")
    return segment


def _is_alive(pid: int) -> bool:
    """Whether a process of this host is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
