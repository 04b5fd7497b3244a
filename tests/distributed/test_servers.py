"""Parameter servers of two hosts, as actors on one node: how they are kept equal."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import monotonic
from typing import Any

import numpy as np
import pytest
import ray
from ray.exceptions import GetTimeoutError

from nanograd.digits.dataset import Dataset
from nanograd.distributed.actors import CONCURRENT, ServerActor
from nanograd.distributed.servers import Server, Servers
from nanograd.errors import ClusterError
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.server import LossSum, Snapshot, first_snapshot
from tests.helpers.actors import FreezesWhenCopied, FreezesWhenRestored
from tests.helpers.runs import train_locally

REPLY_S = 3.0
Kind = type[ServerActor]
MakeServers = Callable[..., Servers]


@pytest.fixture(scope="module")
def recipe(digits: Dataset) -> Recipe:
    return make_recipe(TrainSpec(batch_size=193, hidden=7, shards=2, epochs=1), len(digits))


@pytest.fixture
def make_servers(ray_cpus: int, recipe: Recipe) -> Iterator[MakeServers]:
    made: list[Server] = []

    def make(*states: Snapshot, kinds: tuple[Kind, ...] = (ServerActor,) * 3) -> Servers:
        servers = Servers(recipe, print, TrainSpec(workers=2))
        for name, state, kind in zip("abc", states, kinds, strict=False):
            remote: Any = ray.remote(num_cpus=0, concurrency_groups={CONCURRENT: 4})
            actor = remote(kind).remote(recipe, state)
            identity = ray.get(actor.identify.remote())
            neighbour = replace(identity, name=name, address="10.77.0.1")
            servers.present[name] = Server(actor, None, neighbour, monotonic(), identity)
        made.extend(servers.present.values())
        return servers

    yield make
    for server in made:
        os.kill(server.identity.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "kinds", [(FreezesWhenCopied, ServerActor), (ServerActor, FreezesWhenRestored)]
)
def test_server_that_freezes_while_others_are_brought_level_is_a_failure(
    make_servers, recipe, digits, kinds
):
    newest, start = train_locally(recipe, digits, 5), first_snapshot(recipe)
    servers, began = make_servers(newest, start, kinds=kinds), monotonic()

    with pytest.raises(GetTimeoutError):
        servers.level(REPLY_S)

    assert monotonic() - began < 60


def test_state_that_differs_between_servers_is_not_copied_and_its_host_is_named(
    make_servers, recipe, digits
):
    good = train_locally(recipe, digits, 3)
    servers = make_servers(good, good, good)
    present = dict(servers.present)

    for vector, names in {
        "state": "abc",
        "average": "abc",
        "progress": "abc",
        "vector": "ab",
    }.items():
        bad = good.copy()
        if vector == "progress":
            bad.progress += LossSum(loss=1e-9)
        else:
            found = getattr(bad, vector)
            [flipped] = found.values() if vector == "state" else [found]
            flipped.view(np.uint32)[193] ^= 1
        ray.get(present["a"].actor.restore.remote(bad))
        servers.present = {name: present[name] for name in names}

        with pytest.raises(ClusterError) as caught:
            servers.snapshot(REPLY_S)

        named = [name in str(caught.value) for name in ("a at 10.77.0.1", "b at 10.77.0.1")]
        assert named == [True, len(names) == 2], vector
