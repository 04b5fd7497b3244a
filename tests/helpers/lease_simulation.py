"""Processes that compete for a place in virtual time: the real lease, all around it simulated.

At each request to the store and each wait a process may stop, its machine may be suspended, or it
may be killed. The store is one copy, whose lists may show later what was written; a file that one
list shows is in all later lists. Clocks of machines differ in what they show and in their speed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf

import pytest
from greenlet import GreenletExit

from nanograd.errors import DataError, OutputExistsError
from nanograd.runtime import lease, storage
from tests.helpers.virtual_time import Gate, Process, World

# Of the leases, in virtual seconds.
LEASE_S = lease.LEASE_S
MAX_TIME_S = 4000.0


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


class Contender(Process):
    """A process that wants the place, which may have several threads."""

    def __init__(self, world: "Place", number: int) -> None:
        machine = world.random.randrange(world.schedule.machines)
        super().__init__(world, str(number), str(machine))
        self.owner = f"{machine}-{number}-0"
        self.offset, self.rate = world.random.uniform(0, 1e6), world.random.uniform(0.95, 1.05)
        self.suspended_s, self.outcome = 0.0, "runs"

    @property
    def has_ended(self) -> bool:
        return self.outcome not in ("runs", "held")


class Place(World):
    """Virtual time, the store, and what processes did."""

    process: Contender

    def __init__(self, seed: int, schedule: Schedule) -> None:
        super().__init__(seed)
        self.schedule = schedule
        # Time of each commit, and the name of the claim under which it was made.
        self.holds: list[tuple[float, str]] = []
        self._files: dict[str, bytes] = {}
        # When lists begin to show a file, and when they cease to.
        self._listed: dict[str, tuple[float, float]] = {}
        self.processes = [Contender(self, number) for number in range(schedule.processes)]

    def compete(self) -> None:
        for process in self.processes:
            began = self.random.uniform(0, self.schedule.apart_s)
            self.at(began, self.spawn, process, self._contend)
        try:
            self.run(MAX_TIME_S)
        finally:
            self.close()

    def _contend(self) -> None:
        process, schedule = self.process, self.schedule
        try:
            with lease.exclusive("place") as held:
                self._commit(held.name)
                commits = schedule.commits
                for _ in range(self.random.randint(0, 6) if commits is None else commits):
                    self.pause(self.random.uniform(0, schedule.work_s))
                    held.check()
                    self._commit(held.name)
                self.pause(self.random.uniform(0, schedule.work_s))
            self._end("ended")
        except OutputExistsError:
            self._end("lost" if process.outcome == "held" else "refused")

    def _commit(self, name: str) -> None:
        self.process.outcome = "held"
        self.holds.append((self.now, name))

    def _end(self, outcome: str) -> None:
        self.process.outcome = outcome
        self.is_over = all(each.has_ended for each in self.processes)

    def pause(self, seconds: float) -> None:
        """Let virtual time pass for this thread, and perhaps more for its process."""
        process, schedule = self.process, self.schedule
        if process.is_alive and self.now < schedule.faults_until:
            if self.random.random() < schedule.stop:
                stop_s = self.random.uniform(*schedule.stop_s)
                process.freeze(stop_s)
                process.suspended_s += stop_s * self.random.randrange(2)
            if self.random.random() < schedule.kill:
                process.kill()
                self._end("killed")
        self.sleep(seconds)

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
        except GreenletExit:
            if self.random.random() < 0.5:
                yield
            raise
        yield
        self._request()

    def leases(self, place: str) -> list[str]:
        self._request()
        owner, hides = f".{self.process.owner}.", self.now <= self.schedule.hides_until
        found = [
            name.rpartition("/")[2]
            for name, (since, until) in self._listed.items()
            if since <= self.now < until and (owner in name or not hides)
        ]
        self._request()
        return found

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

    def is_alive(self, owner: str) -> bool | None:
        machine, number, _ = owner.split("-")
        if machine != self.process.host:
            return None
        return not self.processes[int(number)].has_ended

    def boot_s(self, clock: int = 0) -> float:
        return self.now * self.process.rate + self.process.offset

    def monotonic(self) -> float:
        return self.boot_s() - self.process.suspended_s

    def new_name(self) -> str:
        return f".{self.process.owner}.{self.random.getrandbits(64):016x}{storage.LEASE}"


class Event(Gate):
    is_set = False

    def wait(self, timeout: float = inf) -> bool:
        deadline = self._world.now + timeout
        while not self.is_set and self._world.now < deadline:
            super().wait(None if deadline == inf else deadline - self._world.now)
        return self.is_set

    def set(self) -> None:
        self.is_set = True
        self.open()


class Lock(Gate):
    is_locked = False

    def __enter__(self) -> None:
        while self.is_locked:
            self.wait()
        self.is_locked = True

    def __exit__(self, *_: object) -> None:
        self.is_locked = False
        self.open()


class Thread:
    def __init__(self, world: World, target: Callable[[], object]) -> None:
        self._world, self._target, self._ended = world, target, Event(world)
        self._is_started = False

    def start(self) -> None:
        def run() -> None:
            self._target()
            self._ended.set()

        self._is_started = True
        self._world.spawn(self._world.process, run)

    def is_alive(self) -> bool:
        return self._is_started and not self._ended.is_set

    def join(self) -> None:
        self._ended.wait()


def competed(seed: int, schedule: Schedule) -> Place:
    """Let leases live in a world of their own, to the end of all processes.

    Raises:
        AssertionError: they do not come to an end.
    """
    world = Place(seed, schedule)
    replaced = {
        "storage": world,
        "machine": world,
        "SystemRandom": lambda: world.random,
        "sleep": world.pause,
        "monotonic": world.monotonic,
        "clock_gettime": world.boot_s,
        "StopSignal": lambda: Event(world),
        "Lock": lambda: Lock(world),
        "Thread": lambda target, daemon: Thread(world, target),
        "new_name": world.new_name,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in replaced.items():
            patch.setattr(lease, name, value)
        world.compete()
    return world


def overlaps(holds: list[str]) -> bool:
    """Return whether a hold goes on after another has begun.

    >>> overlaps(["a", "a", "b"]), overlaps(["a", "b", "a"])
    (False, True)
    """
    begun = [name for number, name in enumerate(holds) if holds[number - 1 : number] != [name]]
    return len(begun) > len(set(begun))
