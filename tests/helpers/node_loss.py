"""Train on three nodes of one Ray cluster with a fault in mid-run; print what happened.

A node is lost and another one won ("shared", "calls"), or a server dies in the last round of a
segment, when the others have what they need to apply it ("last").

A program of its own, run by test_node_loss.py: a process that ends one Ray and starts a second one
may be ended by late threads of the first.
"""

import json
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL

import ray
from ray.cluster_utils import Cluster

from nanograd.distributed import servers
from nanograd.distributed.actors import ServerActor
from nanograd.distributed.group import RayGroup
from nanograd.distributed.members import GroupSpec
from nanograd.images import sources
from nanograd.runtime import storage
from nanograd.runtime.events import Event
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.local import LocalGroup
from nanograd.training.recipe import make_recipe
from nanograd.training.server import Snapshot, first_snapshot
from nanograd.training.worker import Contribution

ROUNDS, LOSS = 40, 13


class DiesInLastRound(ServerActor):
    """A server that dies in the last round before LOSS, if it is the first to remove the mark."""

    mark: Path

    def apply(self, total: Contribution) -> None:
        """Die, or apply the round."""
        if total.round == LOSS - 1:
            with suppress(FileNotFoundError):
                self.mark.unlink()
                os.kill(os.getpid(), SIGKILL)
        super().apply(total)


def checksum(snapshot: Snapshot) -> str:
    return storage.checksum(snapshot.vector.tobytes())


def main(way: str) -> None:
    digits = sources.load(["sample"]).train.take(slice(0, 1931))
    recipe = make_recipe(TrainSpec(batch_size=193, epochs=4, hidden=31), len(digits))
    start = first_snapshot(recipe)
    local = LocalGroup(recipe, digits, start)
    local.advance(ROUNDS)

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, logging_level="ERROR")
    events: list[Event] = []
    if way == "last":
        DiesInLastRound.mark = Path(tempfile.mkstemp()[1])
        servers.ServerActor = DiesInLastRound
    group = RayGroup(
        recipe,
        digits,
        start,
        events.append,
        spec=GroupSpec(num_workers=3, shared_memory=way != "calls"),
    ).start()
    group.advance(LOSS)
    if way != "last":
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
        "workers": len(group.members.present),
    }
    group.close()
    ray.shutdown()
    cluster.shutdown()
    print(json.dumps(outcome))  # noqa: T201 - it is a program


if __name__ == "__main__":
    main(sys.argv[1])
