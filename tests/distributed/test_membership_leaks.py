"""Thousands of changes of membership in one process, with real sockets and memory, without Ray.

Hosts join, leave, lose their connections and fail to form; after each change they apply a round.
"""

import random
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from nanograd.digits.dataset import Dataset
from nanograd.distributed import actors, formation
from nanograd.distributed.actors import ServerActor, WorkerActor
from nanograd.distributed.all_reduce import MeshPlan
from nanograd.distributed.formation import KEY_BYTES, MeshError
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.local import assign_shards
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.server import first_snapshot
from nanograd.training.tree import cover
from tests.helpers.resources import Resources
from tests.helpers.runs import bits, train_locally

NUM_SHARDS, MAX_HOSTS = 4, 3
KEY = b"k" * KEY_BYTES
# Before the first measurement: what is created once, such as threads and caches, exists then.
WARM_UP = 100
# Python and the C library move their memory about; a leak of 100 bytes a change exceeds this.
SLACK_BYTES = 1_000_000


class Group:
    """Hosts with a server and a worker each, as threads of this process.

    Args:
        recipe: the computation.
        digits: the training images.
    """

    def __init__(self, recipe: Recipe, digits: Dataset) -> None:
        plan, start = recipe.plan, first_snapshot(recipe)
        self._recipe = recipe
        self._shards = [digits.take(plan.shard_slice(shard)) for shard in range(NUM_SHARDS)]
        self._all = [(ServerActor(recipe, start), WorkerActor(recipe)) for _ in range(MAX_HOSTS)]
        self._pool = ThreadPoolExecutor(2 * MAX_HOSTS)
        self._generation, self._num_hosts = 0, 0
        self.round = 0

    def form(self, num_hosts: int, *, absent: int | None = None) -> None:
        """Let the first hosts form a group; MeshError if one does not come."""
        self._generation, self._num_hosts = self._generation + 1, num_hosts
        self._level()
        held = assign_shards(NUM_SHARDS, num_hosts, range(num_hosts))
        for (server, worker), shards in zip(self._all, held.values(), strict=False):
            nodes = tuple(worker.take(shards, *(self._shards[shard] for shard in shards)))
            assert worker.attach(server.open(nodes, num_hosts == 1))
        if num_hosts == 1:
            return
        servers = [server for server, _ in self._all[:num_hosts]]
        endpoints = [server.listen([0]) for server in servers]
        with socket.create_connection(endpoints[0][1:], timeout=5):  # a stranger
            joined = self._each(
                lambda me: servers[me].join(self._plan(me, held), KEY, endpoints), absent
            )
        if errors := [each for each in joined if isinstance(each, MeshError)]:
            raise errors[0]

    def run(self, until: int, *, silent: int | None = None) -> list[Any]:
        """Compute rounds; one host may close its connections instead. Return the failures."""
        hosts = self._all[: self._num_hosts]
        if silent is not None:
            hosts[silent][0]._leave_mesh()
        working = [
            self._pool.submit(worker.run, self.round, until, None, 0)
            for me, (_, worker) in enumerate(hosts)
            if me != silent
        ]
        failures = self._each(lambda me: hosts[me][0].run(until, 20.0), silent)
        for server, _ in hosts:
            server.stop()
        for each in working:
            each.result()
        self._level()
        return [each for each in failures if each is not None]

    def resources(self) -> Resources:
        """Return what the process holds without connections."""
        for server, _ in self._all:
            server.stop()
            server._leave_mesh()
        return Resources.of()

    def close(self) -> None:
        self.resources()
        self._pool.shutdown()

    def parameters(self) -> tuple[object, ...]:
        return bits(self._all[0][0].snapshot())

    def _each(self, call: Callable[[int], Any], absent: int | None) -> list[Any]:
        hosts = [me for me in range(self._num_hosts) if me != absent]
        return [each.result() for each in [self._pool.submit(call, me) for me in hosts]]

    def _level(self) -> None:
        """Bring all servers to the newest state, as `Servers.level` does."""
        newest = max((server for server, _ in self._all), key=lambda server: server.round)
        self.round = newest.round
        for server, _ in self._all:
            server.forget()
            if server.round < self.round:
                server.restore(newest.snapshot())

    def _plan(self, me: int, held: dict[int, list[int]]) -> MeshPlan:
        root = (0, NUM_SHARDS)
        return MeshPlan(
            generation=self._generation, me=me, root=root,
            nodes=tuple(tuple(cover(root, frozenset(shards))) for shards in held.values()),
            num_parameters=self._recipe.architecture.num_parameters,
        )  # fmt: skip


@pytest.fixture
def make_group(monkeypatch: pytest.MonkeyPatch, digits: Dataset) -> Iterator[Any]:
    monkeypatch.setattr(actors, "_node_address", lambda: "127.0.0.1")
    monkeypatch.setattr(formation, "FORMATION_S", 0.3)
    made: list[Group] = []

    def make(num_rounds: int) -> tuple[Group, Recipe]:
        settings = TrainSpec(
            batch_size=4, hidden=3, shards=NUM_SHARDS, epochs=1, least_rounds=num_rounds,
            pixels="unit", deskew="before", elastic=0.0, stroke=0.0, warmup=0,
        )  # fmt: skip
        few = digits.take(slice(0, 193))
        recipe = make_recipe(settings, len(few))
        made.append(Group(recipe, few))
        return made[0], recipe

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("num_changes", [300, pytest.param(10_000, marks=pytest.mark.soak)])
def test_changes_of_membership_leak_nothing_and_change_no_bit(
    make_group: Any, digits: Dataset, num_changes: int
) -> None:
    group, recipe = make_group(num_changes)
    chance, before, num_failures = random.Random(7), group.resources(), 0  # noqa: S311

    for change in range(num_changes):
        if change == WARM_UP:
            before = group.resources()
        num_hosts = chance.choice([1, 2, 2, 3])
        absent = chance.randrange(num_hosts) if change % 100 == 50 and num_hosts > 1 else None
        with suppress(MeshError):
            group.form(num_hosts, absent=absent)
            assert absent is None
            silent = chance.randrange(num_hosts) if change % 5 == 4 and num_hosts > 1 else None
            failures = group.run(group.round + 1, silent=silent)
            num_failures += len(failures)
            assert bool(failures) == (silent is not None)
    after = group.resources()

    sys.stderr.write(f"{num_changes} changes, {num_failures} failures: {before} {after}\n")
    assert num_failures > num_changes / 10
    assert after[:3] == before[:3]
    assert after.memory_bytes <= before.memory_bytes + SLACK_BYTES
    few = digits.take(slice(0, 193))
    assert group.parameters() == bits(train_locally(recipe, few, group.round))
