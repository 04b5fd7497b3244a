"""A server actor without Ray: late, doubled or early calls, and workers that share the update."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from socket import SO_SNDBUF, SOL_SOCKET, socketpair
from time import monotonic
from typing import Any

import numpy as np
import pytest

from nanograd.digits.dataset import Dataset
from nanograd.distributed import shared_memory
from nanograd.distributed.actors import LateShards, ServerActor
from nanograd.distributed.all_reduce import Header, MeshPlan
from nanograd.distributed.shared_memory import MemorySegment
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.server import Refusal, Update, first_snapshot
from nanograd.training.worker import Contribution, Worker, add
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
        self._pool = ThreadPoolExecutor(2)
        self.open()

    def open(self) -> None:
        """Replace the memory."""
        self.token = self.server.open(((0, 1), (1, 2)), is_alone=True).token

    def run(self, until: int, deadline_s: float = 20) -> "Future[Any]":
        return self._pool.submit(self.server.run, until, deadline_s)

    def both(self, round_: int) -> list[Contribution]:
        """Wait for the parameters of a round; compute the contributions of both workers."""
        vector = self.server.exchange(self.token, [], round_)
        assert vector is not None
        return [each for worker in self._workers for each in worker.contribute(round_, vector)]

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


def test_late_doubled_and_early_contributions_have_no_effect(calls, recipe, digits):
    served, random = calls.run(ROUNDS), np.random.default_rng(193)
    earlier: list[Contribution] = []

    for round_ in range(ROUNDS):
        first, second = calls.both(round_)
        wrong = replace(first, gradient=first.gradient + 1)
        calls.send(replace(second, round=round_ + 1))
        for index in random.permutation(len(earlier)):
            calls.send(earlier[index])
        for each in (first, wrong, second):
            calls.send(each)
        earlier += [first, second, wrong]

    assert served.result() is None
    assert bits(calls.server.snapshot()) == bits(train_locally(recipe, digits, ROUNDS))


@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_contribution_counts_once_and_in_its_own_round_only(calls, shift):
    served = calls.run(2)
    for round_ in (0, 1):
        calls.send(*calls.both(round_))
    assert served.result() is None
    calls.open()
    served = calls.run(3)
    own, other = calls.both(2)
    if shift == 0:
        calls.send(own)

    answer = calls.server.exchange(calls.token, [replace(own, round=2 + shift)], 2)

    assert answer is None
    calls.send(own)
    calls.send(other)
    assert served.result() is None


def test_parameters_in_an_answer_are_those_of_their_round(calls):
    served = calls.run(1)
    vector = calls.server.exchange(calls.token, [], 0)
    before = vector.copy()
    calls.send(*calls.both(0))

    assert served.result() is None
    assert vector.tobytes() == before.tobytes() != calls.server.parameters().tobytes()


@pytest.mark.parametrize("end", ["stop", "open"])
def test_end_of_a_segment_answers_those_who_wait(calls, end):
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(calls.server.exchange, calls.token, [], 0)

        if end == "open":
            calls.server.open(((0, 2),), is_alone=True)
        else:
            calls.server.stop()

        assert waiting.result(5) is None


def test_call_for_a_memory_that_was_replaced_has_no_effect(calls):
    old = calls.token
    calls.open()
    served = calls.run(1, deadline_s=0.5)

    answer = calls.server.exchange(old, calls.both(0), 1)

    assert answer is None
    assert served.result() == LateShards((0, 1))


def test_waiting_round_names_the_shards_it_waits_for(calls):
    assert calls.server.waiting() is None
    served = calls.run(1, deadline_s=1)
    calls.send(calls.both(0)[0])

    wait = calls.server.waiting()

    assert wait is not None
    assert (wait.round, wait.is_remote) == (0, False)
    assert wait.waits_for[0].startswith("shard 1 on host ")
    assert served.result() == LateShards((1, 2))
    assert calls.server.waiting() is None


def half_a_slice(memory: MemorySegment, update: Update) -> None:
    memory.update(0, 3, update)
    memory.states[0, :, -7:] = np.nan


def no_gradient(memory: MemorySegment, update: Update) -> None:
    memory.send(1, 2, 0.0, 1)


def not_finite(memory: MemorySegment, update: Update) -> None:
    memory.gradients[1, 7] = np.nan
    assert not memory.update(0, 3, update)
    memory.ring()


def sent_anew(memory: MemorySegment, update: Update, **fields: Any) -> None:
    wrong = replace(memory.sent(1), **fields)
    memory.send(1, 3, wrong.loss, wrong.num_images)
    assert not memory.update(0, 3, update)
    memory.ring()


FAULTS: dict[str, tuple[Callable[[MemorySegment, Update], None], object]] = {
    "half a slice": (half_a_slice, LateShards((1, 2))),
    "no gradient": (no_gradient, LateShards((1, 2))),
    "not finite": (not_finite, Refusal.NOT_FINITE),
    "loss": (lambda *at: sent_anew(*at, loss=float("nan")), Refusal.NOT_FINITE),
    "count": (lambda *at: sent_anew(*at, num_images=1), Refusal.WRONG_COUNT),
}


@pytest.mark.parametrize(("fault", "failure"), FAULTS.values(), ids=FAULTS.keys())
def test_fault_of_a_worker_that_shares_the_update_leaves_the_last_whole_state(
    recipe, digits, fault, failure
):
    nodes, plan, update = ((0, 1), (1, 2)), recipe.plan, Update(recipe)
    workers = [Worker(recipe, {s: digits.take(plan.shard_slice(s))}) for s in range(2)]
    server = ServerActor(recipe, first_snapshot(recipe))
    memory = shared_memory.attach(server.open(nodes, is_alone=True))
    if memory is None:
        pytest.skip("needs anonymous files")
    memory.join(nodes)
    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(server.run, ROUNDS, 2.0)
        assert memory.wait_for_round(0)
        for round_ in range(4):
            assert memory.wait_for_slices(round_)
            for slot, node in enumerate(nodes):
                vector, out = memory.parameters(round_), memory.gradients[slot]
                done = workers[slot].sum_node(round_, node, vector, out)
                memory.send(slot, round_, done.loss, done.num_images)
            if round_ < 3:
                assert all(memory.update(slot, round_, update) for slot in range(2))

        fault(memory, update)

        assert served.result() == failure
    assert server.round == 3
    assert bits(server.snapshot()) == bits(train_locally(recipe, digits, 3))
    memory.close()


def test_server_whose_peer_does_not_read_ends_its_segment_when_it_is_stopped(recipe, digits):
    server = ServerActor(recipe, first_snapshot(recipe))
    vector = server.parameters()
    plan = MeshPlan(
        generation=1, me=0, hosts="ab", nodes=(((0, 1),), ((1, 2),)), root=(0, 2),
        num_parameters=len(vector),
    )  # fmt: skip
    own, other = (
        Worker(recipe, {shard: digits.take(recipe.plan.shard_slice(shard))}).contribute(0, vector)
        for shard in range(2)
    )
    total = add(own[0], other[0])
    token = server.open(plan.nodes[0], is_alone=False).token
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        ours, theirs = map(stack.enter_context, socketpair())
        ours.setblocking(False)
        ours.setsockopt(SOL_SOCKET, SO_SNDBUF, 1)  # the kernel gives 4,608 bytes
        server.connect(plan, {1: ours})
        for node, host, values in (((1, 2), 0, other[0]), (plan.root, 1, total)):
            part = plan.slices[host]
            place = part.start, part.stop - part.start
            header = Header(1, 1, 0, node, *place, values.loss, values.num_images)
            theirs.sendall(header.pack() + values.gradient[part].tobytes())
        served, end = pool.submit(server.run, 1, 60), monotonic() + 30
        server.exchange(token, [], 0)

        server.exchange(token, own, None)
        while server.round < 1:
            assert monotonic() < end
        assert not served.done()  # it sends the rest of its sums
        server.stop()

        assert served.result(10) is None
