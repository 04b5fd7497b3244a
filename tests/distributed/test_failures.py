"""Workers and server that are killed or frozen: the bits stay the same."""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event as StopSignal
from threading import Timer
from time import monotonic, sleep
from typing import Any

import pytest
import ray
import ray.cloudpickle

from nanograd.digits.dataset import Dataset
from nanograd.distributed.actors import SegmentFailure, ServerActor, WorkerActor
from nanograd.distributed.group import RayGroup
from nanograd.distributed.members import MAX_FAILURES
from nanograd.errors import ClusterError, Stopped
from nanograd.runtime.events import Event
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.server import Snapshot, first_snapshot
from tests.helpers.resources import Resources
from tests.helpers.runs import bits, train_locally

# Of connections to processes of Ray that have just started or are about to end.
SLACK = 8
# From a fault until it is noticed; the start of Ray's processes, which is most of a test, apart.
LONGEST_S = 25.0
Records = list[dict[str, Any]]
Fault = Callable[[RayGroup], None]
Run = Callable[..., tuple[Snapshot, Records]]

# Actors cannot import this module, so its classes are pickled by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def recipe(digits: Dataset) -> Recipe:
    return make_recipe(TrainSpec(batch_size=193, epochs=6, optimizer="adam"), len(digits))


@pytest.fixture(scope="module")
def undisturbed(recipe: Recipe, digits: Dataset) -> Snapshot:
    return train_locally(recipe, digits)


def train_with_faults(
    recipe: Recipe,
    digits: Dataset,
    num_workers: int,
    faults: dict[int, Fault],
    shared_memory: bool = True,
) -> tuple[Snapshot, Records]:
    """Train to the end, with a fault injected after each of the given rounds."""
    events: Records = []
    group = RayGroup(
        recipe,
        digits,
        first_snapshot(recipe),
        lambda event: events.append(event.record() | {"at": monotonic()}),
        num_workers=num_workers,
        shared_memory=shared_memory,
    )
    try:
        for round_, fault in sorted(faults.items()):
            group.advance(round_)
            fault(group)
            events.append({"event": "fault", "at": monotonic()})
        group.advance(recipe.num_rounds)
        return group.snapshot(), events
    finally:
        group.close()


@pytest.fixture
def run(ray_cpus: int, recipe: Recipe, digits: Dataset) -> Run:
    return partial(train_with_faults, recipe, digits)


def changes(events: Records) -> list[str]:
    """Return the kinds of events, those of slow rounds left out."""
    return [event["event"] for event in events if event["event"] not in ("fault", "waiting")]


def noticed_s(events: Records, name: str) -> float:
    """Return the seconds from the fault to the first event of a kind."""
    at = {event["event"]: event["at"] for event in reversed(events)}
    return float(at[name] - at["fault"])


def send(number: signal.Signals, *names: str) -> Fault:
    def fault(group: RayGroup) -> None:
        group.settle()
        pids = group.pids()
        for name in names:
            os.kill(pids[name], number)

    return fault


@pytest.mark.parametrize("shared_memory", [True, False])
def test_killed_worker_changes_no_bit_and_is_reported(
    run: Run, undisturbed: Snapshot, shared_memory: bool
) -> None:
    faults = {13: send(signal.SIGKILL, "1")}

    actual, events = run(3, faults, shared_memory)

    assert bits(actual) == bits(undisturbed)
    lost = next(event for event in events if event["event"] == "lost")
    assert lost["sentence"].startswith("worker 1 failed at round 13 (killed); shard")
    assert lost["sentence"].endswith("; 0 rounds lost")
    assert "now on worker" in lost["sentence"]


@pytest.mark.parametrize("name", ["0", "server"])
def test_no_failure_is_repaired_after_a_stop(
    ray_cpus: int, recipe: Recipe, digits: Dataset, name: str
) -> None:
    events: list[Event] = []
    stop = StopSignal()
    start = first_snapshot(recipe)
    group = RayGroup(recipe, digits, start, events.append, stop, num_workers=2)
    try:
        group.advance(7)
        stop.set()
        os.kill(group.pids()[name], signal.SIGKILL)

        with pytest.raises(Stopped, match="stopped; 7 rounds applied"):
            group.advance(recipe.num_rounds)
    finally:
        group.close()

    assert {event.name for event in events} - {"waiting"} == {"started"}


def test_worker_killed_within_a_segment_changes_no_bit(run: Run, undisturbed: Snapshot) -> None:
    def kill_soon(group: RayGroup) -> None:
        Timer(0.05, os.kill, (group.pids()["0"], signal.SIGKILL)).start()

    actual, events = run(2, {1: kill_soon})

    assert bits(actual) == bits(undisturbed)
    assert [event["rank"] for event in events if event["event"] == "lost"] == [0]


def test_all_workers_killed_wait_for_replacements(run: Run, undisturbed: Snapshot) -> None:
    actual, events = run(2, {7: send(signal.SIGKILL, "0", "1")})

    assert bits(actual) == bits(undisturbed)
    assert {event["rank"] for event in events if event["event"] == "joined"} == {0, 1}


@pytest.mark.parametrize("shared_memory", [True, False])
def test_killed_server_continues_from_its_copy(
    run: Run, undisturbed: Snapshot, shared_memory: bool
) -> None:
    faults = {11: send(signal.SIGKILL, "server")}

    actual, events = run(2, faults, shared_memory)

    assert bits(actual) == bits(undisturbed)
    assert [event["round"] for event in events if event["event"] == "server_lost"] == [11]


def test_frozen_worker_is_replaced(run: Run, undisturbed: Snapshot) -> None:
    actual, events = run(2, {5: send(signal.SIGSTOP, "1")})

    assert bits(actual) == bits(undisturbed)
    assert "(hung)" in next(e["sentence"] for e in events if e["event"] == "lost")
    assert noticed_s(events, "lost") < LONGEST_S


def test_slow_first_round_is_no_failure(run: Run, undisturbed: Snapshot) -> None:
    def slow_down(group: RayGroup) -> None:
        pid = group.pids()["0"]
        os.kill(pid, signal.SIGSTOP)
        Timer(9, os.kill, (pid, signal.SIGCONT)).start()

    actual, events = run(2, {0: slow_down})

    assert bits(actual) == bits(undisturbed)
    assert changes(events) == ["started"]
    waiting = next(event for event in events if event["event"] == "waiting")
    assert waiting["sentence"].startswith("round 0 waits for shard 0 on host ")


@pytest.mark.slow
def test_worker_frozen_while_another_joins_is_replaced(run: Run, undisturbed: Snapshot) -> None:
    def freeze_when_the_other_is_ready(group: RayGroup) -> None:
        starts = [ready for _, ready in group._members._starting.values()]
        ray.wait(starts, num_returns=len(starts))
        os.kill(group.pids()["1"], signal.SIGSTOP)

    faults = {5: send(signal.SIGKILL, "0"), 7: freeze_when_the_other_is_ready}

    actual, events = run(2, faults)

    assert bits(actual) == bits(undisturbed)
    losses = [(e["rank"], e["how"]) for e in events if e["event"] == "lost"]
    assert losses == [(0, "killed"), (1, "hung")]


@pytest.mark.parametrize("shared_memory", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_frozen_server_is_replaced_and_no_worker(
    run: Run, undisturbed: Snapshot, shared_memory: bool
) -> None:
    actual, events = run(2, {5: send(signal.SIGSTOP, "server")}, shared_memory)

    assert bits(actual) == bits(undisturbed)
    assert changes(events) == ["started", "server_lost"]
    assert noticed_s(events, "server_lost") < LONGEST_S


class SlowToStart(ServerActor):
    """A server on a busy machine."""

    def __init__(self, *about: Any) -> None:
        sleep(6)
        super().__init__(*about)


def test_slow_start_of_a_new_server_is_no_failure(
    run: Run, undisturbed: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_and_be_slow(group: RayGroup) -> None:
        monkeypatch.setattr("nanograd.distributed.servers.ServerActor", SlowToStart)
        os.kill(group.pids()["server"], signal.SIGKILL)

    actual, events = run(2, {5: kill_and_be_slow})

    assert bits(actual) == bits(undisturbed)
    assert changes(events) == ["started", "server_lost"]


class DiesAtFirst(WorkerActor):
    """A worker whose process ends while it starts, as often as there are marks."""

    marks: str

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        for mark in Path(self.marks).iterdir():
            mark.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


def test_group_without_workers_waits_for_one(
    run: Run, undisturbed: Snapshot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number in range(2):
        (tmp_path / str(number)).touch()
    mortal = type("Mortal", (DiesAtFirst,), {"marks": str(tmp_path)})
    monkeypatch.setattr("nanograd.distributed.members.WorkerActor", mortal)

    actual, events = run(1, {})

    assert bits(actual) == bits(undisturbed)
    *starts, started = events
    assert [event["message"].split(":")[0] for event in starts] == 2 * ["worker 0 did not start"]
    assert started["sentence"] == "1 worker on 1 host"


@pytest.mark.parametrize("num_kills", [20, pytest.param(200, marks=pytest.mark.soak)])
def test_many_kills_in_one_run_change_no_bit(
    ray_cpus: int, digits: Dataset, num_kills: int
) -> None:
    victims = ["server" if kill % 5 == 4 else str(kill % 3) for kill in range(num_kills)]
    held: list[Resources] = []

    def kill(name: str) -> Fault:
        def fault(group: RayGroup) -> None:
            send(signal.SIGKILL, name)(group)
            held.append(Resources.of())

        return fault

    faults = {2 * number + 3: kill(name) for number, name in enumerate(victims)}
    settings = TrainSpec(batch_size=193, epochs=num_kills // 3, optimizer="adam")
    recipe = make_recipe(settings, len(digits))

    actual, events = train_with_faults(recipe, digits, 3, faults)

    assert bits(actual) == bits(train_locally(recipe, digits))
    lost: list[list[str]] = []
    for event in events:
        if event["event"] == "fault":
            lost.append([])
        elif event["event"] in ("lost", "server_lost"):
            lost[-1].append(str(event.get("rank", "server")))
            # A machine that is busy with others may be too slow for an actor's deadline.
            assert lost[-1][-1] == victims[len(lost) - 1] or event.get("how") != "killed"
    assert all(victim in those for victim, those in zip(victims, lost, strict=True))
    assert held[-1].descriptors <= held[num_kills // 2].descriptors + SLACK
    assert held[-1].threads <= held[num_kills // 2].threads + SLACK


class DiesAfter(ServerActor):
    """A server that dies when it has applied some rounds."""

    num_rounds: int

    def run(self, until: int, deadline_s: float) -> SegmentFailure | None:
        if not self.num_rounds:
            os.kill(os.getpid(), signal.SIGKILL)
        self.num_rounds -= 1
        return super().run(until, deadline_s)


@pytest.mark.parametrize("num_rounds", [0, 1])
def test_failures_end_the_run_only_when_no_round_is_applied_between_them(
    ray_cpus: int,
    recipe: Recipe,
    digits: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    num_rounds: int,
) -> None:
    mortal = type("Mortal", (DiesAfter,), {"num_rounds": num_rounds})
    monkeypatch.setattr("nanograd.distributed.servers.ServerActor", mortal)
    group = RayGroup(recipe, digits, first_snapshot(recipe), num_workers=2)
    try:
        if num_rounds:
            for until in range(1, MAX_FAILURES + 3):
                group.advance(until)
                group.snapshot()
            assert bits(group.snapshot()) == bits(train_locally(recipe, digits, until))
        else:
            with pytest.raises(ClusterError, match="round 0 failed 6 times, most recently because"):
                group.advance(1)
    finally:
        group.close()


def test_no_kill_leaves_named_shared_memory_behind(run: Run) -> None:
    memory = Path("/dev/shm")
    before = set(memory.iterdir())

    run(2, {4: send(signal.SIGKILL, "0", "server")})

    assert set(memory.iterdir()) <= before
