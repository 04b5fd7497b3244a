"""Thousands of changes of membership in one process, with real sockets and memory, without Ray.

Hosts join, leave, lose their connections and fail to form; after each change they apply a round.
"""

import random
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest
import ray.util

from nanograd.digits.dataset import Dataset
from nanograd.distributed import formation
from nanograd.distributed.formation import MeshError
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.recipe import Recipe, make_recipe
from tests.helpers.hosts_in_threads import Hosts
from tests.helpers.resources import Resources
from tests.helpers.runs import bits, train_locally

# Before the first measurement: what is created once, such as threads and caches, exists then.
WARM_UP = 100
# Python and the C library move their memory about; a leak of 100 bytes a change exceeds this.
SLACK_BYTES = 1_000_000


@pytest.fixture
def few(digits: Dataset) -> Dataset:
    return digits.take(slice(0, 193))


@pytest.fixture
def recipe(few: Dataset, num_changes: int) -> Recipe:
    settings = TrainSpec(
        batch_size=4, hidden=3, shards=4, epochs=1, least_rounds=num_changes,
        pixels="unit", deskew="before", elastic=0.0, stroke=0.0, warmup=0,
    )  # fmt: skip
    return make_recipe(settings, len(few))


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch, recipe: Recipe, few: Dataset) -> Iterator[Hosts]:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(formation, "FORMATION_S", 0.3)
    made = Hosts(recipe, few, 3)
    yield made
    made.close()


def held(hosts: Hosts) -> Resources:
    """Return what the process holds without connections."""
    hosts.leave()
    return Resources.of()


@pytest.mark.parametrize("num_changes", [300, pytest.param(10_000, marks=pytest.mark.soak)])
def test_changes_of_membership_leak_nothing_and_change_no_bit(hosts, recipe, few, num_changes):
    chance, before, num_failures = random.Random(7), held(hosts), 0  # noqa: S311

    for change in range(num_changes):
        if change == WARM_UP:
            before = held(hosts)
        num_hosts = chance.choice([1, 2, 2, 3])
        absent = chance.randrange(num_hosts) if change % 100 == 50 and num_hosts > 1 else None
        with suppress(MeshError):
            hosts.form(num_hosts, absent=absent)
            assert absent is None
            silent = chance.randrange(num_hosts) if change % 5 == 4 and num_hosts > 1 else None
            if silent is not None:
                hosts.leave(silent)
            running = hosts.run(hosts.round + 1, silent=silent)
            failures = [each for each in [run.result() for run in running] if each is not None]
            num_failures += len(failures)
            assert bool(failures) == (silent is not None)
    after = held(hosts)

    sys.stderr.write(f"{num_changes} changes, {num_failures} failures: {before} {after}\n")
    assert num_failures > num_changes / 10
    assert after[:3] == before[:3]
    assert after.memory_bytes <= before.memory_bytes + SLACK_BYTES
    newest = max(hosts.servers, key=lambda server: server.round)
    assert bits(newest.snapshot()) == bits(train_locally(recipe, few, newest.round))
