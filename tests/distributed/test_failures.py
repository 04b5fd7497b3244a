"""Workers and server that are killed or frozen: the bits stay the same."""

import gc
import os
import signal
from collections.abc import Callable
from operator import le
from pathlib import Path
from threading import Event as StopSignal
from time import monotonic
from typing import Any

import pytest

from nanograd.digits.dataset import Dataset
from nanograd.distributed import group as groups
from nanograd.distributed.group import RayGroup
from nanograd.errors import ClusterError, Stopped
from nanograd.runtime.events import Event
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.server import Snapshot
from simulators.waiting import wait_for
from tests.distributed.conftest import StartGroup
from tests.helpers.actors import dies_after, pids
from tests.helpers.runs import bits, train_locally

KILL, FREEZE = signal.SIGKILL, signal.SIGSTOP
# Of connections to processes of Ray that have just started.
SLACK = 5
FAILURES = ("fault", "lost", "server_lost", "joined")
# Seconds that a frozen worker may take if the usual time of a round is not known.
FIRST_DEADLINE_S = 60.0
Records = list[dict[str, Any]]
Fault = Callable[[RayGroup], None]
Run = Callable[..., Records]


@pytest.fixture(scope="module")
def recipe(digits: Dataset) -> Recipe:
    return make_recipe(TrainSpec(batch_size=193, shards=3, epochs=6, optimizer="adam"), len(digits))


@pytest.fixture(scope="module")
def undisturbed(recipe: Recipe, digits: Dataset) -> Snapshot:
    return train_locally(recipe, digits)


@pytest.fixture
def run(start_group: StartGroup, recipe: Recipe, digits: Dataset, undisturbed: Snapshot) -> Run:
    """Train with a fault after each of some rounds; check the bits, and return the events."""

    def train(
        num_workers: int,
        faults: dict[int, Fault],
        recipe: Recipe = recipe,
        expected: Snapshot = undisturbed,
    ) -> Records:
        events: Records = []

        def record(event: Event) -> None:
            events.append(event.record() | {"at": monotonic()})

        group = start_group(recipe, num_workers, listener=record)
        for round_, fault in sorted(faults.items()):
            group.advance(round_)
            fault(group)
            events.append({"event": "fault", "at": monotonic()})
        group.advance(recipe.num_rounds)
        assert bits(group.snapshot()) == bits(expected)
        return events

    return train


def resources() -> list[int]:
    gc.collect()
    return [len(list(Path("/proc/self", name).iterdir())) for name in ("fd", "task")]


def send(number: signal.Signals, *names: str) -> Fault:
    def fault(group: RayGroup) -> None:
        group.settle()
        for name in names:
            os.kill(pids(group)[name], number)

    return fault


@pytest.mark.parametrize("name", ["0", "server"])
def test_no_failure_is_repaired_after_a_stop(start_group, events, recipe, name):
    stop = StopSignal()
    group = start_group(recipe, 1, stop=stop)
    group.advance(7)
    stop.set()
    os.kill(pids(group)[name], KILL)

    with pytest.raises(Stopped, match="7 rounds applied"):
        group.advance(recipe.num_rounds)

    assert {event.name for event in events} - {"waiting"} == {"started"}


def test_frozen_worker_is_replaced_and_all_killed_wait_for_replacements(run):
    before = set(Path("/dev/shm").iterdir())

    events = run(2, {5: send(FREEZE, "1"), 17: send(KILL, "0", "1", "server")})

    fault, lost, *rest = [event for event in events if event["event"] in FAILURES]
    assert (lost["rank"], lost["how"]) == (1, "hung")
    assert lost["at"] - fault["at"] < FIRST_DEADLINE_S
    assert {event["rank"] for event in rest if event["event"] == "joined"} == {0, 1}
    assert set(Path("/dev/shm").iterdir()) <= before


# After the first quarter, more kills follow than SLACK: a resource lost by each kill is noticed.
@pytest.mark.parametrize("num_kills", [9, pytest.param(200, marks=pytest.mark.soak)])
def test_many_kills_in_one_run_change_no_bit(run, digits, num_kills):
    victims = ["server" if kill % 5 == 4 else str(kill % 3) for kill in range(num_kills)]
    held: list[list[int]] = []

    def kill(name: str) -> Fault:
        def fault(group: RayGroup) -> None:
            send(KILL, name)(group)
            held.append(resources())

        return fault

    rounds = {2 * number + 3: name for number, name in enumerate(victims)}
    faults = {round_: kill(name) for round_, name in rounds.items()}
    settings = TrainSpec(batch_size=193, shards=3, epochs=num_kills // 3, optimizer="adam")
    recipe = make_recipe(settings, len(digits))

    events = run(3, faults, recipe=recipe, expected=train_locally(recipe, digits))

    killed = next(event for event in events if event.get("how") == "killed")
    assert "now on worker" in killed["sentence"]
    assert rounds[killed["round"]] == str(killed["rank"])
    of_servers = {event["round"] for event in events if event["event"] == "server_lost"}
    assert {round_ for round_ in rounds if rounds[round_] == "server"} <= of_servers
    lost: list[list[str]] = []
    for event in events:
        if event["event"] == "fault":
            lost.append([])
        elif event["event"] in ("lost", "server_lost"):
            lost[-1].append(str(event.get("rank", "server")))
            # A machine that is busy with others may be too slow for an actor's deadline.
            assert lost[-1][-1] == victims[len(lost) - 1] or event.get("how") != "killed"
    assert all(victim in those for victim, those in zip(victims, lost, strict=True))
    most = [before + SLACK for before in held[num_kills // 4]]
    wait_for(lambda: all(map(le, resources(), most)), f"kills left more than {most}")


@pytest.mark.parametrize("num_segments", [0, 1])
def test_failures_end_the_run_only_when_no_round_is_applied_between_them(
    start_group, use_servers, recipe, digits, num_segments, monkeypatch
):
    monkeypatch.setattr(groups, "MAX_FAILURES", 1)
    use_servers(dies_after(num_segments))
    group = start_group(recipe, 1)

    if num_segments:
        for until in range(1, 4):
            group.advance(until)
            group.snapshot()
        assert bits(group.snapshot()) == bits(train_locally(recipe, digits, until))
    else:
        with pytest.raises(ClusterError, match="round 0 failed 2 times"):
            group.advance(1)
