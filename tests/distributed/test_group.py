"""Groups of workers and servers as Ray actors: the bits of the local group, or an error."""

import gc
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from errno import ENOMEM, ENOSYS
from operator import le
from pathlib import Path
from threading import Event as StopSignal
from threading import Timer
from time import monotonic
from typing import Any

import numpy as np
import pytest
import ray

from nanograd.digits.dataset import Dataset
from nanograd.distributed import group as groups
from nanograd.distributed import members, servers
from nanograd.distributed.actors import CONCURRENT, ServerActor, WorkerActor
from nanograd.distributed.group import RayGroup
from nanograd.distributed.servers import Server, Servers
from nanograd.errors import ClusterError, DivergedError, Stopped, UnavailableError
from nanograd.runtime import kernel
from nanograd.runtime.events import Event
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.server import Snapshot
from simulators.waiting import wait_for
from tests.distributed.conftest import StartGroup
from tests.helpers.actors import (
    CannotAttach,
    HasNan,
    NeverStarts,
    OtherBuild,
    SlowSnapshot,
    TakesNothing,
    dies_after,
    pids,
    refused,
    variant,
)
from tests.helpers.runs import bits, train_locally

DISTORTED = {"shards": 5, "pixels": "deskewed", "elastic": 1.0, "rotation": 8.0, "stroke": 0.5}


def recipe_for(digits: Dataset, **settings: object) -> Recipe:
    layers = {"batch_size": 193, "shards": 3, "epochs": 6, "optimizer": "adam"}, settings
    return make_recipe(TrainSpec.resolve(*layers), len(digits))


@pytest.fixture(scope="module")
def recipe(digits: Dataset) -> Recipe:
    return recipe_for(digits)


@pytest.mark.parametrize(
    ("num_workers", "kind", "settings"),
    [
        (3, WorkerActor, DISTORTED | {"optimizer": "momentum"}),
        (2, CannotAttach, DISTORTED),
    ],
)
def test_any_group_gives_the_bits_of_the_local_group(
    start_group, use_workers, digits, num_workers, kind, settings
):
    recipe = recipe_for(digits, **settings)
    use_workers(kind)

    group = start_group(recipe, num_workers)
    group.advance(7)

    assert bits(group.snapshot()) == bits(train_locally(recipe, digits, 7))


def test_divergence_in_the_server_actor_reaches_the_driver(start_group, digits):
    group = start_group(recipe_for(digits, learning_rate=1e30, optimizer="sgd", warmup=0), 1)

    with pytest.raises(DivergedError, match="round 0"):
        group.advance(7)


def test_bad_gradient_is_computed_again_and_is_divergence_if_it_is_bad_again(
    start_group, use_workers, events, recipe, digits, tmp_path
):
    use_workers(variant(HasNan, file=tmp_path / "once"))
    group = start_group(recipe, 1)
    group.advance(12)

    assert bits(group.snapshot()) == bits(train_locally(recipe, digits, 12))
    assert [event.facts["round"] for event in events if event.name == "refused"] == [9]
    with pytest.raises(DivergedError, match="round 15"):
        group.advance(20)


@pytest.mark.skipif(bool(kernel.missing_features()), reason="needs AVX2")
def test_actors_compute_with_the_kernel_of_the_run(start_group, recipe, monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Nehalem")

    group = start_group(recipe, 1, kernel="portable")

    [fingerprint] = group.fingerprints()
    assert "Haswell" in fingerprint
    assert ", portable " in fingerprint


def test_replacement_of_the_only_worker_is_compared_with_the_first_one(
    start_group, use_workers, events, recipe
):
    use_workers(OtherBuild)
    group, strict = start_group(recipe, 1), start_group(recipe, 1, strict=True)

    for each in (group, strict):
        each.advance(3)
        os.kill(pids(each)["0"], signal.SIGKILL)
    group.advance(7)
    with pytest.raises(ClusterError, match="--strict"):
        strict.advance(7)

    [differ] = [event.facts for event in events if event.name == "mixed"]
    assert [differ["first"], differ["worker"]] == group.fingerprints()


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
    recipe = recipe_for(digits, epochs=num_kills // 3)

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


def test_workers_that_never_start_end_the_run_with_the_cause(
    start_group, use_workers, recipe, monkeypatch
):
    use_workers(NeverStarts)
    monkeypatch.setattr(members, "MAX_FAILURES", 1)

    with pytest.raises(ClusterError, match=r"worker 0 did not start 2 times .*: OSError: libg"):
        start_group(recipe, 1)


def test_server_that_does_not_start_in_time_is_a_cluster_error(start_group, recipe, monkeypatch):
    monkeypatch.setattr(servers, "START_TIMEOUT_S", 0.001)

    with pytest.raises(ClusterError, match="server did not start"):
        start_group(recipe, 1)


def test_stop_while_workers_start_is_obeyed_at_once(start_group, hold, ray_cpus, recipe):
    hold(ray_cpus)
    stop, began = StopSignal(), monotonic()
    Timer(1, stop.set).start()

    with pytest.raises(Stopped):
        start_group(recipe, 1, stop=stop)

    assert monotonic() - began < 10


def test_slow_snapshot_replaces_no_server(
    start_group, use_servers, events, recipe, digits, monkeypatch
):
    use_servers(SlowSnapshot)
    group = start_group(recipe, 1)
    monkeypatch.setattr(servers, "REPLY_S", 0.5)

    group.advance(20)

    assert bits(group.snapshot()) == bits(train_locally(recipe, digits, 20))
    assert [event.name for event in events] == ["started"]


def test_worker_that_cannot_open_the_memory_of_its_host_is_reported(
    start_group, use_servers, events, recipe, digits
):
    use_servers(refused("memfd_create", ENOSYS))  # a system without anonymous files
    group = start_group(recipe, 1)
    group.advance(20)

    assert bits(group.snapshot()) == bits(train_locally(recipe, digits, 20))
    [warning] = [str(event) for event in events if event.name == "message"]
    assert "cannot open" in warning


def test_lack_of_memory_for_the_vectors_is_reported_with_69(start_group, use_servers, recipe):
    use_servers(refused("posix_fallocate", ENOMEM))

    with pytest.raises(UnavailableError, match="Cannot allocate"):
        start_group(recipe, 1)


def test_shards_that_never_arrive_are_reported_and_end_the_run(
    start_group, use_workers, events, recipe, monkeypatch
):
    use_workers(TakesNothing)
    monkeypatch.setattr(members, "CHECK_S", 0.2)
    monkeypatch.setattr(members, "MAX_TAKE_S", 1.0)
    monkeypatch.setattr(groups, "MAX_FAILURES", 1)

    with pytest.raises(ClusterError, match="shards did not reach worker 0"):
        start_group(recipe, 1)

    assert " waits for its shards (" in str(events[0])


def test_state_that_differs_between_servers_is_not_copied_and_its_host_is_named(
    ray_cpus: int, digits: Dataset
) -> None:
    recipe = recipe_for(digits, hidden=7, shards=2)
    good = train_locally(recipe, digits, 3)
    servers, present = Servers(recipe, print), dict[str, Server]()
    for name in "abc":
        remote: Any = ray.remote(num_cpus=0, concurrency_groups={CONCURRENT: 4})
        actor = remote(ServerActor).remote(recipe, good)
        identity = ray.get(actor.identify.remote())
        neighbour = replace(identity, name=name, address="10.77.0.1")
        present[name] = Server(actor, None, neighbour, monotonic(), identity)

    for vector in ("progress", *sorted(good.arrays)):
        names = "ab" if vector == "vector" else "abc"
        if vector == "progress":
            bad = replace(good, progress=replace(good.progress, loss=good.progress.loss + 1e-9))
        else:
            changed = good.arrays[vector].copy()
            changed.view(np.uint32)[193] ^= 1
            bad = replace(good, arrays={**good.arrays, vector: changed})
        ray.get(present["a"].actor.restore.remote(bad))
        servers.present = {name: present[name] for name in names}

        with pytest.raises(ClusterError) as caught:
            servers.snapshot(3.0)

        named = [name in str(caught.value) for name in ("a at 10.77.0.1", "b at 10.77.0.1")]
        assert named == [True, len(names) == 2], vector
    servers.present = present
    servers.close()
