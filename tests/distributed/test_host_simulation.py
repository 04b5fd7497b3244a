"""Thousands of schedules of training on several hosts, with the product's code from the driver down
to the frames."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from nanograd.distributed.members import START_TIMEOUT_S
from tests.helpers.host_simulation import JOINING, Fault, Simulation, trace_of, violation

NUM_SCHEDULES, CHUNK = 10_000, 1_000
# The first of the schedules find every mutant of tests/mutants; the others run in `test-all`.
USUAL = 200


@pytest.mark.parametrize(
    ("first", "end"), [(0, USUAL), pytest.param(USUAL, NUM_SCHEDULES, marks=pytest.mark.slow)]
)
def test_no_schedule_changes_a_bit_or_hangs(first, end):
    found = violation(range(first, end))

    assert found is None, trace_of(found)


def test_no_schedule_of_workers_that_share_the_update_changes_a_bit_or_hangs():
    found = violation(range(USUAL), is_alone=True)

    assert found is None, trace_of(found, is_alone=True)


def simulated(seed: int, *faults: Fault, is_alone: bool) -> tuple[list[str], float]:
    simulation = Simulation(seed, is_alone=is_alone)
    simulation.faults, simulation.ends = list(faults), [2, 5]
    simulation.run()
    assert len(simulation.injected) == len(faults)
    names = [event.name for event in simulation.events]
    return [name for name in names if name != "waiting"], simulation.world.now


def fault(kind: str, round_: int | None, role: str = "server", **about: Any) -> Fault:
    about = {"host": 0, "fuse": 1, "seconds": 1e9, **about}
    return Fault(kind=kind, role=role, round=round_, **about)


# The fuse of a server of one host that is to burn in the second segment.
SEEDS, LATER = range(50), 13


@pytest.mark.parametrize("host", [0, 1])
def test_server_that_is_killed_while_others_connect_to_it_is_the_only_one_given_up(host):
    # The second fault is that of the server that replaces the first one.
    faults = [fault("kill", moment, host=host) for moment in (3, JOINING)]
    found = [simulated(seed, *faults, is_alone=False)[0] for seed in SEEDS]

    assert ["server_lost" in names for names in found] == [False] * len(SEEDS)


def test_frozen_server_is_replaced_and_no_worker():
    found = [simulated(seed, fault("freeze", None, fuse=LATER), is_alone=True)[0] for seed in SEEDS]
    assert found == [["started", "server_lost"]] * len(SEEDS)


def test_server_that_freezes_while_it_starts_is_awaited_once():
    faults = fault("kill", None, fuse=LATER), fault("freeze", None)
    times = [simulated(seed, *faults, is_alone=True)[1] for seed in SEEDS]

    assert START_TIMEOUT_S < min(times) <= max(times) < 2 * START_TIMEOUT_S


def test_slow_first_round_is_no_failure():
    slow = [fault("freeze", None, role="worker", fuse=fuse, seconds=30.0) for fuse in range(7, 17)]
    found = [simulated(seed, each, is_alone=True)[0] for seed in range(5) for each in slow]

    assert found == [["started"]] * len(found)


@pytest.mark.soak
def test_no_schedule_of_a_million_changes_a_bit_or_hangs():
    blocks = [range(start, start + CHUNK) for start in range(0, 1_000_000, CHUNK)]

    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        found = [each for each in pool.map(violation, blocks) if each is not None]

    assert found == [], trace_of(found[0])


@pytest.mark.parametrize("seed", [7, 193])
def test_seed_repeats_a_schedule(seed):
    traces = [trace_of(seed) for _ in range(2)]

    assert traces[0] == traces[1]
    assert len(traces[0]) > 1000
