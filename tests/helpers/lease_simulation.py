"""Processes that compete for a place in virtual time: the real lease, all around it simulated.

A process runs until it waits: for a request to the store, for time, or for another thread. At each
wait it may stop, its machine may be suspended, or it may be killed. The store is one copy, whose
lists may show later what was written; a file that one list shows is in all later lists. Clocks of
machines differ in what they show and by up to a tenth in their speed.

References:
    Greenlets are switched by hand, so that a schedule follows from its seed.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf
from typing import Any

import pytest
from greenlet import getcurrent, greenlet

from nanograd.errors import DataError, OutputExistsError
from nanograd.runtime import lease, storage

# Of the leases, in virtual seconds.
LEASE_S = lease.LEASE_S


class Killed(BaseException):
    """Ends the greenlets of a process that is killed."""


@dataclass
class Process:
    """A process, which may have several threads."""

    number: int
    machine: int
    offset: float  # of its machine's clock, s
    rate: float  # of that clock
    frozen_until: float = 0.0
    suspended_s: float = 0.0
    killed: bool = False
    outcome: str = "runs"


@dataclass
class Schedule:
    """What may happen: numbers are probabilities at each wait, or virtual seconds."""

    stop: float = 0.0
    stop_s: tuple[float, float] = (0.1 * LEASE_S, 3 * LEASE_S)
    kill: float = 0.0
    faults_until: float = 600.0  # no process is stopped or killed after this time
    latency_s: float = 0.05
    lag_s: float = 0.0  # of lists
    hides_until: float = 0.0  # no list shows the claim of another process before this time
    machines: int = 3
    processes: int = 3
    apart_s: float = 60.0  # between the first and the last start
    work_s: float = 40.0  # longest pause between two commits
    commits: int | None = None  # of each process after its first; None for 0 to 6


@dataclass
class World:
    """Virtual time, the store, and what processes did.

    Args:
        seed: of all that is random.
        schedule: what may happen.
    """

    seed: int
    schedule: Schedule
    now: float = 0.0
    # Time of each commit, and the name of the claim under which it was made.
    holds: list[tuple[float, str]] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)  # noqa: S311 - no secret
        self._events: list[tuple[float, int, greenlet, object]] = []
        self._num_events = 0
        self._process: dict[greenlet, Process] = {}
        self._token: dict[greenlet, object] = {}
        self._hub = getcurrent()
        self._files: dict[str, bytes] = {}
        # When lists begin to show a file, and when they cease to.
        self._listed: dict[str, tuple[float, float]] = {}

    def run(self) -> None:
        """Run all processes to their ends.

        Raises:
            AssertionError: two held the place at once, or they do not come to an end.
        """
        schedule = self.schedule
        for number in range(schedule.processes):
            process = Process(
                number,
                self.random.randrange(schedule.machines),
                self.random.uniform(0, 1e6),
                1 + self.random.uniform(-0.05, 0.05),
            )
            self.processes.append(process)
            self._spawn(process, self._contend, self.random.uniform(0, schedule.apart_s))
        while self._events:
            time, _, thread, token = heappop(self._events)
            process = self._process[thread]
            if thread.dead or self._token[thread] is not token:
                continue
            if process.frozen_until > time and not process.killed:
                self._schedule(thread, process.frozen_until)
                continue
            self.now = max(self.now, time)
            assert self.now < 4000, "no end"
            thread.switch()

    @property
    def current(self) -> Process:
        return self._process[getcurrent()]

    def pause(self, seconds: float) -> None:
        """Let virtual time pass for this thread, and perhaps more for its process."""
        process, schedule = self.current, self.schedule
        if process.killed:
            raise Killed
        may_fail = self.now < schedule.faults_until
        if may_fail and self.random.random() < schedule.stop:
            frozen_s = self.random.uniform(*schedule.stop_s)
            process.frozen_until = self.now + frozen_s
            if self.random.random() < 0.5:
                process.suspended_s += frozen_s
        if may_fail and self.random.random() < schedule.kill:
            process.killed, process.outcome = True, "killed"
        self._schedule(getcurrent(), self.now + seconds)
        self._hub.switch()
        if process.killed:
            raise Killed

    def wait(self, deadline: float) -> None:
        """Suspend this thread until `wake` or a time."""
        self._schedule(getcurrent(), deadline)
        self._hub.switch()
        if self.current.killed:
            raise Killed

    def wake(self, thread: greenlet) -> None:
        """Let a suspended thread go on."""
        self._schedule(thread, self.now)

    def _contend(self) -> None:
        process = self.current
        try:
            with lease.exclusive("place") as held:
                self._commit(held)
                commits = self.schedule.commits
                for _ in range(self.random.randint(0, 6) if commits is None else commits):
                    self.pause(self.random.uniform(0, self.schedule.work_s))
                    held.check()
                    self._commit(held)
                self.pause(self.random.uniform(0, self.schedule.work_s))
            process.outcome = "ended"
        except OutputExistsError:
            process.outcome = "lost" if process.outcome == "held" else "refused"

    def _commit(self, held: Any) -> None:
        self.current.outcome = "held"
        self.holds.append((self.now, held._name))

    def _spawn(self, process: Process, run: Callable[[], object], delay_s: float) -> greenlet:
        def guarded() -> None:
            with suppress(Killed):
                run()

        thread = greenlet(guarded, self._hub)
        self._process[thread] = process
        self._schedule(thread, self.now + delay_s)
        return thread

    def _schedule(self, thread: greenlet, time: float) -> None:
        self._token[thread] = token = object()
        self._num_events += 1
        if time < inf:
            heappush(self._events, (time, self._num_events, thread, token))

    # The store.

    LEASE, join = storage.LEASE, staticmethod(storage.join)

    def remove_leftovers(self, place: str, *, below: bool) -> None:
        """Do nothing: a store has none."""

    def _request(self) -> None:
        self.pause(self.random.expovariate(1 / self.schedule.latency_s))

    @contextmanager
    def _write(self) -> Iterator[None]:
        """Carry out a write some time after it was sent, also if its sender was killed."""
        try:
            self._request()
        except Killed:
            if self.random.random() < 0.5:
                yield
            raise
        yield
        self._request()

    def leases(self, place: str) -> list[str]:
        self._request()
        hidden_until = self.schedule.hides_until
        found = [
            name.rpartition("/")[2]
            for name, (since, until) in self._listed.items()
            if since <= self.now < until and (self._owns(name) or self.now > hidden_until)
        ]
        self._request()
        return found

    def _owns(self, name: str) -> bool:
        return name.split(".")[1] == self.owner()

    def read(self, name: str) -> bytes:
        self._request()
        data = self._files.get(name)
        self._request()
        if data is None:
            raise DataError(name)
        return data

    def commit(self, name: str, data: bytes) -> None:
        lag_s = self.random.uniform(0, self.schedule.lag_s)
        with self._write():
            if name not in self._files:
                self._listed[name] = self.now + lag_s, inf
            self._files[name] = data

    def remove(self, name: str) -> None:
        with self._write():
            if self._files.pop(name, None) is not None:
                self._listed[name] = self._listed[name][0], self.now

    def left(self) -> set[str]:
        """Return the owners of the claims that are left."""
        return {name.split(".")[1] for name in self._files}

    # The machines.

    def owner(self, process: Process | None = None) -> str:
        process = process or self.current
        return f"{process.machine}-{process.number}-0"

    def is_alive(self, owner: str) -> bool | None:
        machine, number, _ = owner.split("-")
        if int(machine) != self.current.machine:
            return None
        return self.processes[int(number)].outcome not in ("killed", "ended", "refused", "lost")

    def boot_s(self, clock: int = 0) -> float:
        return self.now * self.current.rate + self.current.offset

    def monotonic(self) -> float:
        return self.boot_s() - self.current.suspended_s


class Event:
    """As threading.Event."""

    def __init__(self, world: World) -> None:
        self._world, self._is_set, self._waiting = world, False, list[greenlet]()

    def wait(self, timeout: float = inf) -> bool:
        deadline = self._world.now + timeout
        while not self._is_set and self._world.now < deadline:
            self._waiting.append(getcurrent())
            self._world.wait(deadline)
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        for each in self._waiting:
            self._world.wake(each)


class Lock:
    """As threading.Lock, for a with block."""

    def __init__(self, world: World) -> None:
        self._world, self._is_locked, self._waiting = world, False, list[greenlet]()

    def __enter__(self) -> None:
        while self._is_locked:
            self._waiting.append(getcurrent())
            self._world.wait(inf)
        self._is_locked = True

    def __exit__(self, *_: object) -> None:
        self._is_locked = False
        for each in self._waiting:
            self._world.wake(each)
        self._waiting.clear()


class Thread:
    """As threading.Thread."""

    def __init__(self, world: World, target: Callable[[], object], daemon: bool) -> None:
        self._world, self._target, self._ended = world, target, Event(world)
        self._thread: greenlet | None = None

    def start(self) -> None:
        def run() -> None:
            try:
                self._target()
            finally:
                self._ended.set()

        self._thread = self._world._spawn(self._world.current, run, 0.0)

    def is_alive(self) -> bool:
        return self._thread is not None and not self._ended._is_set

    def join(self) -> None:
        self._ended.wait()


@contextmanager
def simulated(seed: int, schedule: Schedule) -> Iterator[World]:
    """Let leases live in a world of their own inside a with block."""
    world = World(seed, schedule)
    names = (f"{number:016x}" for number in iter(lambda: world.random.getrandbits(64), None))
    replaced = {
        "storage": world,
        "machine": world,
        "SystemRandom": lambda: world.random,
        "sleep": world.pause,
        "monotonic": world.monotonic,
        "clock_gettime": world.boot_s,
        "StopSignal": lambda: Event(world),
        "Lock": lambda: Lock(world),
        "Thread": lambda **options: Thread(world, **options),
        "new_name": lambda: f".{world.owner()}.{next(names)}{storage.LEASE}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in replaced.items():
            patch.setattr(lease, name, value)
        yield world


def overlaps(holds: list[str]) -> bool:
    """Return whether a hold goes on after another has begun.

    >>> overlaps(["a", "a", "b"]), overlaps(["a", "b", "a"])
    (False, True)
    """
    begun = [name for number, name in enumerate(holds) if holds[number - 1 : number] != [name]]
    return len(begun) > len(set(begun))
