"""The worker and the parameter server, each in a process of its own, wrapped for Ray from outside.

Inside a stretch they talk to each other: through shared memory where they can, else through calls.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL
from time import monotonic

from nanograd import blas
from nanograd.data.dataset import Dataset
from nanograd.distributed import transport
from nanograd.distributed.transport import Address, Segment
from nanograd.errors import DataError, InternalError
from nanograd.optimizers import Vector
from nanograd.training.recipe import Recipe
from nanograd.training.reduce import Node
from nanograd.training.server import ParameterServer, Snapshot
from nanograd.training.worker import Contribution, Worker


class WorkerActor(Worker):
    """A worker that holds no shards until it is given some."""

    def __init__(self, recipe: Recipe) -> None:
        blas.use_one_thread()
        super().__init__(recipe, {})
        self._segment: Segment | None = None

    def whoami(self) -> tuple[int, str]:
        """Process id on its host, and what the bits depend on there."""
        return os.getpid(), blas.fingerprint()

    def take(self, shard_ids: Sequence[int], *shards: Dataset) -> list[Node]:
        """Hold these shards (Ray resolves references only as top-level arguments); its nodes."""
        self.hold(dict(zip(shard_ids, shards, strict=True)))
        return self.nodes()

    def attach(self, address: Address) -> bool:
        """Whether the server's memory can be reached from here."""
        if self._segment is not None:
            self._segment.close()
        self._segment = transport.attach(address)
        return self._segment is not None

    def run(self, first: int, until: int) -> int:
        """Contribute to the rounds of a stretch through shared memory; the round it stopped at."""
        segment = _attached(self._segment)
        slots = [(segment.address.nodes.index(node), node) for node in self.nodes()]
        for round_ in range(first, until):
            if not segment.wait_for_round(round_, lambda: _is_alive(segment.address.pid)):
                return round_
            for slot, node in slots:
                done = self.sum_node(round_, node, segment.parameters, segment.gradients[slot])
                segment.send(slot, round_, done.loss, done.num_images)
        return until


class ServerActor(ParameterServer):
    """A parameter server that also runs stretches."""

    def __init__(self, recipe: Recipe, snapshot: Snapshot) -> None:
        blas.use_one_thread()
        super().__init__(recipe, snapshot)
        self._segment: Segment | None = None

    def whoami(self) -> tuple[int, str]:
        """Process id on its host, and what the bits depend on there."""
        return os.getpid(), blas.fingerprint()

    def open(self, nodes: tuple[Node, ...]) -> Address:
        """Shared memory for workers that send these nodes; what was open before is left."""
        self.forget()
        if self._segment is not None:
            self._segment.stop()
        before, self._segment = self._segment, transport.create(len(self.parameters()), nodes)
        self.use_memory(self._segment.parameters)
        if before is not None:
            before.close()
        return self._segment.address

    def run(self, until: int, deadline_s: float, pids: Sequence[int]) -> str | None:
        """Apply the rounds of a stretch from shared memory.

        Args:
            until: the round to end before.
            deadline_s: how long to wait for the contributions of a round.
            pids: the workers' processes; if one of them is gone the stretch ends.

        Returns:
            None if all rounds were applied, else why not.
        """
        segment = _attached(self._segment)
        while self.round < until:
            segment.publish(self.round)
            end = monotonic() + deadline_s
            if reason := self._wait(segment, end, pids) or self._submit_all(segment):
                segment.stop()
                return reason
        return None

    def kill(self, pid: int) -> None:
        """Kill the process of a worker that shares our memory, hence our host."""
        with suppress(ProcessLookupError):
            os.kill(pid, SIGKILL)

    def apply(self, *contributions: list[Contribution]) -> Vector:
        """Take what all workers sent for a round; the parameters of the next one."""
        for contribution in (each for sent in contributions for each in sent):
            if reason := self.submit(contribution):
                raise DataError(reason)
        return self.parameters()

    def _wait(self, segment: Segment, end: float, pids: Sequence[int]) -> str | None:
        """Wait for all gradients of a round; which did not come, if one did not."""
        late = segment.wait_for_slots(
            self.round, lambda: monotonic() < end and all(map(_is_alive, pids))
        )
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


def _attached(segment: Segment | None) -> Segment:
    if segment is None:
        raise InternalError("a stretch was begun without shared memory; please report this")
    return segment


def _is_alive(pid: int) -> bool:
    """Whether a process of this host is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
