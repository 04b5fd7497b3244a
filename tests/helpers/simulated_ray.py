"""As much of Ray as the group uses, with virtual time: actors, tasks, references.

Calls and replies take time. An actor runs its calls in order, those of a concurrency group beside
them. Calls of a killed actor fail after a while, those of a frozen one wait. Actors are placed on
hosts with a free CPU, or on the one that a label selects, and wait as long as there is none.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from tests.helpers.virtual_time import Gate, Process, World

CALL_S, START_S, NOTICE_S = 1e-3, 0.5, 0.05
# Ray's health check finds a host that is gone.
HOST_NOTICE_S = 5.0


@dataclass(eq=False)
class Host:
    name: str  # stays when the machine is restarted
    num_cpus: int
    node: str  # Ray's id of it, another one after a restart
    is_up: bool = True
    actors: list["Actor"] = field(default_factory=list)

    @property
    def free(self) -> float:
        return self.num_cpus - sum(each.num_cpus for each in self.actors if each.holds_cpu)


class Ref:
    def __init__(self, world: World) -> None:
        self.is_done, self.value, self.error = False, None, None
        self._world, self.gates = world, list[Gate]()

    def settle(self, value: Any = None, error: BaseException | None = None) -> None:
        if not self.is_done:
            self.is_done, self.value, self.error = True, value, error
            for gate in self.gates:
                gate.open()


class Actor:
    def __init__(self, ray: "SimulatedRay", kind: Any, options: Any, arguments: Any) -> None:
        self.ray, self.world, self.kind, self.options = ray, ray.world, kind, options
        self.num_cpus = options.get("num_cpus", 1)
        self.process: Process | None = None
        self.instance: Any = None
        self.is_dead = False
        self.pid = 10_000_000 + len(ray.actors)  # of no real process
        self._calls: deque[tuple[str, Any, Ref]] = deque([("", arguments, Ref(ray.world))])
        self._refs: dict[Ref, None] = {}
        self._is_busy = True

    @property
    def holds_cpu(self) -> bool:
        return self.process is not None and self.process.is_alive

    def place(self, host: Host) -> None:
        self.process = Process(self.world, f"{self.kind.__name__} {self.pid} on {host.name}",
                               host.name)  # fmt: skip
        self.process.at_exit.append(lambda: self.world.at(NOTICE_S, self._notice))
        host.actors.append(self)
        self.host = host
        self.ray.on_start(self)
        self.world.at(START_S * self.world.random.random(), self._run_next)

    def call(self, name: str, options: Any, arguments: Any) -> Ref:
        ref = Ref(self.world)
        self._refs[ref] = None
        delay = CALL_S * self.world.random.random()
        if self.is_dead:
            self.world.at(delay, ref.settle, None, RayActorError())
        else:
            is_beside = options.get("concurrency_group") is not None
            self.world.at(delay, self._receive, name, arguments, ref, is_beside)
        return ref

    def end(self) -> None:
        """End it as `ray.kill` does: a frozen process does not obey until it goes on."""
        self.die()
        if self.process is not None and not self.process.is_frozen:
            self.process.kill()
        elif self.process is not None:
            self.world.at(1.0, self.end)

    def die(self) -> None:
        if not self.is_dead:
            self.is_dead = True
            for ref in self._refs:
                ref.settle(error=RayActorError())

    def _notice(self) -> None:
        """See that the process has ended, and that its CPU is free."""
        self.die()
        self.ray.place_waiting()

    def _receive(self, name: str, arguments: Any, ref: Ref, is_beside: bool) -> None:
        if self.is_dead:
            ref.settle(error=RayActorError())
        elif self.process is not None and not self.process.is_alive:
            pass  # it fails when the death is noticed
        elif is_beside and self.instance is not None:
            self.world.spawn(self.process, lambda: self._run(name, arguments, ref))
        else:
            self._calls.append((name, arguments, ref))
            if not self._is_busy:
                self._run_next()

    def _run_next(self) -> None:
        self._is_busy = bool(self._calls)
        if self._calls and self.process is not None:
            name, arguments, ref = self._calls.popleft()

            def run() -> None:
                self._run(name, arguments, ref)
                self._run_next()

            self.world.spawn(self.process, run)

    def _run(self, name: str, arguments: Any, ref: Ref) -> None:
        value, error = None, None
        try:
            given = [self.ray.get(each) if isinstance(each, Ref) else each for each in arguments]
            self.world.step()
            if name:
                if self.world.is_traced:
                    self.world.log(f"{name} begins")
                value = getattr(self.instance, name)(*given)
                if self.world.is_traced:
                    self.world.log(f"{name} ends: {str(value)[:70]}")
            else:
                self.instance = self.kind(*given)
        except RayError as failure:
            error = failure
        except Exception as failure:  # noqa: BLE001 - as Ray does
            error = RayTaskError(name, "", failure)
            self.ray.on_error(failure)
        self.world.step()
        self.world.at(CALL_S * self.world.random.random(), ref.settle, value, error)


class SimulatedRay:
    """Stands for the module `ray`, with some machines."""

    def __init__(self, world: World, hosts: Sequence[Host]) -> None:
        self.world, self.hosts, self.actors = world, list(hosts), list[Actor]()
        self.util = SimpleNamespace(get_node_ip_address=lambda: world.process.host)
        self._waiting = list[Actor]()
        # Called with each actor that starts, and with each exception of an actor's code.
        self.on_start: Callable[[Actor], None] = lambda actor: None
        self.on_error: Callable[[Exception], None] = lambda error: None

    # What the group calls

    def put(self, value: Any) -> Ref:
        ref = Ref(self.world)
        ref.settle(value)
        return ref

    def remote(self, *things: Any, **options: Any) -> Any:
        """Decorate a class or function."""
        if not things:
            return lambda thing: self.remote(thing, **options)
        call = self.start if isinstance(things[0], type) else self.run
        return SimpleNamespace(remote=lambda *arguments: call(things[0], options, arguments))

    def get(self, refs: Any, timeout: float | None = None) -> Any:
        if isinstance(refs, Ref):
            return self.get([refs], timeout)[0]
        done, late = self.wait(refs, num_returns=len(refs), timeout=timeout, wants_errors=True)
        for ref in done:
            if ref.error is not None:
                raise ref.error
        if late:
            raise GetTimeoutError("Get timed out")
        return [ref.value for ref in refs]

    def wait(
        self,
        refs: Iterable[Ref],
        num_returns: int = 1,
        timeout: float | None = None,
        *,
        wants_errors: bool = False,
    ) -> tuple[list[Ref], list[Ref]]:
        refs, gate = list(refs), Gate(self.world)
        end = None if timeout is None else self.world.now + timeout
        for ref in refs:
            ref.gates.append(gate)
        if timeout == 0:
            self.world.sleep(1e-6)  # no call is so quick that no time passes
        while True:
            done = [ref for ref in refs if ref.is_done][:num_returns]
            if len(done) >= min(num_returns, len(refs)):
                break
            if wants_errors and any(ref.error is not None for ref in done):
                break
            if end is not None and self.world.now >= end:
                break
            gate.wait(None if end is None else end - self.world.now)
        for ref in refs:
            ref.gates.remove(gate)
        return done, [ref for ref in refs if ref not in done]

    def kill(self, handle: "_Handle") -> None:
        if handle.actor in self._waiting:
            self._waiting.remove(handle.actor)
        handle.actor.end()

    def get_runtime_context(self) -> Any:
        host = next(each for each in self.hosts if each.name == self.world.process.host)
        return SimpleNamespace(get_node_id=lambda: host.node)

    # What the decorated things call

    def start(self, kind: Any, options: Any, arguments: Any) -> "_Handle":
        actor = Actor(self, kind, options, arguments)
        self.actors.append(actor)
        self._waiting.append(actor)
        self.place_waiting()
        return _Handle(actor)

    def run(self, function: Any, options: Any, arguments: Any) -> Ref:
        """Run a task; only `kill` is not to be taken literally."""
        ref, process = Ref(self.world), self.world.process

        def run() -> None:
            value, error = None, None
            try:
                value = function(*arguments)
            except RayError as failure:
                error = failure
            ref.settle(value, error)

        if function.__name__ == "kill":
            for actor in self.actors:
                if actor.pid == arguments[0].pid and actor.process is not None:
                    self.world.at(0.1, actor.process.kill)
        else:
            self.world.spawn(process, run)
        return ref

    def place_waiting(self) -> None:
        for actor in list(self._waiting):
            if host := self._place_of(actor.options, actor.num_cpus):
                self._waiting.remove(actor)
                actor.place(host)

    def _place_of(self, options: Any, num_cpus: float) -> Host | None:
        label = options.get("label_selector", {}).get("ray.io/node-id", "")
        excluded = re.fullmatch(r"!in\((.*)\)", label)
        hosts = [each for each in self.hosts if each.is_up and each.free >= num_cpus]
        if excluded:
            hosts = [each for each in hosts if each.node not in excluded[1].split(",")]
        elif label:
            hosts = [each for each in hosts if each.node == label]
        return max(hosts, key=lambda each: each.free, default=None)

    # Faults

    def lose(self, host: Host) -> None:
        """Let a host be gone; the network must lose its links, too."""
        host.is_up = False
        for actor in host.actors:
            if actor.holds_cpu and actor.process is not None:
                actor.process.vanish()
                delay = HOST_NOTICE_S * self.world.random.random()
                self.world.at(delay, actor.die)

    def restart(self, host: Host) -> None:
        """Let a host come back, as another node of Ray."""
        host.is_up, host.node = True, f"{int(host.node, 16) + 16:056x}"
        self.place_waiting()


class _Handle:
    """An actor, or a method of it."""

    def __init__(self, actor: Actor, name: str = "", options: Any = None) -> None:
        self.actor, self._name, self._options = actor, name, options or {}

    def __getattr__(self, name: str) -> "_Handle":
        return _Handle(self.actor, name)

    def options(self, **options: Any) -> "_Handle":
        return _Handle(self.actor, self._name, options)

    def remote(self, *arguments: Any) -> Ref:
        return self.actor.call(self._name, self._options, arguments)
