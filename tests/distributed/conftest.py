"""One private Ray for this folder: late threads of a first one can kill a second one."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import Event as StopSignal
from typing import Any

import pytest
import ray

from nanograd.digits.dataset import Dataset, Mnist
from nanograd.distributed import members, servers
from nanograd.distributed.cluster import session
from nanograd.distributed.group import RayGroup
from nanograd.runtime.events import Event, Listener
from nanograd.training.recipe import Recipe
from nanograd.training.server import Snapshot, first_snapshot

StartGroup = Callable[..., RayGroup]


class Holder:
    def answer(self) -> int:
        return 193


@pytest.fixture(scope="package")
def ray_cpus() -> Iterator[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "500")
        with session("local", num_cpus=4):
            yield 4


@pytest.fixture(scope="package")
def joining(ray_cpus: int) -> dict[str, str]:
    """The variables that make another process join this Ray."""
    address = ray.get_runtime_context().gcs_address
    token = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    return {"RAY_ADDRESS": address, **token}


@pytest.fixture(scope="package")
def digits(sample: Mnist) -> Dataset:
    return sample.train.take(slice(0, 1931))


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def start_group(ray_cpus: int, digits: Dataset, events: list[Event]) -> Iterator[StartGroup]:
    made: list[RayGroup] = []

    def start(
        recipe: Recipe,
        num_workers: int,
        snapshot: Snapshot | None = None,
        listener: Listener = events.append,
        stop: StopSignal | None = None,
        **options: Any,
    ) -> RayGroup:
        begin, spec = snapshot or first_snapshot(recipe), recipe.spec
        recipe = replace(recipe, spec=replace(spec, workers=num_workers, **options))
        made.append(RayGroup(recipe, digits, begin, listener, stop))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture
def hold(ray_cpus: int) -> Iterator[Callable[[int], None]]:
    """Let another program hold so many CPUs, as soon as they are free."""
    held: list[Any] = []

    def begin(num_cpus: int) -> None:
        held.append(ray.remote(num_cpus=num_cpus)(Holder).remote())
        ray.get(held[-1].answer.remote())

    yield begin
    for each in held:
        ray.kill(each)


@pytest.fixture
def use_workers(monkeypatch: pytest.MonkeyPatch) -> Callable[[type], None]:
    return lambda kind: monkeypatch.setattr(members, "WorkerActor", kind)


@pytest.fixture
def use_servers(monkeypatch: pytest.MonkeyPatch) -> Callable[[type], None]:
    return lambda kind: monkeypatch.setattr(servers, "ServerActor", kind)
