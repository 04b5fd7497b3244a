"""Processes with virtual time: coroutines of one thread, whose order a seed determines.

Code that blocks in a simulated call is a greenlet; it goes on when what it awaits has happened, or
when its time has come. A process may be killed or frozen at any of its simulated system calls, as a
signal would find it.
"""

import heapq
import random
from collections.abc import Callable
from itertools import count
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet


class StallError(AssertionError):
    """What is awaited never happens, or a process does not come to rest."""


class Process:
    def __init__(self, world: "World", name: str, host: str) -> None:
        self.world, self.name, self.host = world, name, host
        self.is_alive, self.is_frozen = True, False
        self.at_exit: list[Callable[[], None]] = []
        # System calls until a fault happens, and what then happens; 0 for none.
        self.fuse, self.fault = 0, lambda process: None
        self._suspended: list[tuple[_Task, int, bool]] = []

    def kill(self) -> None:
        if self.is_alive:
            self.world.log("killed", self)
            self.is_alive = False
            for close in self.at_exit:
                close()

    def vanish(self) -> None:
        """End it together with its host: nobody closes anything."""
        if self.is_alive:
            self.world.log("is gone", self)
            self.is_alive = False

    def freeze(self, seconds: float) -> None:
        """Let nothing of it run for some time, as SIGSTOP does."""
        self.world.log(f"frozen for {seconds:g} s", self)
        self.is_frozen = True
        self.world.at(seconds, self._thaw)

    def _thaw(self) -> None:
        if self.is_alive and self.is_frozen:
            self.world.log("goes on", self)
            self.is_frozen = False
            suspended, self._suspended = self._suspended, []
            for each in suspended:
                self.world.at(0.0, self.world.resume, *each)

    def suspend(self, task: "_Task", wait: int, happened: bool) -> None:
        """Keep a task that would go on, until the process does."""
        self._suspended.append((task, wait, happened))


class _Task(greenlet):
    process: Process
    wait = -1  # number of the wait in which it is blocked; -1 while it runs


class World:
    """Time, chance and the processes; a seed determines everything."""

    MAX_CALLS = 20_000  # system calls of all processes without any time passing: a busy loop

    def __init__(self, seed: int, *, is_traced: bool = False) -> None:
        self.random = random.Random(seed)  # noqa: S311 - nothing secret
        self.now, self.trace, self.is_traced = 0.0, list[str](), is_traced
        self.is_over = False
        self._queue: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._numbers, self._calls, self._hub = count(), 0, getcurrent()
        self._tasks = list[_Task]()

    def log(self, text: str, process: Process | None = None) -> None:
        if self.is_traced:
            name = f"{(process or self.process).name}: "
            self.trace.append(f"{self.now:10.4f}  {name}{text}")

    @property
    def process(self) -> Process:
        task: Any = getcurrent()
        return task.process

    def at(self, delay: float, call: Callable[..., Any], *arguments: Any) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._numbers), call, arguments))

    def spawn(self, process: Process, call: Callable[[], Any]) -> None:
        task = _Task(lambda happened: call(), self._hub)
        task.process = process
        task.wait = next(self._numbers)
        self._tasks.append(task)
        self.at(0.0, self.resume, task, task.wait, True)

    def close(self) -> None:
        """End all coroutines; a suspended one is never collected."""
        self._queue = []
        for task in self._tasks:
            task.process.is_alive = False
            if task:  # it has begun and not ended
                task.throw()
        self._tasks = []

    def run(self, max_time: float) -> None:
        """Let the processes run until `is_over`; raise StallError if they wait too long."""
        queue, pop = self._queue, heapq.heappop
        while not self.is_over:
            if not queue:
                raise StallError("all processes wait for ever")
            time, _, call, arguments = pop(queue)
            if time > self.now:
                self.now, self._calls = time, 0
                if time > max_time:
                    raise StallError(f"no end after {max_time:g} s")
            call(*arguments)

    def resume(self, task: _Task, wait: int, happened: bool) -> None:
        """Let a task go on that is still in this wait."""
        if task.wait != wait or not task.process.is_alive:
            return
        if task.process.is_frozen:
            task.process.suspend(task, wait, happened)
            return
        task.wait = -1
        task.switch(happened)

    def block(self, timeout: float | None, waiting: list[tuple[Any, int]]) -> bool:
        task: Any = getcurrent()
        if not task.process.is_alive:
            raise GreenletExit  # it is being ended
        task.wait = next(self._numbers)
        waiting.append((task, task.wait))
        if timeout is not None:
            self.at(timeout, self.resume, task, task.wait, False)
        return bool(self._hub.switch())

    def sleep(self, seconds: float) -> None:
        self.block(seconds, [])

    def wake(self, task: Any, wait: int) -> None:
        """Let a blocked task go on soon; a processor may be busy with others."""
        self.at(self.random.random() * 1e-3, self.resume, task, wait, True)

    def step(self) -> None:
        """Be at a system call: here a process may be killed or frozen."""
        self._calls += 1
        if self._calls > self.MAX_CALLS:
            raise StallError(f"{self.process.name} is in a busy loop")
        process = self.process
        if not process.is_alive:
            raise GreenletExit  # it is being ended
        if process.fuse:
            process.fuse -= 1
            if not process.fuse:
                process.fault(process)
                if not process.is_alive:
                    raise GreenletExit
                if process.is_frozen:
                    task: Any = getcurrent()
                    task.wait = next(self._numbers)
                    process.suspend(task, task.wait, True)
                    self._hub.switch()


class Gate:
    def __init__(self, world: World) -> None:
        self._world, self._waiting = world, list[tuple[Any, int]]()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it happens; return False if the time is over first."""
        return self._world.block(timeout, self._waiting)

    def open(self) -> None:
        """Let it happen: wake all that wait."""
        waiting, self._waiting = self._waiting, []
        for task, wait in waiting:
            self._world.wake(task, wait)

    def wait_for(self, predicate: Callable[[], bool]) -> bool:
        """Block until something is true, as `threading.Condition` does."""
        while not predicate():
            self.wait()
        return True
