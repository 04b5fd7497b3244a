"""A server actor without Ray: contributions in calls that are late, doubled or early."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nanograd.digits.dataset import Dataset
from nanograd.distributed.actors import LateShards, ServerActor
from nanograd.nn.optimizers import Vector
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.server import first_snapshot
from nanograd.training.worker import Contribution, Worker
from tests.helpers.runs import bits, train_locally

ROUNDS = 6


@pytest.fixture(scope="module")
def recipe(digits: Dataset) -> Recipe:
    return make_recipe(TrainSpec(batch_size=193, hidden=7, shards=2, epochs=2), len(digits))


class Calls:
    """A server, and the calls of two workers that cannot reach its memory."""

    def __init__(self, recipe: Recipe, digits: Dataset) -> None:
        self.server = ServerActor(recipe, first_snapshot(recipe))
        plan = recipe.plan
        self._workers = [
            Worker(recipe, {shard: digits.take(plan.shard_slice(shard))}) for shard in range(2)
        ]
        self.token = self.server.open(((0, 1), (1, 2)), is_alone=True).token
        self._pool = ThreadPoolExecutor(2)

    def run(self, until: int, deadline_s: float = 20) -> "Future[Any]":
        """Start rounds."""
        return self._pool.submit(self.server.run, until, deadline_s)

    def parameters(self, round_: int) -> Vector:
        """Wait for the parameters of a round."""
        vector = self.server.exchange(self.token, [], round_)
        assert vector is not None
        return vector

    def contribution(self, worker: int, round_: int, vector: Vector) -> Contribution:
        """Compute a worker's contribution."""
        [computed] = self._workers[worker].contribute(round_, vector)
        return computed

    def send(self, *contributions: Contribution) -> None:
        """Send contributions in one call, without waiting for parameters."""
        self.server.exchange(self.token, contributions, None)

    def close(self) -> None:
        self.server.stop()
        self._pool.shutdown()


@pytest.fixture
def calls(recipe: Recipe, digits: Dataset) -> Iterator[Calls]:
    made = Calls(recipe, digits)
    yield made
    made.close()


def test_late_doubled_and_early_contributions_have_no_effect(
    calls: Calls, recipe: Recipe, digits: Dataset
) -> None:
    served, random = calls.run(ROUNDS), np.random.default_rng(193)
    earlier: list[Contribution] = []

    for round_ in range(ROUNDS):
        vector = calls.parameters(round_)
        first, second = (calls.contribution(worker, round_, vector) for worker in (0, 1))
        wrong = replace(first, gradient=first.gradient + 1)
        calls.send(replace(second, round=round_ + 1))
        for late in random.permutation(np.array([*earlier, None], object)):
            if late is not None:
                calls.send(late)
        calls.send(first)
        calls.send(wrong)
        calls.send(second)
        earlier += [first, second, wrong]

    assert served.result() is None
    assert bits(calls.server.snapshot()) == bits(train_locally(recipe, digits, ROUNDS))


@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_contribution_counts_once_and_in_its_own_round_only(calls: Calls, shift: int) -> None:
    served = calls.run(2)
    for round_ in (0, 1):
        vector = calls.parameters(round_)
        calls.send(*(calls.contribution(worker, round_, vector) for worker in (0, 1)))
    assert served.result() is None
    calls.token = calls.server.open(((0, 1), (1, 2)), is_alone=True).token
    served = calls.run(3)
    own = calls.contribution(0, 2, calls.parameters(2))
    if shift == 0:
        calls.send(own)

    answer = calls.server.exchange(calls.token, [replace(own, round=2 + shift)], 2)

    assert answer is None
    calls.send(own)
    calls.send(calls.contribution(1, 2, calls.parameters(2)))
    assert served.result() is None


def test_parameters_in_an_answer_are_those_of_their_round(calls: Calls) -> None:
    served = calls.run(1)
    first = calls.parameters(0)
    before = first.copy()
    for worker in (0, 1):
        calls.send(calls.contribution(worker, 0, before))

    assert served.result() is None
    assert first.tobytes() == before.tobytes()
    assert first.tobytes() != calls.server.parameters().tobytes()


@pytest.mark.parametrize("end", ["stop", "open"])
def test_end_of_a_segment_answers_those_who_wait(calls: Calls, end: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(calls.server.exchange, calls.token, [], 0)

        if end == "open":
            calls.server.open(((0, 2),), is_alone=True)
        else:
            calls.server.stop()

        assert waiting.result(5) is None


def test_call_for_a_memory_that_was_replaced_has_no_effect(calls: Calls) -> None:
    vector = calls.server.parameters().copy()
    old, contribution = calls.token, calls.contribution(0, 0, vector)
    calls.token = calls.server.open(((0, 1), (1, 2)), is_alone=True).token
    served = calls.run(1, deadline_s=0.5)
    calls.parameters(0)

    answer = calls.server.exchange(old, [contribution], 1)

    assert answer is None
    assert served.result() == LateShards((0, 1))


def test_waiting_round_names_the_shards_it_waits_for(calls: Calls) -> None:
    assert calls.server.waiting() is None
    served = calls.run(1, deadline_s=1)
    calls.send(calls.contribution(0, 0, calls.parameters(0)))

    wait = calls.server.waiting()

    assert wait is not None
    assert (wait.round, wait.is_remote) == (0, False)
    assert wait.waits_for[0].startswith("shard 1 on host ")
    assert served.result() == LateShards((1, 2))
    assert calls.server.waiting() is None
