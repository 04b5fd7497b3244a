import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray.cloudpickle

from nanograd.digits.dataset import Dataset
from nanograd.distributed import servers
from nanograd.distributed.actors import ActorIdentity, ServerActor, WorkerActor
from nanograd.distributed.group import RayGroup
from nanograd.distributed.shared_memory import MemoryAddress
from nanograd.errors import ClusterError, DivergedError
from nanograd.runtime.events import BuildsDiffer, Event
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.server import Snapshot, first_snapshot
from tests.helpers.runs import bits, train_locally

# Actors cannot import this module, so its classes are pickled by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

ROUNDS = 7
DISTORTED = {"shards": 5, "pixels": "deskewed", "elastic": 1.0, "rotation": 8.0, "stroke": 0.5}


def recipe_for(digits: Dataset, **settings: object) -> Recipe:
    return make_recipe(TrainSpec.resolve({"batch_size": 193, **settings}), len(digits))


def snapshot_after(group: RayGroup, rounds: int) -> Snapshot:
    try:
        group.advance(rounds)
        return group.snapshot()
    finally:
        group.close()


@pytest.mark.parametrize(
    ("num_workers", "shared_memory", "settings"),
    [
        *((num_workers, True, {"optimizer": "adam"}) for num_workers in (1, 2, 3, 4)),
        (3, True, DISTORTED),
        (3, False, DISTORTED),
    ],
)
def test_any_group_gives_the_bits_of_the_local_group(
    ray_cpus: int,
    digits: Dataset,
    num_workers: int,
    shared_memory: bool,
    settings: dict[str, object],
) -> None:
    recipe = recipe_for(digits, **settings)
    start = first_snapshot(recipe)

    group = RayGroup(recipe, digits, start, num_workers=num_workers, shared_memory=shared_memory)
    actual = snapshot_after(group, ROUNDS)

    assert bits(actual) == bits(train_locally(recipe, digits, ROUNDS))


def test_a_new_group_goes_on_from_a_snapshot_with_the_same_bits(
    ray_cpus: int, digits: Dataset
) -> None:
    recipe = recipe_for(digits)
    start = first_snapshot(recipe)

    middle = snapshot_after(RayGroup(recipe, digits, start, num_workers=2), 3)
    end = snapshot_after(RayGroup(recipe, digits, middle, num_workers=3), ROUNDS)

    assert bits(end) == bits(train_locally(recipe, digits, ROUNDS))


def test_server_that_does_not_start_in_time_is_a_cluster_error(
    ray_cpus: int, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "START_TIMEOUT_S", 0.001)
    recipe = recipe_for(digits)

    with pytest.raises(ClusterError, match=r"the parameter server did not start .*`ray status`"):
        RayGroup(recipe, digits, first_snapshot(recipe), num_workers=1)


def test_server_killed_while_the_group_starts_changes_no_bit(
    ray_cpus: int, digits: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class DiesOnce(ServerActor):
        def open(self, *arguments: Any) -> MemoryAddress:
            if not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                os._exit(1)
            return super().open(*arguments)

    monkeypatch.setattr(servers, "ServerActor", DiesOnce)
    recipe = recipe_for(digits)

    end = snapshot_after(RayGroup(recipe, digits, first_snapshot(recipe), num_workers=2), ROUNDS)

    assert (tmp_path / "died").exists()
    assert bits(end) == bits(train_locally(recipe, digits, ROUNDS))


def test_divergence_in_the_server_actor_reaches_the_driver(ray_cpus: int, digits: Dataset) -> None:
    recipe = recipe_for(digits, learning_rate=1e30, optimizer="sgd", warmup=0)
    group = RayGroup(recipe, digits, first_snapshot(recipe), num_workers=2)

    with pytest.raises(DivergedError, match="round 0"):
        snapshot_after(group, ROUNDS)


class OtherBuild(WorkerActor):
    """A worker whose arithmetic is that of no other process."""

    def identify(self) -> ActorIdentity:
        return replace(super().identify(), fingerprint=f"numpy of process {os.getpid()}")


def test_worker_with_other_arithmetic_is_reported_or_refused(
    ray_cpus: int, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanograd.distributed.members.WorkerActor", OtherBuild)
    recipe, events = recipe_for(digits), list[Event]()
    start = first_snapshot(recipe)

    RayGroup(recipe, digits, start, events.append, num_workers=2).close()
    with pytest.raises(
        ClusterError, match=r"numpy of process .* --strict and --kernel portable refuse that"
    ):
        RayGroup(recipe, digits, start, num_workers=2, strict=True)

    assert [event.rank for event in events if isinstance(event, BuildsDiffer)] == [1]


def test_replacement_of_the_only_worker_is_compared_with_the_first_one(
    ray_cpus: int, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanograd.distributed.members.WorkerActor", OtherBuild)
    recipe, events = recipe_for(digits), list[Event]()
    start = first_snapshot(recipe)

    def replaced(group: RayGroup) -> Snapshot:
        group.advance(3)
        os.kill(group.pids()["0"], signal.SIGKILL)
        return snapshot_after(group, ROUNDS)

    group = RayGroup(recipe, digits, start, events.append, num_workers=1)
    replaced(group)
    with pytest.raises(ClusterError, match="--strict and --kernel portable refuse that"):
        replaced(RayGroup(recipe, digits, start, num_workers=1, strict=True))

    [differ] = [event for event in events if isinstance(event, BuildsDiffer)]
    assert [differ.first, differ.worker] == group.fingerprints()
