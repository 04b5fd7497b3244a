"""Which host is named when servers do not have the same parameters."""

import random
from collections import defaultdict, deque
from typing import Any

import numpy as np
import pytest

from nanograd.distributed.all_reduce import (
    AllReduce,
    Fail,
    FailureCause,
    MeshPlan,
)
from nanograd.training.worker import Contribution

NUM_ORDERS = 200


def failures(num_hosts: int, faulty: int, seed: int, *, total: bool) -> list[Fail | None]:
    """Exchange a round in a random order; one host has another digest, or adds other losses."""
    chance = random.Random(seed)  # noqa: S311 - nothing secret
    nodes = tuple(((host, host + 1),) for host in range(num_hosts))
    wires: dict[tuple[int, int], deque[Any]] = defaultdict(deque)
    machines = [
        AllReduce(
            MeshPlan(
                generation=1, me=me, nodes=nodes, root=(0, num_hosts), num_parameters=num_hosts
            ),
            0,
            lambda peer, header, payload, me=me: wires[me, peer].append((header, payload)),
        )
        for me in range(num_hosts)
    ]

    def start(host: int) -> None:
        digest = None if total else 7 + (host == faulty)
        machines[host].start_round(1.0, digest)
        gradient = np.ones(num_hosts, np.float32)
        own = Contribution(round=0, node=nodes[host][0], gradient=gradient, loss=1.0, num_images=1)
        machines[host].add_local([own])

    waiting = list(range(num_hosts))
    while waiting or any(wires.values()):
        ready = [pair for pair, wire in wires.items() if wire and pair[1] not in waiting]
        if waiting and (not ready or chance.random() < 0.3):
            start(waiting.pop(chance.randrange(len(waiting))))
            continue
        source, target = chance.choice(ready)
        header, payload = wires[source, target].popleft()
        if machines[target].failure:
            continue
        buffer = machines[target].buffer_for(header, header.sender)
        if buffer is not None and payload is not None:
            buffer[...] = payload
        is_wrong = total and header.type.name == "SUM" and target == faulty
        machines[target].receive(header._replace(loss=header.loss + is_wrong))
    return [machine.failure for machine in machines]


@pytest.mark.parametrize("total", [False, True])
@pytest.mark.parametrize("num_hosts", [2, 3, 4])
def test_host_that_differs_from_the_majority_is_named_in_every_order(
    num_hosts: int, total: bool
) -> None:
    for seed in range(NUM_ORDERS):
        faulty = seed % num_hosts

        found = failures(num_hosts, faulty, seed, total=total)

        named = {each.peers for each in found if each and each.cause is FailureCause.DIGESTS_DIFFER}
        assert all(found)
        assert named == {frozenset({faulty}) if num_hosts > 2 else frozenset({0, 1})}
