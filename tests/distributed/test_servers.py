from dataclasses import replace
from time import monotonic
from typing import Any

import numpy as np
import pytest
import ray

from nanograd.digits.dataset import Dataset
from nanograd.distributed.actors import CONCURRENT, ServerActor
from nanograd.distributed.servers import Server, Servers
from nanograd.errors import ClusterError
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.recipe import make_recipe
from tests.helpers.runs import train_locally


def test_state_that_differs_between_servers_is_not_copied_and_its_host_is_named(
    ray_cpus: int, digits: Dataset
) -> None:
    recipe = make_recipe(TrainSpec(batch_size=193, hidden=7, shards=2, epochs=1), len(digits))
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
