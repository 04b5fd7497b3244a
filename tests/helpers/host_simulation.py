"""Simulation of the exchange between hosts, with virtual time and random faults.

Hosts run the real `AllReduce` machine on a tiny model. A network delivers frames after random
delays; schedules drop connections (also half-open, where one side learns nothing), repeat and
reorder frames, freeze, crash and restart hosts. After a failure a controller does what the group
does: it levels the survivors by the state of the one that is ahead, assigns the shards again and
forms a new generation. Each applied round must give the parameters of an undisturbed run, a
schedule must end before its deadlines have passed, and without faults no host may fail. A seed
repeats a schedule exactly.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np

from nanograd.distributed.all_reduce import (
    AllReduce,
    Apply,
    Fail,
    FailureCause,
    FrameError,
    Header,
    MeshPlan,
    NodeSum,
    Send,
    digest_of,
)
from nanograd.nn.optimizers import Vector
from nanograd.training.local import assign_shards
from nanograd.training.tree import TreeNode, cover, tree_sum

NUM_SHARDS, NUM_PARAMETERS, NUM_ROUNDS = 8, 7, 6
ROOT = (0, NUM_SHARDS)
ROUND_DEADLINE, MAX_TIME = 50.0, 2000.0
MakeMachine = Callable[[MeshPlan, int], AllReduce]


def first_parameters() -> Vector:
    return np.linspace(-1, 1, NUM_PARAMETERS, dtype=np.float32)


def shard_sum(round_: int, shard: int, vector: Vector) -> NodeSum:
    """A gradient that depends on everything, so that any confusion changes the bits.

    The loss does not depend on the round: its checks must not be what finds a late frame.
    """
    gradient = np.float32(0.1 * (shard + 1)) * vector + np.float32(round_ + 1) / np.float32(
        shard + 3
    )
    return NodeSum(gradient.astype(np.float32), 0.1 * shard, shard + 1)


def add(left: NodeSum, right: NodeSum) -> NodeSum:
    return NodeSum(left[0] + right[0], left[1] + right[1], left[2] + right[2])


def node_sum(round_: int, node: TreeNode, vector: Vector) -> NodeSum:
    def leaf(at: TreeNode) -> NodeSum | None:
        return shard_sum(round_, at[0], vector) if at[1] - at[0] == 1 else None

    return tree_sum(node, leaf, add)


def update(vector: Vector, total: NodeSum) -> Vector:
    return vector - np.float32(0.05) * (total.gradient * np.float32(1 / total.num_images))


def golden_chain() -> list[str]:
    """The checksum of the parameters after each round of a single process."""
    vector, chain = first_parameters(), []
    for round_ in range(NUM_ROUNDS):
        vector = update(vector, node_sum(round_, ROOT, vector))
        chain.append(checksum(vector))
    return chain


def checksum(vector: Vector) -> str:
    return sha256(vector.tobytes()).hexdigest()


GOLDEN = golden_chain()


@dataclass
class Host:
    """A host with its replica of the state."""

    name: int
    vector: Vector = field(default_factory=first_parameters)
    round: int = 0
    machine: AllReduce | None = None
    nodes: tuple[TreeNode, ...] = ()
    frozen_until: float = 0.0
    is_up: bool = True
    until: int = 0


class ViolationError(AssertionError):
    """A wrong history, or a schedule that does not end."""


class Simulation:
    """One schedule.

    Args:
        seed: determines everything.
        make_machine: the state machine of a host.
        fault_rate: probability of a fault at each step.
    """

    def __init__(
        self, seed: int, make_machine: MakeMachine = AllReduce, fault_rate: float = 0.02
    ) -> None:
        self.random = random.Random(seed)  # noqa: S311 - nothing secret
        # One schedule in ten has no faults: then no host may fail.
        self.make_machine, self.fault_rate = make_machine, fault_rate * bool(seed % 10)
        self.now, self.generation, self.counter = 0.0, 0, 0
        self.hosts = [Host(name) for name in range(self.random.randint(2, 4))]
        self.links: dict[tuple[int, int], bool] = {}
        self.queue: list[tuple[float, int, int, Callable[[], None]]] = []
        self.arrival: dict[tuple[int, int], float] = {}
        self.applied: set[tuple[int, int]] = set()
        self.failed = False

    def run(self) -> int:
        """Run to the last round; return the number of generations."""
        while min(host.round for host in self.hosts if host.is_up) < NUM_ROUNDS:
            self._start_generation()
            self._run_generation()
        return self.generation

    # The controller

    def _start_generation(self) -> None:
        self.generation += 1
        self.failed = False
        for host in self.hosts:
            if not host.is_up and self.random.random() < 0.5:
                host.is_up, host.round, host.vector = True, -1, np.zeros(NUM_PARAMETERS, np.float32)
        present = [host for host in self.hosts if host.is_up]
        ahead = max(present, key=lambda host: host.round)
        if ahead.round < 0:  # all hosts were lost: the driver's copy
            ahead.round, ahead.vector = 0, first_parameters()
        for host in present:
            if host.round < ahead.round:
                host.round, host.vector = ahead.round, ahead.vector.copy()
        held = assign_shards(NUM_SHARDS, len(present), range(len(present)))
        nodes = tuple(tuple(cover(ROOT, frozenset(held[place]))) for place in range(len(present)))
        until = min(NUM_ROUNDS, ahead.round + self.random.randint(1, 4))
        self.queue.clear()
        self.arrival.clear()
        self.places = present
        self.links = {
            (a, b): True for a in range(len(present)) for b in range(len(present)) if a != b
        }
        for place, host in enumerate(present):
            host.frozen_until, host.nodes, host.until = 0.0, nodes[place], until
            plan = MeshPlan(
                generation=self.generation, me=place, nodes=nodes, root=ROOT,
                num_parameters=NUM_PARAMETERS,
            )  # fmt: skip
            host.machine = self.make_machine(plan, host.round)
        for place in range(len(present)):
            self._at(self.random.random(), place, lambda place=place: self._start_round(place))

    def _run_generation(self) -> None:
        started, end = self.now, self.now + 40 * ROUND_DEADLINE
        while self.queue:
            time, _, place, action = heapq.heappop(self.queue)
            self.now = max(self.now, time)
            if self.now > min(end, started + MAX_TIME):
                raise ViolationError(f"generation {self.generation} does not end")
            host = self.places[place]
            if not host.is_up:
                continue
            if host.frozen_until > self.now:
                self._at(host.frozen_until - self.now, place, action)
                continue
            action()
            if not self.fault_rate and host.machine and host.machine.failure:
                raise ViolationError(f"host {host.name} failed without a fault")
            if self.random.random() < self.fault_rate:
                self._inject_fault()
            if all(self._is_done(each) for each in self.places):
                return
        if not all(self._is_done(each) for each in self.places):
            raise ViolationError(f"generation {self.generation} waits for ever")

    def _is_done(self, host: Host) -> bool:
        machine = host.machine
        ended = machine is None or machine.failure is not None or host.round >= host.until
        return not host.is_up or ended

    # A host

    def _start_round(self, place: int) -> None:
        host = self.places[place]
        machine = host.machine
        if machine is None or machine.failure or host.round >= host.until:
            return
        digest = digest_of(host.vector) if host.round % 2 == 0 else None
        deadline = self.now + ROUND_DEADLINE
        self._carry_out(place, machine.start_round(deadline, digest))
        round_ = host.round
        self._at(ROUND_DEADLINE, place, lambda: self._tick(place, round_, machine))
        self._at(self.random.expovariate(1), place, lambda: self._add_local(place, round_, machine))

    def _add_local(self, place: int, round_: int, machine: AllReduce) -> None:
        host = self.places[place]
        if machine is host.machine and host.round == round_ and not machine.failure:
            sums = {node: node_sum(round_, node, host.vector) for node in host.nodes}
            self._carry_out(place, machine.add_local(sums))

    def _tick(self, place: int, round_: int, machine: AllReduce) -> None:
        if machine is self.places[place].machine and machine.round == round_:
            self._carry_out(place, machine.tick(self.now))

    def _carry_out(self, place: int, actions: list[Apply | Send | Fail]) -> None:
        for action in actions:
            if isinstance(action, Send):
                payload = None if action.payload is None else action.payload.copy()
                self._send(place, action.peer, action.header, payload)
            elif isinstance(action, Apply):
                self._apply(place, action)

    def _apply(self, place: int, action: Apply) -> None:
        host = self.places[place]
        total = NodeSum(action.total.copy(), action.loss, action.num_images)
        host.vector = update(host.vector, total)
        host.round += 1
        if action.round != host.round - 1 or checksum(host.vector) != GOLDEN[action.round]:
            raise ViolationError(f"host {host.name} has a wrong history after round {action.round}")
        if host.machine is not None:
            host.machine.applied()
        self._at(0.0, place, lambda: self._start_round(place))

    # The network

    def _at(self, delay: float, place: int, action: Callable[[], None]) -> None:
        self.counter += 1
        heapq.heappush(self.queue, (self.now + delay, self.counter, place, action))

    def _send(self, source: int, target: int, header: Header, payload: Vector | None) -> None:
        if not self.links[source, target]:
            return
        delay = self.random.expovariate(2)
        if self.random.random() > self.fault_rate:  # else this frame overtakes others
            arrival = max(self.now + delay, self.arrival.get((source, target), 0.0) + 1e-6)
            self.arrival[source, target] = arrival
            delay = arrival - self.now
        machine = self.places[target].machine
        copies = 2 if self.random.random() < self.fault_rate else 1
        for copy in range(copies):
            late = copy * self.random.expovariate(0.5)
            self._at(
                delay + late,
                target,
                lambda: self._deliver(source, target, header, payload, machine),
            )

    def _deliver(
        self, source: int, target: int, header: Header, payload: Vector | None,
        machine: AllReduce | None,
    ) -> None:  # fmt: skip
        if machine is None or machine.failure or not self.links[source, target]:
            return
        try:
            buffer = machine.buffer_for(Header.unpack(header.pack()))
        except FrameError:
            self._carry_out(target, machine.lose(source, FailureCause.BAD_FRAME))
            return
        if buffer is not None and payload is not None:
            buffer[...] = payload
        self._carry_out(target, machine.receive(header))

    def _inject_fault(self) -> None:
        place = self.random.randrange(len(self.places))
        host = self.places[place]
        kind = self.random.choice(["drop", "half-open", "freeze", "crash", "stop"])
        others = [each for each in range(len(self.places)) if each != place]
        if not others:
            return
        peer = self.random.choice(others)
        if kind == "freeze":
            host.frozen_until = self.now + self.random.choice([1.0, 20.0, 3 * ROUND_DEADLINE])
        elif kind == "crash":
            if sum(each.is_up for each in self.places) > 1:
                host.is_up = False
                for other in others:
                    self._disconnect(place, other)
        elif kind == "stop":
            if host.machine is not None:
                self._carry_out(place, host.machine.stop())
        else:
            self._disconnect(place, peer, half_open=kind == "half-open")

    def _disconnect(self, first: int, second: int, *, half_open: bool = False) -> None:
        for source, target in ((first, second), (second, first)):
            self.links[source, target] = False
            if half_open and source == first:
                continue  # this side never learns of it
            machine = self.places[target].machine
            delay = self.random.expovariate(0.2)
            self._at(delay, target, lambda t=target, s=source, m=machine: self._lose(t, s, m))

    def _lose(self, place: int, peer: int, machine: AllReduce | None) -> None:
        if machine is not None and machine is self.places[place].machine:
            self._carry_out(place, machine.lose(peer))
