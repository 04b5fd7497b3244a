import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from nanograd.distributed import shared_memory
from nanograd.distributed.shared_memory import MemorySegment

NODES = ((0, 1), (1, 2), (2, 4))


@pytest.fixture
def server() -> Iterator[MemorySegment]:
    made = shared_memory.create(7, 2, NODES, is_alone=False)
    yield made
    made.close()


@pytest.fixture
def worker(server: MemorySegment) -> Iterator[MemorySegment]:
    attached = shared_memory.attach(server.address)
    if attached is None:
        pytest.skip("needs anonymous files")
    yield attached
    attached.close()


@pytest.mark.parametrize("sent", [4, 6])
def test_gradient_of_another_round_is_late(server, worker, sent):
    for slot, round_ in enumerate((5, sent, 5)):
        worker.send(slot, round_, 0.0, 1)

    assert server.late_slot(5) == NODES[1]
    worker.send(1, 5, 0.0, 1)
    assert server.late_slot(5) is None


def test_stop_ends_the_wait_of_a_worker_although_all_live(server, worker):
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(worker.wait_for_round, 0)
        server.stop()

        assert waits.result(5) is False
    server.publish(3)
    assert worker.wait_for_round(3)  # a round that is published needs no wait
    assert not worker.wait_for_round(4)


def test_worker_of_a_dead_server_stops_waiting(server):
    machine, pid, _ = server.address.process.split("-")
    dead = replace(server.address, process=f"{machine}-{pid}-1")  # it started at another time

    worker = shared_memory.attach(dead)

    if worker is not None:
        assert not worker.wait_for_round(0)
        worker.close()


def test_bell_wakes_the_server_and_a_full_one_stops_no_worker(server, worker):
    for side in (worker, server):  # the server sends for workers that cannot reach the memory
        for _ in range(2**17):
            side.send(0, 0, 0.0, 1)

    assert os.read(server.bell, 1) == b"\0"


def test_closed_memory_and_failed_attempts_to_attach_keep_no_descriptor():
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))

    made = shared_memory.create(7, 2, NODES)
    for changes in ({"token": 1}, {"num_parameters": 8}, {"descriptor": 999}, {"bell": 999}):
        assert shared_memory.attach(replace(made.address, **changes)) is None
    attached = shared_memory.attach(made.address)
    made.close()
    if attached is not None:
        attached.close()
    del made, attached  # with the last array goes the mapping, which has a descriptor of its own

    assert len(list(descriptors.iterdir())) == before
