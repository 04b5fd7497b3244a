"""The worker and the parameter server as actors, each in a process of its own.

Inside a segment of rounds they talk to each other without the driver: a worker that reaches the
server's memory through that, any other through calls. The server's rounds are the same for both.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from socket import gethostname, socket
from threading import Condition
from time import monotonic
from typing import Any, NamedTuple, TypeAlias

import ray
import ray.util

from nanograd.digits.dataset import Dataset
from nanograd.distributed import formation, shared_memory
from nanograd.distributed.all_reduce import (
    DIGEST_ROUNDS,
    Fail,
    FailureCause,
    MeshPlan,
    NodeSum,
    digest_of,
)
from nanograd.distributed.formation import Endpoint, Formation, MeshError
from nanograd.distributed.mesh import Mesh
from nanograd.distributed.shared_memory import MemoryAddress, MemorySegment
from nanograd.errors import InternalError
from nanograd.nn.optimizers import Vector
from nanograd.runtime import process
from nanograd.runtime.events import name_shards
from nanograd.training.recipe import Recipe
from nanograd.training.server import ParameterServer, Refusal, Snapshot
from nanograd.training.tree import TreeNode
from nanograd.training.worker import Contribution, Worker

# Concurrency group of the server's methods that may run during a segment of rounds.
CONCURRENT = "concurrent"
# A server that receives nothing checks its deadline and the stop flag this often.
_POLL_S = 20e-3


@dataclass(frozen=True)
class ActorIdentity:
    """Identity of an actor's process."""

    host: str  # Ray's id of its node
    pid: int  # its process id there
    name: str  # host name
    address: str  # IP address of the host, as Ray knows it
    fingerprint: str  # of numpy, BLAS and the processor, which determine the bits

    def __str__(self) -> str:
        return f"{self.name} at {self.address}"


class Wait(NamedTuple):
    """What a round waits for."""

    round: int  # the current round
    seconds: float  # since it began
    waits_for: tuple[str, ...]  # hosts, or shards of this host
    is_remote: bool  # whether only other hosts are awaited


@dataclass(frozen=True)
class LateShards:
    """Shards whose contribution did not arrive in time."""

    node: TreeNode

    def __str__(self) -> str:
        return f"{name_shards(range(*self.node))} did not arrive"


@dataclass(frozen=True)
class ExchangeFailed:
    """The exchange of sums with the servers of other hosts failed.

    Args:
        cause: of the failure.
        waiting_for: the hosts whose sums are missing, by index.
        peers: the hosts that caused it, if some did.
        hosts: names of all hosts.
    """

    cause: FailureCause
    waiting_for: frozenset[int]
    peers: frozenset[int]
    hosts: tuple[str, ...]

    def __str__(self) -> str:
        cause = self.cause.name.lower().replace("_", " ")
        by = f" (host {self.names(self.peers)})" if self.peers else ""
        return f"{cause}{by}, waiting for {self.names(self.waiting_for) or 'no host'}"

    @property
    def suspects(self) -> frozenset[int]:
        """Hosts from which frames are missing, or whose connection was lost."""
        return (
            self.waiting_for
            if self.cause is FailureCause.ABORTED
            else self.waiting_for | self.peers
        )

    def names(self, hosts: frozenset[int]) -> str:
        """Return the names of some hosts."""
        return " and ".join(self.hosts[host] for host in sorted(hosts))


SegmentFailure: TypeAlias = Refusal | LateShards | ExchangeFailed


class WorkerActor(Worker):
    """A worker that holds no shards until it receives some."""

    def __init__(self, recipe: Recipe) -> None:
        process.use_one_thread()
        process.keep_freed()
        process.ignore_loaded_modules()
        super().__init__(recipe, {})
        self._memory: MemorySegment | None = None

    def identify(self) -> ActorIdentity:
        """Return the identity of this process."""
        return this_process()

    def take(self, shard_ids: Sequence[int], *shards: Dataset) -> list[TreeNode]:
        """Hold these shards and return their tree nodes.

        Ray resolves references only as top-level arguments.
        """
        self.hold(dict(zip(shard_ids, shards, strict=True)))
        return self.nodes()

    def attach(self, address: MemoryAddress) -> bool:
        """Open the server's memory; return whether that is possible from here."""
        before, self._memory = self._memory, None
        if before is not None:
            before.close()
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
    """A parameter server that runs segments of rounds, alone or with those of other hosts."""

    def __init__(self, recipe: Recipe, snapshot: Snapshot) -> None:
        process.use_one_thread()
        process.keep_freed()
        process.ignore_loaded_modules()
        super().__init__(recipe, snapshot)
        self._memory: MemorySegment | None = None
        self._listener: socket | None = None
        self._mesh: Mesh | None = None
        self._hosts: tuple[str, ...] = ()
        self._began: float | None = None  # time when the current round began
        # Held while the memory is replaced or filled; notified when parameters are published.
        self._changed = Condition()

    def identify(self) -> ActorIdentity:
        """Return the identity of this process."""
        return this_process()

    def open(self, nodes: tuple[TreeNode, ...], is_alone: bool) -> MemoryAddress:
        """Create memory in place of the one before.

        Args:
            nodes: the tree nodes that workers send.
            is_alone: whether this is the only server.
        """
        self.stop()
        with self._changed:
            self._leave_mesh()
            self.own(frozenset(shard for node in nodes for shard in range(*node)))
            self.forget()
            before = self._memory
            self._memory = shared_memory.create(len(self.parameters()), nodes, is_alone=is_alone)
            self.use_memory(self._memory.parameters)
            if before is not None:
                before.close()
            return self._memory.address

    def listen(self, ports: Sequence[int]) -> Endpoint | MeshError:
        """Listen for the servers of other hosts, until `join`; return where, or why not.

        Args:
            ports: to try, in this order; 0 for any.
        """
        address = _node_address()
        self._leave_mesh()
        try:
            self._listener = formation.listen(address, ports)
        except MeshError as error:
            return error
        return Endpoint(gethostname(), address, self._listener.getsockname()[1])

    def join(self, plan: MeshPlan, key: bytes, endpoints: Sequence[Endpoint]) -> int | MeshError:
        """Connect to the servers of all other hosts.

        Returns:
            The number of refused connections, or which hosts cannot be reached and why.
        """
        if self._listener is None:
            raise InternalError("a mesh was joined without listening; please report this")
        handshakes = Formation(plan.me, key, endpoints)
        listener, self._listener = self._listener, None
        try:
            sockets = handshakes.run(listener)
        except MeshError as error:
            return error
        self.connect(plan, sockets, [each.name for each in endpoints])
        return handshakes.num_refused

    def connect(self, plan: MeshPlan, sockets: Mapping[int, socket], hosts: Sequence[str]) -> None:
        """Exchange sums over these sockets from now on.

        Args:
            plan: who sends what.
            sockets: one for each peer.
            hosts: names of all hosts.
        """
        self._hosts = tuple(hosts)
        self._mesh = Mesh(plan, sockets, self.round, _opened(self._memory).bell)

    def digest(self) -> str:
        """Return a checksum of the whole state, which all servers must have in common."""
        return self.snapshot().digest()

    def stop(self) -> None:
        """End the segment of rounds that is running, if any; call it concurrently."""
        with self._changed:
            if self._memory is not None:
                self._memory.stop()
            self._changed.notify_all()

    def waiting(self) -> Wait | None:
        """Return what the current round waits for, if one is computed; call it concurrently."""
        began, links, memory = self._began, self._mesh, _opened(self._memory)
        if began is None:
            return None
        round_, seconds = self.round, monotonic() - began
        if late := memory.late_slot(round_):
            name = self._hosts[links.machine.plan.me] if links else gethostname()
            here = (f"{name_shards(range(*late))} on host {name}",)
            return Wait(round_, seconds, here, is_remote=False)
        hosts = sorted(links.machine.waiting_for()) if links else []
        names = tuple(f"host {self._hosts[each]}" for each in hosts)
        return Wait(round_, seconds, names, is_remote=True)

    def run(self, until: int, deadline_s: float) -> SegmentFailure | None:
        """Apply a segment of rounds.

        Args:
            until: the round after the last one.
            deadline_s: seconds to wait for the contributions of a round.

        Returns:
            None if all rounds were applied, else the cause of the failure.
        """
        memory, links = _opened(self._memory), self._mesh
        step = partial(self._exchange_round, links) if links else self._run_round
        try:
            while self.round < until:
                with self._changed:
                    memory.publish(self.round)
                    self._changed.notify_all()
                self._began = monotonic()
                if failure := step(memory, self._began + deadline_s):
                    self.stop()
                    self._leave_mesh()
                    return failure
        finally:
            self._began = None
        if links:
            self._send_rest(links, memory, monotonic() + deadline_s)
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
                if not memory.sent(slot).round < each.round == memory.published:
                    return None  # repeated, or of another round
                memory.gradients[slot][...] = each.gradient
                memory.send(slot, each.round, each.loss, each.num_images)
            if awaited is None:
                return None
            self._changed.wait_for(lambda: memory.stopped or memory.published >= awaited)
            return None if memory.stopped else memory.parameters.copy()

    def _run_round(self, memory: MemorySegment, deadline: float) -> SegmentFailure | None:
        late = memory.wait_for_slots(self.round, lambda: monotonic() < deadline)
        return LateShards(late) if late else self._submit_all(memory)

    def _exchange_round(
        self, links: Mesh, memory: MemorySegment, deadline: float
    ) -> SegmentFailure | None:
        """Apply a round together with the servers of the other hosts."""
        digest = None if self.round % DIGEST_ROUNDS else digest_of(self.parameters())
        links.start_round(deadline, digest)
        is_sent = False
        while links.ready is None:
            if not is_sent and memory.late_slot(self.round) is None:
                is_sent = True
                if refusal := self._submit_all(memory):
                    links.stop()
                    return refusal
                links.add_local(
                    {s.node: NodeSum(s.gradient, s.loss, s.num_images) for s in self.sums()}
                )
                continue
            links.poll(_POLL_S)
            if memory.stopped:
                links.stop()
            if (failure := links.machine.failure) is not None:
                # A frozen server that goes on may be late although its shards have arrived.
                late = memory.late_slot(self.round) if failure.cause is FailureCause.LATE else None
                return LateShards(late) if late else self._describe(failure)
        total = links.ready
        self.apply(
            Contribution(
                round=total.round,
                node=links.machine.plan.root,
                gradient=total.total,
                loss=total.loss,
                num_images=total.num_images,
            )
        )
        links.applied()
        return None

    def _send_rest(self, links: Mesh, memory: MemorySegment, deadline: float) -> None:
        """Send what is queued: between two segments nobody does, and a host may wait for it.

        If that fails, the host that waits reports it.
        """
        while links.is_sending and links.machine.failure is None:
            if memory.stopped or monotonic() > deadline:
                return
            links.poll(_POLL_S)

    def _describe(self, failure: Fail) -> ExchangeFailed:
        return ExchangeFailed(failure.cause, failure.waiting_for, failure.peers, self._hosts)

    def _leave_mesh(self) -> None:
        if self._listener is not None:
            self._listener.close()
        if self._mesh is not None:
            self._mesh.close()
        self._listener = self._mesh = None

    def _submit_all(self, memory: MemorySegment) -> Refusal | None:
        for slot, node in enumerate(memory.address.nodes):
            sent = memory.sent(slot)
            refusal = self.submit(
                Contribution(
                    round=sent.round,
                    node=node,
                    gradient=memory.gradients[slot],
                    loss=sent.loss,
                    num_images=sent.num_images,
                )
            )
            if refusal is not None:
                return refusal
        return None


def this_process() -> ActorIdentity:
    """Return the identity of this process."""
    return ActorIdentity(
        host=ray.get_runtime_context().get_node_id(),
        pid=os.getpid(),
        name=gethostname(),
        address=_node_address(),
        fingerprint=process.fingerprint(),
    )


def _node_address() -> str:
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


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
