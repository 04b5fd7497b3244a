"""The worker and the parameter server as actors, each in a process of its own.

During a segment of rounds, workers and servers exchange parameters and gradients without the
driver. They use shared memory if the worker can open the memory of the server. Otherwise, the
worker calls the server through Ray. The server computes its rounds in the same way for both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from socket import gethostname, socket
from threading import Condition
from time import monotonic
from typing import Any, NamedTuple, TypeAlias, TypeVar

import ray
import ray.util

from nanograd.digits.dataset import Dataset
from nanograd.distributed import shared_memory
from nanograd.distributed.all_reduce import AllReduce, ExchangeFailed, FailureCause, MeshPlan
from nanograd.distributed.mesh import Endpoint, Formation, MeshError, open_listener
from nanograd.distributed.shared_memory import MemoryAddress, MemorySegment
from nanograd.errors import InternalError
from nanograd.nn.optimizers import Vector
from nanograd.runtime import machine, process
from nanograd.runtime.events import name_shards
from nanograd.training.recipe import Recipe
from nanograd.training.server import ParameterServer, Refusal, Snapshot, Update
from nanograd.training.tree import TreeNode
from nanograd.training.worker import Contribution, Worker

# Concurrency group of the server's methods that may run during a segment of rounds.
CONCURRENT = "concurrent"
# A server that receives nothing checks its deadline and the stop flag this often.
_POLL_S = 20e-3
_Thing = TypeVar("_Thing")


@dataclass(frozen=True)
class ActorIdentity:
    """Identity of an actor's process."""

    host: str  # Ray's ID of the node
    process: str  # name of the process, see `machine.owner`
    name: str  # host name
    address: str  # IP address of the host, as Ray knows it
    fingerprint: str  # describes numpy, BLAS and the processor, which determine the bits

    @property
    def pid(self) -> int:
        """Process ID."""
        return machine.pid_of(self.process)

    def __str__(self) -> str:
        return f"{self.name} at {self.address}"


def this_process() -> ActorIdentity:
    """Return the identity of this process."""
    return ActorIdentity(
        host=ray.get_runtime_context().get_node_id(),
        process=machine.owner(),
        name=gethostname(),
        address=str(ray.util.get_node_ip_address()),  # type: ignore[no-untyped-call]
        fingerprint=process.fingerprint(),
    )


class Wait(NamedTuple):
    """What a round waits for."""

    round: int  # the current round
    seconds: float  # since the round began
    waits_for: tuple[str, ...]  # hosts, or shards of this host
    is_remote: bool  # whether it waits only for other hosts


@dataclass(frozen=True)
class LateShards:
    """Shards whose contribution did not arrive in time."""

    node: TreeNode

    def __str__(self) -> str:
        return f"{name_shards(range(*self.node))} did not arrive"


SegmentFailure: TypeAlias = Refusal | LateShards | ExchangeFailed


class WorkerActor(Worker):
    """A worker as a Ray actor; `take` gives it its shards."""

    identify = staticmethod(this_process)

    def __init__(self, recipe: Recipe) -> None:
        process.prepare_actor()
        super().__init__(recipe, {})
        self._update = Update(recipe)
        self._memory: MemorySegment | None = None

    def take(self, shard_ids: Sequence[int], *shards: Dataset) -> list[TreeNode]:
        """Hold these shards; return the tree nodes whose sums the worker will send.

        Each shard is an argument of its own, because Ray resolves only top-level references.
        """
        self.hold(dict(zip(shard_ids, shards, strict=True)))
        return self.nodes

    def attach(self, address: MemoryAddress) -> bool:
        """Open the server's memory; return whether this process can open it."""
        before, self._memory = self._memory, None
        if before is not None:
            before.close()
        self._memory = shared_memory.attach(address)
        if self._memory is not None:
            self._memory.join(self.nodes)
        return self._memory is not None

    def run(self, first: int, until: int, server: Any, token: int) -> None:
        """Contribute to the rounds below `until`; without its memory, call the `server`."""
        if (memory := self._memory) is not None:
            slots = [(memory.address.nodes.index(node), node) for node in self.nodes]
            for round_ in range(first, until):
                if not (round_ > first and memory.is_shared) and not memory.wait_for_round(round_):
                    return
                vector = memory.parameters(round_)
                for slot, node in slots:
                    done = self.sum_node(round_, node, vector, memory.gradients[slot])
                    memory.send(slot, round_, done.loss, done.num_images)
                self.prepare(round_ + 1)
                if memory.is_shared and not self._share_update(memory, round_, slots, until):
                    return
            return
        exchange = server.exchange.options(concurrency_group=CONCURRENT)
        vector = ray.get(exchange.remote(token, [], first))
        for round_ in range(first, until):
            if vector is None:
                return
            awaited = round_ + 1 if round_ + 1 < until else None
            sent = exchange.remote(token, self.contribute(round_, vector), awaited)
            self.prepare(round_ + 1)
            vector = ray.get(sent)

    def _share_update(
        self, memory: MemorySegment, round_: int, slots: Sequence[tuple[int, TreeNode]], until: int
    ) -> bool:
        """Update the own slices of the parameters; return whether the next round may begin."""
        if not memory.wait_for_sums(round_):
            return False
        is_done = all(memory.update(slot, round_, self._update) for slot, _ in slots)
        if not is_done or round_ + 1 == until:
            memory.ring()
        return is_done and memory.wait_for_slices(round_ + 1)


class ServerActor(ParameterServer):
    """A parameter server that runs segments of rounds, alone or with servers of other hosts."""

    identify = staticmethod(this_process)

    def __init__(self, recipe: Recipe, snapshot: Snapshot) -> None:
        process.prepare_actor()
        super().__init__(recipe, snapshot)
        self._memory: MemorySegment | None = None
        self._listener: socket | None = None
        self._mesh: AllReduce | None = None
        self._began: float | None = None  # time when the current round began
        # Held while the memory is replaced or filled; notified when parameters are published.
        self._changed = Condition()

    def open(self, nodes: tuple[TreeNode, ...], is_alone: bool) -> MemoryAddress:
        """Replace the memory by one for the tree nodes that workers send; return its address."""
        self.stop()
        with self._changed:
            self._leave_mesh()
            before = self._memory
            number, length = self._vectors.shape
            self._memory = shared_memory.create(length, number, nodes, is_alone=is_alone)
            self.use_memory(self._memory.states[0])
            if before is not None:
                before.close()
            if is_alone:  # a mesh without peers
                plan = MeshPlan(
                    generation=0,
                    me=0,
                    hosts=(gethostname(),),
                    nodes=(nodes,),
                    root=self._root,
                    num_parameters=length,
                )
                self.connect(plan, {})
            return self._memory.address

    def listen(self, ports: Sequence[int]) -> Endpoint | MeshError:
        """Listen on the first free port until `join`; return the endpoint, or the error."""
        address = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        self._leave_mesh()
        try:
            self._listener = open_listener(address, ports)
        except MeshError as error:
            return error
        return Endpoint(gethostname(), address, self._listener.getsockname()[1])

    def join(self, plan: MeshPlan, key: bytes, endpoints: Sequence[Endpoint]) -> int | MeshError:
        """Connect to all other hosts; return the number of refused connections, or the error."""
        handshakes = Formation(plan.me, key, endpoints)
        listener, self._listener = _present(self._listener), None
        try:
            self.connect(plan, handshakes.run(listener))
        except MeshError as error:
            return error
        return handshakes.num_refused

    def connect(self, plan: MeshPlan, sockets: Mapping[int, socket]) -> None:
        """Use these sockets, one for each peer, to exchange sums from now on."""
        self._mesh = AllReduce(plan, sockets, self.round, _present(self._memory).bell)

    def reached(self) -> int:
        """Return the current round."""
        return self.round

    def stop(self) -> None:
        """End the running segment of rounds, if any; may be called during a segment."""
        with self._changed:
            if self._memory is not None:
                self._memory.stop()
            self._changed.notify_all()

    def waiting(self) -> Wait | None:
        """Return what the current round waits for, or None; may be called during a segment."""
        began, mesh, memory = self._began, self._mesh, self._memory
        if began is None or mesh is None or memory is None:
            return None
        round_, seconds = max(self.round, memory.complete), monotonic() - began
        plan = mesh.plan
        if late := memory.late_slot(round_):
            here = (f"{name_shards(range(*late))} on host {plan.hosts[plan.me]}",)
            return Wait(round_, seconds, here, is_remote=False)
        names = tuple(f"host {plan.hosts[each]}" for each in sorted(mesh.waiting_for()))
        return Wait(round_, seconds, names, is_remote=True)

    def run(self, until: int, deadline_s: float) -> SegmentFailure | None:
        """Apply all rounds below `until`, each within `deadline_s`; return the first failure."""
        memory, mesh = _present(self._memory), _present(self._mesh)
        is_shared = not mesh.plan.peers and memory.can_share
        try:
            while self.round < until:
                with self._changed:
                    if is_shared:
                        self.use_memory(memory.states[self.round % 2])
                        memory.share(self.round, self.progress)
                    memory.publish(self.round)
                    self._changed.notify_all()
                self._began = monotonic()
                if is_shared:
                    failure = self._follow(memory, until, deadline_s)
                else:
                    failure = self._exchange_round(mesh, memory, self._began + deadline_s)
                if failure is not None:
                    self.stop()
                    self._leave_mesh()
                    return failure
        finally:
            self._began = None
        # Send queued frames now: another host may wait for them, and nothing is sent between two
        # segments. If sending fails, that host reports it; the driver stops what takes too long.
        while mesh.is_sending and mesh.failure is None and not memory.stopped:
            mesh.poll(_POLL_S)
        return None

    def _follow(
        self, memory: MemorySegment, until: int, deadline_s: float
    ) -> SegmentFailure | None:
        """Wait for the rounds below `until`, whose updates the workers share."""
        reached = self.round
        while (now := memory.complete) < until and not (memory.is_doubtful or memory.stopped):
            if now > reached:
                reached, self._began = now, monotonic()
            deadline = _present(self._began) + deadline_s
            if not memory.wait_for_bell() and monotonic() >= deadline:
                break
        if now < until:
            memory.stop()  # before the last look at what is complete: no later state begins
            now = memory.complete
        self.adopt(now, memory.states[now % 2], memory.progress(now))
        if now >= until:
            return None
        if memory.is_doubtful:
            return self.submit(memory.all_sent())
        return LateShards(memory.late_slot(now) or memory.address.nodes[0])

    def exchange(
        self, token: int, contributions: Sequence[Contribution], awaited: int | None
    ) -> Vector | None:
        """Take contributions of a worker that cannot open the server's memory.

        It may be called during a segment. A `token` of an earlier memory makes it have no effect.
        Return a copy of the parameters, (P,) float32, with which the round `awaited` begins; None
        without such a round, or if the segment has ended.
        """
        with self._changed:
            memory = _present(self._memory)
            if memory.address.token != token:
                return None  # a late call: the memory has been replaced
            for each in contributions:
                slot = memory.address.nodes.index(each.node)
                if not memory.sent(slot).round < each.round == memory.published:
                    return None  # the contribution is repeated, or belongs to another round
                memory.gradients[slot][...] = each.gradient
                memory.send(slot, each.round, each.loss, each.num_images)
            if awaited is None:
                return None
            self._changed.wait_for(lambda: memory.stopped or memory.published >= awaited)
            return None if memory.stopped else memory.states[0, 0].copy()

    def _exchange_round(
        self, mesh: AllReduce, memory: MemorySegment, deadline: float
    ) -> SegmentFailure | None:
        """Apply a round together with the servers of the other hosts."""
        mesh.deadline = deadline
        is_sent = False
        while (total := mesh.ready) is None:
            if not is_sent and memory.late_slot(self.round) is None:
                is_sent = True
                sums = self.sums(memory.all_sent())
                if isinstance(sums, Refusal):
                    return sums
                mesh.add_local(sums)
                continue
            mesh.poll(_POLL_S)
            if memory.stopped:
                mesh.fail(FailureCause.STOPPED)
            if (failure := mesh.failure) is not None:
                # A server that was frozen may be late although its shards have arrived.
                late = memory.late_slot(self.round) if failure.cause is FailureCause.LATE else None
                return LateShards(late) if late else failure
        self.apply(total)
        mesh.applied()
        return None

    def _leave_mesh(self) -> None:
        for each in (self._listener, self._mesh):
            if each is not None:
                each.close()
        self._listener = self._mesh = None


def _present(thing: _Thing | None) -> _Thing:
    """Return a value that `open` or `listen` must have set; InternalError without it."""
    if thing is None:
        raise InternalError("rounds were started without memory; please report this")
    return thing
