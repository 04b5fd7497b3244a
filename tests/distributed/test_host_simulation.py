"""Thousands of schedules of training on several hosts, with the product's code from the driver down
to the frames."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from tests.helpers.host_simulation import trace_of, violation

NUM_SCHEDULES, CHUNK = 10_000, 1_000


@pytest.mark.parametrize("first", range(0, NUM_SCHEDULES, CHUNK))
def test_no_schedule_changes_a_bit_or_hangs(first):
    found = violation(range(first, first + CHUNK))

    assert found is None, trace_of(found)


def test_no_schedule_of_workers_that_share_the_update_changes_a_bit_or_hangs():
    found = violation(range(CHUNK), is_alone=True)

    assert found is None, trace_of(found, is_alone=True)


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
