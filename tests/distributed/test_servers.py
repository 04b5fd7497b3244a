"""Parameter servers of two hosts, as actors on one node: how they are kept equal."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest
import ray
import ray.cloudpickle
from ray.exceptions import GetTimeoutError

from nanograd.commands import make_recipe
from nanograd.config.train_config import TrainConfig
from nanograd.data.dataset import Dataset
from nanograd.distributed.actors import CONCURRENT, ServerActor
from nanograd.distributed.servers import Server, Servers
from nanograd.training.recipe import Recipe
from nanograd.training.server import Snapshot, first_snapshot
from tests.helpers.runs import bits, train_locally

# Actors cannot import this module, so its classes are pickled by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

REPLY_S = 3.0
MakeServers = Callable[..., Servers]


class FreezesWhenCopied(ServerActor):
    def snapshot(self) -> Snapshot:
        os.kill(os.getpid(), signal.SIGSTOP)
        return super().snapshot()


class FreezesWhenRestored(ServerActor):
    def restore(self, snapshot: Snapshot) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)


@pytest.fixture(scope="module")
def recipe(digits: Dataset) -> Recipe:
    return make_recipe(TrainConfig(batch_size=193, hidden=7, shards=2, epochs=1), len(digits))


@pytest.fixture
def make_servers(ray_cpus: int, recipe: Recipe) -> Iterator[MakeServers]:
    made: list[Servers] = []

    def make(*states: Snapshot, kinds: tuple[type[ServerActor], ...]) -> Servers:
        servers = Servers(recipe, print, num_workers=2, ports=(0,), shared_memory=True, options={})
        made.append(servers)
        for name, state, kind in zip("abc", states, kinds, strict=False):
            remote: Any = ray.remote(num_cpus=0, concurrency_groups={CONCURRENT: 4})
            actor = remote(kind).remote(recipe, state)
            identity = ray.get(actor.identify.remote())
            servers.present[name] = Server(actor, None, identity, identity)
        return servers

    yield make
    for each in made:
        for server in each.present.values():
            assert server.identity is not None
            os.kill(server.identity.pid, signal.SIGKILL)


def states(servers: Servers) -> list[Any]:
    return [bits(ray.get(each.actor.snapshot.remote())) for each in servers.present.values()]


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_level_brings_all_servers_to_the_newest_state(
    make_servers: MakeServers, recipe: Recipe, digits: Dataset, ahead: int
) -> None:
    newest = train_locally(recipe, digits, 5)
    given = [train_locally(recipe, digits, 4)] * 3
    given[ahead] = newest
    servers = make_servers(*given, kinds=(ServerActor,) * 3)

    reached = servers.level(REPLY_S)

    assert reached == 5
    assert states(servers) == [bits(newest)] * 3


@pytest.mark.parametrize(
    "kinds", [(FreezesWhenCopied, ServerActor), (ServerActor, FreezesWhenRestored)]
)
def test_server_that_freezes_while_others_are_brought_level_is_a_failure(
    make_servers: MakeServers,
    recipe: Recipe,
    digits: Dataset,
    kinds: tuple[type[ServerActor], ...],
) -> None:
    newest, start = train_locally(recipe, digits, 5), first_snapshot(recipe)
    servers, began = make_servers(newest, start, kinds=kinds), monotonic()

    with pytest.raises(GetTimeoutError):
        servers.level(REPLY_S)

    assert monotonic() - began < 60
