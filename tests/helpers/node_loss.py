"""Train on three nodes of one Ray cluster, lose one in mid-run, win another; print what happened.

A program of its own, run by test_node_loss.py: a process that ends one Ray and starts a second one
may be ended by late threads of the first.
"""

import json
import sys

import ray
from ray.cluster_utils import Cluster

from nanograd import sources
from nanograd.commands import make_recipe
from nanograd.config.train_config import TrainConfig
from nanograd.distributed.group import RayGroup
from nanograd.runtime import storage
from nanograd.runtime.events import Event
from nanograd.training.local import LocalGroup
from nanograd.training.server import Snapshot, first_snapshot

ROUNDS = 40


def checksum(snapshot: Snapshot) -> str:
    return storage.checksum(snapshot.vector.tobytes())


def main(shared_memory: bool) -> None:
    digits = sources.load(["sample"]).train.take(slice(0, 1931))
    recipe = make_recipe(TrainConfig(batch_size=193, epochs=4), len(digits))
    start = first_snapshot(recipe)
    local = LocalGroup(recipe, digits, start)
    local.advance(ROUNDS)

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, logging_level="ERROR")
    events: list[Event] = []
    group = RayGroup(
        recipe, digits, start, events.append, num_workers=3, shared_memory=shared_memory
    )
    group.advance(13)
    cluster.remove_node(nodes[0], allow_graceful=False)
    group.advance(27)
    cluster.add_node(num_cpus=1)
    group.advance(ROUNDS)
    group.settle()
    outcome = {
        "expected": checksum(local.snapshot()),
        "actual": checksum(group.snapshot()),
        "events": [event.name for event in events],
        "said": [str(event) for event in events],
        "workers": len(group.pids()) - 1,
    }
    group.close()
    ray.shutdown()
    cluster.shutdown()
    print(json.dumps(outcome))  # noqa: T201 - it is a program


if __name__ == "__main__":
    main(sys.argv[1] == "shared")
