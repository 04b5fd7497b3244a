"""Simulation of training on several hosts, with virtual time, slow links and faults.

The product's code runs as it is: `RayGroup`, `Members`, `Servers`, `ServerActor`, `WorkerActor`,
and `AllReduce`. Simulated are what stands below it: Ray, sockets and their selector, shared memory,
the handshakes of a formation and the clock. A worker's sums are a function of the round,
the shard and all parameters, so that any confusion changes the bits.

A seed determines a schedule: hosts, or one host whose workers share the update, links, segments and
faults. It must end in time, without an exception; each round that a server applies must give the
parameters of an undisturbed run; at the end of a segment no server is behind, and no process holds
memory, a selector or a connection of an earlier membership; only who has a fault fails or is
blamed.
"""

import gc
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from nanograd.distributed import actors, all_reduce, group, members, servers
from nanograd.distributed.actors import ActorIdentity, SegmentFailure, ServerActor, WorkerActor
from nanograd.distributed.group import RayGroup
from nanograd.distributed.mesh import FORMATION_S, Endpoint, MeshError
from nanograd.distributed.shared_memory import MemoryAddress, MemorySegment
from nanograd.errors import ClusterError
from nanograd.nn.mlp import Architecture
from nanograd.nn.optimizers import Vector
from nanograd.runtime import events
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.server import LossSum, ParameterServer, Snapshot, Update, first_snapshot
from nanograd.training.tree import TreeNode, tree_sum
from nanograd.training.worker import Contribution, add
from tests.helpers.simulated_network import Bell, Link, Network, Selector, Socket
from tests.helpers.simulated_ray import Actor, Host, SimulatedRay
from tests.helpers.virtual_time import Gate, Process, World

NUM_SHARDS, NUM_ROUNDS = 4, 6
# Inputs, hidden units and outputs of the nets: 3, 26 and 97 parameters.
NETS = ((0, 1, 1), (5, 3, 2), (10, 8, 1))
# Longer than all deadlines of a schedule's faults together.
MAX_TIME_S = 4000.0
# Between two tries to connect.
RETRY_S = 1.0
# After which a server that should stop has stopped.
STOP_S = 1.0
# Of faults that happen when a server begins to connect to the others.
JOINING = -1
FAULTY_S = (0.5, 8.0, 100.0, 1e9)


class ViolationError(AssertionError):
    """A broken promise."""


# What is computed


@cache
def task_of(net: tuple[int, int, int]) -> tuple[Recipe, list[Snapshot]]:
    """Return the computation with a net, and the state after each number of rounds."""
    batch, (inputs, hidden, classes) = 2 * NUM_SHARDS + 1, net
    settings = TrainSpec(
        batch_size=batch, shards=NUM_SHARDS, epochs=2, optimizer="momentum", warmup=0, ema=0.5
    )
    architecture = Architecture(
        inputs=inputs, hidden=hidden, classes=classes, activation="relu", loss="mse"
    )
    recipe = make_recipe(settings, 3 * batch)
    recipe = replace(recipe, architecture=architecture)
    vector = np.linspace(-1, 1, recipe.architecture.num_parameters, dtype=np.float32)
    start = first_snapshot(recipe, vector)
    server, root, history = ParameterServer(recipe, start), (0, NUM_SHARDS), [start]
    for round_ in range(NUM_ROUNDS):
        server.submit([node_sum(recipe, round_, root, server.parameters())])
        history.append(server.snapshot())
    return recipe, history


def node_sum(recipe: Recipe, round_: int, node: TreeNode, vector: Vector) -> Contribution:
    def leaf(at: TreeNode) -> Contribution | None:
        shard, end = at
        if end - shard > 1:
            return None
        part = recipe.plan.micro_batch(round_, shard)
        gradient = np.float32(0.1 * (shard + 1)) * vector
        gradient += np.float32((round_ + 1) / (shard + 3))
        # The loss does not depend on the round: its checks must not be what finds a late frame.
        return Contribution(round_, at, gradient, 0.1 * shard, part.stop - part.start)

    return tree_sum(node, leaf, add)


# What stands below the product's code


class Memory(MemorySegment):
    """Shared memory whose waits take virtual time."""

    def __init__(self, world: World, process: Process, address: MemoryAddress) -> None:
        self.address, self._world, self.owner = address, world, process
        num_floats = (address.num_bytes - 8 * address.num_words) // 4
        self._divide(np.zeros(address.num_words, np.int64), np.zeros(num_floats, np.float32))
        self._end, self._gate, self.stop_time = Bell(), Gate(world), math.inf
        self.is_closed = False
        process.at_exit.append(self._gate.open)
        self.publish(-1)

    @property
    def bell(self) -> Any:
        return self._end

    def close(self) -> None:
        self.is_closed = True

    def stop(self) -> None:
        if not self.stopped:
            self.stop_time = self._world.now
        super().stop()

    def _wake(self, index: int) -> None:
        self._world.step()
        self._gate.open()
        if self.stopped and self._end.selector is not None:
            self._end.selector.interrupt()

    def _wait(self, index: int, value: int) -> bool:
        while self._words[index, 0] < value:
            if self.stopped or not self.owner.is_alive:
                return False
            self._gate.wait(1.0)
        return True

    def ring(self) -> None:
        self._world.step()
        self._end.ring()
        self._gate.open()

    def wait_for_bell(self) -> bool:
        self._gate.wait(1.0)
        return False


class Formation:
    """The handshakes between the servers of a generation, which need both directions of a link."""

    num_refused = 0

    def __init__(self, me: int, key: bytes, endpoints: Sequence[Endpoint]) -> None:
        self._me, self._size, self._key = me, len(endpoints), key

    def run(self, listener: Any) -> dict[int, Any]:
        simulation: Simulation = listener.simulation
        world, network = simulation.world, simulation.network
        gate, present = simulation.meetings.setdefault(self._key, (Gate(world), {}))
        self._sockets: dict[int, Socket] = {}
        present[self._me] = (self._sockets, world.process)
        deadline = world.now + FORMATION_S
        gate.open()
        while len(self._sockets) < self._size - 1:
            for peer, (theirs, process) in present.items():
                is_new = peer != self._me and peer not in self._sockets and process.is_alive
                if is_new and network.is_up(world.process.host, process.host):
                    self._sockets[peer], theirs[self._me] = network.connect(world.process, process)
                    gate.open()
            if len(self._sockets) == self._size - 1:
                break
            if world.now >= deadline:
                del present[self._me]
                for sock in self._sockets.values():
                    sock.close()
                missing = set(range(self._size)) - {self._me, *self._sockets}
                pairs = frozenset((min(self._me, each), max(self._me, each)) for each in missing)
                raise MeshError(f"hosts {sorted(pairs)} are not connected", pairs)
            gate.wait(RETRY_S)
        world.step()
        return self._sockets


# The hosts


class Simulation:
    def __init__(self, seed: int, *, is_alone: bool = False, is_traced: bool = False) -> None:
        self.world = World(seed, is_traced=is_traced)
        self.random = chance = random.Random(seed)  # noqa: S311 - nothing secret
        self.recipe, self.history = task_of(chance.choice(NETS))
        number = chance.choice([2, 2, 2, 3, 3, 4])
        cpus = chance.choice([1, 2])
        self.num_workers = number
        if is_alone:  # one host with all workers
            number, cpus = 1, number
        self.hosts = [Host(f"host{each}", cpus, f"{each + 1:056x}") for each in range(number)]
        self.ray = SimulatedRay(self.world, self.hosts)
        self.ray.on_start, self.ray.on_error = self._arm, self._fail
        self.driver = Process(self.world, "driver", "host0")
        names = [host.name for host in self.hosts]
        self.network = Network(
            self.world, {(a, b): _link(chance) for a in names for b in names if a != b}
        )
        self.meetings: dict[bytes, Any] = {}
        self.memories: dict[int, Memory] = {}
        # Memory and selectors that processes have opened.
        self.opened: list[tuple[Process, Memory | Selector]] = []
        self.compute_s = chance.choice([1e-3, 0.1])
        ends = sorted(chance.sample(range(1, NUM_ROUNDS), chance.choice([1, 1, 2, 3])))
        self.ends = ends
        num_faults = chance.choice([0, 1, 1, 1, 2, 3])
        self.faults = [_fault(chance, number, ends) for _ in range(num_faults)]
        # Those that wait until a server connects to the others, or applies their round.
        self.later: dict[Process, Fault] = {}
        self.faulty = set[str]()  # names of hosts and processes that had a fault
        self.injected: list[str] = []  # the kinds of the faults so far
        self.error: BaseException | None = None
        self.is_started = False
        self.events: list[Any] = []

    def run(self) -> "Simulation":
        """Run to the end; raise AssertionError if a promise is broken or somebody waits forever."""
        with _installed(self):
            self.world.spawn(self.driver, self._drive)
            try:
                self.world.run(MAX_TIME_S)
            finally:
                self.world.close()
        if self.error is not None:
            raise ViolationError(repr(self.error)) from self.error
        self._check_events()
        return self

    # The driver's program

    def _drive(self) -> None:
        try:
            recipe = replace(self.recipe, spec=replace(self.recipe.spec, workers=self.num_workers))
            made = RayGroup(recipe, Images(), self.history[0], self._listen)
            for until in self.ends:
                self.is_started = True
                made.advance(until)
                self._check_end(until)
            state = made.snapshot()
            self.check(state)
            if state.round != self.ends[-1]:
                raise ViolationError(f"a copy of round {state.round}")
            made.close()
        except ClusterError as error:  # no group without its first servers, as documented
            self.error = error if self.is_started or not self.faulty else None
        except Exception as error:  # noqa: BLE001 - any is a violation
            self.error = error
        self.world.is_over = True

    def _listen(self, event: events.Event) -> None:
        self.world.log(f"{event.name}: {event}")
        self.events.append(event)

    # Checks

    def _fail(self, error: Exception) -> None:
        self.error = self.error or error
        self.world.is_over = True

    def check(self, state: Snapshot) -> None:
        wanted = self.history[state.round]
        if state.vector.tobytes() != wanted.vector.tobytes():
            raise ViolationError(f"wrong parameters after {state.round} rounds")
        if state.progress != wanted.progress:
            raise ViolationError(f"wrong loss after {state.round} rounds")

    def _check_end(self, until: int) -> None:
        self.world.log(f"{until} rounds are applied")
        for actor in self.ray.actors:
            if not actor.holds_cpu or actor.is_dead or actor.process.name in self.faulty:
                continue
            if isinstance(actor.instance, ServerActor) and actor.instance.round != until:
                raise ViolationError(f"{actor.process.name} is at round {actor.instance.round}")
            mine = [each for process, each in self.opened if process is actor.process]
            held = Counter[object](type(each) for each in mine if not each.is_closed)
            held.update(self.network.peers(actor.process))
            if max(held.values(), default=0) > 1:
                raise ViolationError(f"{actor.process.name} holds {held}")

    def _check_events(self) -> None:
        for each in self.events:
            if each.name == "host_lost" and each.facts["host"] not in self.faulty:
                raise ViolationError(f"{each}: it had no fault")
        names = [each.name for each in self.events]
        has_others = len(self.injected) < len(self.hosts)
        if {*self.injected} <= {"kill"} and has_others and "server_lost" in names:
            raise ViolationError("a process was killed, and servers without a fault were given up")
        wrong = [each for each in self.events if each.name not in ("started", "waiting")]
        if not self.faulty and (wrong or len(self.meetings) > 1):
            raise ViolationError(f"without a fault: {len(self.meetings)} meshes, {wrong}")

    # Faults

    def _arm(self, actor: Actor) -> None:
        """Prepare the next fault of a process that starts."""
        role = "server" if issubclass(actor.kind, ServerActor) else "worker"
        mine = [f for f in self.faults if (f.role, self.hosts[f.host]) == (role, actor.host)]
        if mine:
            fault, process = mine[0], actor.process
            self.faults.remove(fault)
            process.fault = lambda process: self._inject(fault, actor)
            if fault.round is None:
                process.fuse = fault.fuse
            else:
                self.later[process] = fault

    def light(self, process: Process, moment: int) -> None:
        """Light the fuse of a fault of a process if its moment has come."""
        fault = self.later.get(process)
        if fault is not None and fault.round is not None and moment >= fault.round:
            process.fuse = self.later.pop(process).fuse

    def _inject(self, fault: "Fault", actor: Actor) -> None:
        process, kind, host = actor.process, fault.kind, actor.host
        self.world.log(f"fault: {kind}")
        self.injected.append(kind)
        self.faulty |= {process.name, str(_identity(actor)), host.name}
        others = [each for each in self.hosts if each is not host]
        if kind == "kill":
            process.kill()
        elif kind == "freeze":
            process.freeze(fault.seconds)
        elif kind == "lose" and host.name != self.driver.host:
            self.ray.lose(host)
            for other in others:
                self.network.cut(host.name, other.name, fault.seconds)
            self.world.at(fault.seconds, self.ray.restart, host)
        elif kind == "cut" and others:
            other = self.random.choice(others)
            ends = [(host.name, other.name), (other.name, host.name)]
            self.network.cut(*self.random.choice(ends), fault.seconds)
        else:
            process.kill()


@dataclass(frozen=True, kw_only=True)
class Fault:
    kind: str  # kill, freeze, lose (with its host) or cut (a link of its host, in one direction)
    role: str  # server or worker
    host: int  # index of its host
    # The fuse burns when the server applies this round, or from JOINING on; None from its start.
    round: int | None
    fuse: int  # number of system calls until the fault
    seconds: float  # duration, except of a kill


def _fault(chance: random.Random, num_hosts: int, ends: Sequence[int]) -> Fault:
    role = chance.choice(["server", "server", "worker"])
    kinds = ["kill", "freeze", "lose", "cut"] if role == "server" else ["kill", "freeze"]
    at_end = role == "server" and chance.random() < 0.5
    return Fault(
        kind=chance.choice(kinds),
        role=role,
        host=chance.randrange(num_hosts),
        round=chance.choice(ends) - 1 if at_end else None,
        fuse=chance.randint(1, 12) if at_end else chance.randint(1, 150),
        seconds=chance.choice(FAULTY_S),
    )


def _link(chance: random.Random) -> Link:
    is_slow = chance.random() < 0.5
    return Link(
        bytes_per_s=chance.choice([100.0, 400.0, 2000.0]) if is_slow else 1e7,
        latency_s=chance.choice([1e-4, 0.05]),
        send_buffer=chance.choice([100, 300, 100_000]),
        window=chance.choice([100, 300, 100_000]),
        has_low_water=chance.random() < 0.8,
    )


class Images:
    """The training images, which nobody looks at."""

    def take(self, part: slice) -> "Images":
        return self


def _identity(actor: Actor) -> ActorIdentity:
    host = actor.host
    return ActorIdentity(host.node, f"m-{actor.pid}-0", host.name, host.name, "numpy")


@contextmanager
def _installed(simulation: Simulation) -> Iterator[None]:
    """Put the simulated world below the product's code."""
    world, ray = simulation.world, simulation.ray

    def here() -> Actor:
        return next(each for each in ray.actors if each.process is world.process)

    class Server(ServerActor):
        def identify(self) -> ActorIdentity:
            return _identity(here())

        def run(self, until: int, deadline_s: float) -> SegmentFailure | None:
            failure = super().run(until, deadline_s)
            stopped_s = world.now - memories[self._memory.address.token].stop_time
            if stopped_s > STOP_S and world.process.name not in simulation.faulty:
                raise ViolationError(f"stopped only after {stopped_s:.1f} s")
            return failure

        def join(self, *about: Any) -> Any:
            if world.process in simulation.later:
                simulation.light(world.process, JOINING)
                world.step()
            return super().join(*about)

        def adopt(self, round_: int, vectors: Vector, progress: LossSum) -> None:
            super().adopt(round_, vectors, progress)
            simulation.check(self.snapshot())

        def apply(self, total: Contribution) -> None:
            process = world.process
            world.step()
            before = self.round
            super().apply(total)
            if (total.round, self.round) != (before, before + 1):
                raise ViolationError(f"round {total.round} was applied at round {before}")
            simulation.check(self.snapshot())
            simulation.light(process, before)

    class Worker(WorkerActor):
        def identify(self) -> ActorIdentity:
            return _identity(here())

        def sum_node(self, round_: int, node: TreeNode, vector: Vector, out: Vector) -> Any:
            world.step()
            made = node_sum(self._recipe, round_, node, vector)
            half = len(out) // 2
            out[:half] = made.gradient[:half]
            world.sleep(simulation.compute_s * world.random.random())
            out[half:] = made.gradient[half:]
            return replace(made, gradient=out)

        def prepare(self, round_: int) -> None:
            world.step()

    class SlowUpdate(Update):
        """An update in whose middle a worker may die."""

        def apply(self, sums: Any, part: slice, before: Any, after: Any) -> bool:
            middle = (part.start + part.stop) // 2
            first = super().apply(sums, slice(part.start, middle), before, after)
            world.sleep(simulation.compute_s * world.random.random())
            return super().apply(sums, slice(middle, part.stop), before, after) and first

    def create(
        num_parameters: int, num_vectors: int, nodes: tuple[TreeNode, ...], *, is_alone: bool
    ) -> Memory:
        token = len(memories) + 1
        address = MemoryAddress(
            process=f"m-{here().pid}-0", descriptor=-1, bell=-1, token=token,
            num_parameters=num_parameters, num_vectors=num_vectors, nodes=nodes, spins=0,
        )  # fmt: skip
        memories[token] = opened(Memory(world, world.process, address))
        return memories[token]

    def attach(address: MemoryAddress) -> Memory | None:
        memory = memories[address.token]
        return opened(copy(memory)) if memory.owner.host == world.process.host else None

    def opened(thing: Any) -> Any:
        simulation.opened.append((world.process, thing))
        return thing

    memories = simulation.memories
    listener = SimpleNamespace(
        simulation=simulation, close=lambda: None, getsockname=lambda: ("", 1)
    )

    class Condition(Gate):
        """No other coroutine of the process runs while one holds it."""

        def __init__(self) -> None:
            super().__init__(world)
            self.notify_all = self.open

        def __enter__(self) -> None:
            pass

        def __exit__(self, *about: object) -> None:
            pass

    replaced: dict[Any, dict[str, Any]] = {
        all_reduce: {
            "selectors": SimpleNamespace(
                DefaultSelector=lambda: opened(Selector(world)), EVENT_READ=1, EVENT_WRITE=2
            ),
            "os": SimpleNamespace(read=lambda bell, count: bell.read()),
        },
        actors: {
            "ray": ray,
            "process": SimpleNamespace(prepare_actor=lambda: None, fingerprint=lambda: "numpy"),
            "shared_memory": SimpleNamespace(create=create, attach=attach),
            "Update": SlowUpdate,
            "Formation": Formation,
            "open_listener": lambda address, ports: listener,
            "Condition": Condition,
            "gethostname": lambda: world.process.host,
        },
        servers: {"ray": ray, "ServerActor": Server},
        members: {"ray": ray, "WorkerActor": Worker},
        group: {"ray": ray},
    }
    with ExitStack() as stack:
        for module, names in replaced.items():
            if hasattr(module, "monotonic"):
                names["monotonic"] = lambda: world.now
            stack.enter_context(patch.multiple(module, **names))
        yield


def trace_of(seed: int, *, is_alone: bool = False) -> str:
    """Return what happens in a schedule, for people."""
    simulation = Simulation(seed, is_alone=is_alone, is_traced=True)
    try:
        simulation.run()
        end = "no violation"
    except AssertionError as error:
        end = f"{type(error).__name__}: {error}"
    return "\n".join([f"seed {seed}", *simulation.world.trace, end])


def violation(seeds: range, *, is_alone: bool = False) -> int | None:
    """Return the first seed whose schedule breaks a promise."""
    gc.collect()
    gc.freeze()  # cycles of references are looked for among the objects of schedules alone
    gc.disable()
    try:
        for seed in seeds:
            if not seed % 100:
                gc.collect()
            try:
                Simulation(seed, is_alone=is_alone).run()
            except AssertionError:
                return seed
        return None
    finally:
        gc.enable()
        gc.unfreeze()
