"""Actors that start late, never, or without their shards; servers that are slow to answer."""

import os
import sys
from collections.abc import Iterator
from errno import ENOMEM, ENOSYS
from pathlib import Path
from threading import Event as StopSignal
from threading import Timer
from time import monotonic, sleep
from typing import Any

import pytest
import ray
import ray.cloudpickle

from nanograd.digits.dataset import Dataset
from nanograd.distributed import members, servers, shared_memory
from nanograd.distributed.actors import ServerActor, WorkerActor
from nanograd.distributed.group import RayGroup
from nanograd.distributed.shared_memory import MemoryAddress
from nanograd.errors import ClusterError, Stopped, UnavailableError
from nanograd.runtime.events import Event
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.server import Snapshot, first_snapshot
from tests.helpers.runs import bits, train_locally

# Actors cannot import this module, so its classes are pickled by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

ROUNDS = 20


@pytest.fixture(scope="module")
def recipe(digits: Dataset) -> Recipe:
    return make_recipe(TrainSpec(batch_size=193, epochs=3, shards=4, hidden=32), len(digits))


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def group(
    ray_cpus: int, recipe: Recipe, digits: Dataset, events: list[Event]
) -> Iterator[RayGroup]:
    made = RayGroup(recipe, digits, first_snapshot(recipe), events.append, num_workers=2)
    yield made
    made.close()


class NeverStarts(WorkerActor):
    """A worker whose environment is broken."""

    def __init__(self, recipe: Recipe) -> None:
        raise OSError("libgomp.so.1 is missing")


def test_workers_that_never_start_end_the_run_with_the_cause(
    ray_cpus: int, recipe: Recipe, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "WorkerActor", NeverStarts)

    with pytest.raises(
        ClusterError, match=r"worker 0 did not start 6 times in a row: OSError: libg"
    ):
        RayGroup(recipe, digits, first_snapshot(recipe), num_workers=1)


def test_replacement_that_never_starts_kills_no_healthy_actor_and_ends_the_run(
    group: RayGroup, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    group.advance(5)
    server = group.pids()["server"]
    monkeypatch.setattr(members, "WorkerActor", NeverStarts)
    os.kill(group.pids()["1"], 9)

    with pytest.raises(ClusterError, match="worker 1 did not start 6 times"):
        for round_ in range(6, 10_000):
            group.advance(round_)

    assert group.pids()["server"] == server
    assert {event.name for event in events} - {"waiting"} == {"started", "lost", "message"}


def test_stop_while_workers_start_is_obeyed_at_once(
    ray_cpus: int, recipe: Recipe, digits: Dataset
) -> None:
    holder: Any = ray.remote(num_cpus=ray_cpus)(Holder).remote()
    ray.get(holder.answer.remote())
    stop, began = StopSignal(), monotonic()
    Timer(1, stop.set).start()

    with pytest.raises(Stopped):
        RayGroup(recipe, digits, first_snapshot(recipe), stop=stop, num_workers=1)

    ray.kill(holder)
    assert monotonic() - began < 10


class Holder:
    """Another program that holds CPUs."""

    def answer(self) -> int:
        return 193


class SlowSnapshot(ServerActor):
    """A server whose state takes longer to send than it is waited for."""

    def snapshot(self) -> Snapshot:
        sleep(2)
        return super().snapshot()


def test_slow_snapshot_replaces_no_server(
    ray_cpus: int, recipe: Recipe, digits: Dataset, events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(servers, "ServerActor", SlowSnapshot)
    group = RayGroup(recipe, digits, first_snapshot(recipe), events.append, num_workers=1)
    monkeypatch.setattr(servers, "_REPLY_S", 0.5)

    group.advance(ROUNDS)
    actual = group.snapshot()

    group.close()
    assert bits(actual) == bits(train_locally(recipe, digits, ROUNDS))
    assert [event.name for event in events] == ["started"]


def train(recipe: Recipe, digits: Dataset, events: list[Event]) -> Snapshot:
    """Train for some rounds with two workers."""
    group = RayGroup(recipe, digits, first_snapshot(recipe), events.append, num_workers=2)
    group.advance(ROUNDS)
    trained = group.snapshot()
    group.close()
    return trained


class CannotAttach(WorkerActor):
    """A worker that may not open the memory of its own host."""

    def attach(self, address: MemoryAddress) -> bool:
        return False


def test_worker_that_cannot_open_the_memory_of_its_host_is_reported(
    ray_cpus: int, recipe: Recipe, digits: Dataset, events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(members, "WorkerActor", CannotAttach)

    assert bits(train(recipe, digits, events)) == bits(train_locally(recipe, digits, ROUNDS))
    warnings = [str(event) for event in events if event.name == "message"]
    assert len(warnings) == 2
    assert all("cannot open the memory of the parameter server" in each for each in warnings)


class Refused(ServerActor):
    """A server to which the system refuses a call."""

    call, code = "", 0

    def open(self, *arguments: Any) -> MemoryAddress:
        def refuse(*about: Any) -> int:
            raise OSError(self.code, os.strerror(self.code))

        setattr(os, self.call, refuse)
        return super().open(*arguments)


def test_system_without_anonymous_files_trains_through_calls(
    ray_cpus: int, recipe: Recipe, digits: Dataset, events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    refused = type("Some", (Refused,), {"call": "memfd_create", "code": ENOSYS})
    monkeypatch.setattr(servers, "ServerActor", refused)

    assert bits(train(recipe, digits, events)) == bits(train_locally(recipe, digits, ROUNDS))
    assert len([event for event in events if "travel in calls" in str(event)]) == 2


def test_lack_of_memory_for_the_vectors_is_reported_with_69(
    ray_cpus: int, recipe: Recipe, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = type("Some", (Refused,), {"call": "posix_fallocate", "code": ENOMEM})
    monkeypatch.setattr(servers, "ServerActor", refused)

    with pytest.raises(UnavailableError, match=r"^no memory for the vectors .*Cannot allocate"):
        RayGroup(recipe, digits, first_snapshot(recipe), num_workers=1)

    assert UnavailableError.exit_code == 69


class TakesNothing(WorkerActor):
    """A worker whose shards do not arrive: it answers, but never has them."""

    async def identify(self) -> Any:
        return super().identify()

    async def take(self, *shards: Any) -> Any:
        import asyncio

        await asyncio.Event().wait()


def test_shards_that_never_arrive_are_reported_and_end_the_run(
    ray_cpus: int, recipe: Recipe, digits: Dataset, events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(members, "WorkerActor", TakesNothing)
    monkeypatch.setattr(members, "_TAKE_S", 0.2)
    monkeypatch.setattr(members, "_MAX_TAKE_S", 1.0)

    with pytest.raises(ClusterError, match="shards did not reach worker 0"):
        RayGroup(recipe, digits, first_snapshot(recipe), events.append, num_workers=1)

    assert "worker 0 on host " in str(events[0])
    assert " waits for its shards (" in str(events[0])


def test_failed_attempt_to_attach_keeps_no_descriptor(recipe: Recipe) -> None:
    opened = shared_memory.create(7, ((0, 1),))
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    values = {**vars(opened.address)}

    for changes in ({"token": 1}, {"num_parameters": 8}, {"descriptor": 999}, {"bell": 999}):
        assert shared_memory.attach(MemoryAddress(**{**values, **changes})) is None

    assert len(list(descriptors.iterdir())) == before
    opened.close()
