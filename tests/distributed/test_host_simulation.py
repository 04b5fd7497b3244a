"""Deterministic simulation of the exchange between hosts."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from nanograd.distributed.all_reduce import Action, AllReduce, FrameType, Header, Send, _Inbox
from tests.helpers.host_simulation import MakeMachine, Simulation, ViolationError

NUM_SCHEDULES = 10_000


class NoRoundCheck(AllReduce):
    """Takes late frames for frames of the current round."""

    def buffer_for(self, header: Header) -> Any:
        return super().buffer_for(header._replace(round=max(header.round, self.round)))

    def receive(self, header: Header) -> list[Action]:
        return super().receive(header._replace(round=max(header.round, self.round)))


class AppliesTwice(AllReduce):
    """Does not go on to the next round when a total repeats."""

    def receive(self, header: Header) -> list[Action]:
        actions = super().receive(header)
        return actions + [each for each in actions if not isinstance(each, Send)]


class LosesAbort(AllReduce):
    """Does not let its peers know of a failure, nor end by its deadline."""

    def tick(self, now: float) -> list[Action]:
        return []

    def _fail(self, *args: Any) -> list[Action]:
        return [each for each in super()._fail(*args) if not isinstance(each, Send)]


class StaleInbox(AllReduce):
    """Keeps what has arrived for an earlier round."""

    def applied(self) -> None:
        counts = dict(self._inbox(self.round).counts)
        super().applied()
        self._inbox(self.round + 1).counts = counts


class WrongParity(AllReduce):
    """Has one inbox for all rounds."""

    def _inbox(self, round_: int) -> _Inbox:
        return self._inboxes[0]


def violations(make_machine: MakeMachine, seeds: range) -> int | None:
    """Return the first seed whose schedule violates the promises."""
    for seed in seeds:
        try:
            Simulation(seed, make_machine).run()
        except ViolationError:
            return seed
    return None


def test_no_schedule_changes_a_bit_or_hangs() -> None:
    assert violations(AllReduce, range(NUM_SCHEDULES)) is None


@pytest.mark.soak
def test_no_schedule_of_a_million_changes_a_bit_or_hangs() -> None:
    blocks = [range(start, start + NUM_SCHEDULES) for start in range(0, 1_000_000, NUM_SCHEDULES)]

    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        found = set(pool.map(violations, [AllReduce] * len(blocks), blocks))

    assert found == {None}


@pytest.mark.parametrize(
    "planted", [NoRoundCheck, AppliesTwice, LosesAbort, StaleInbox, WrongParity]
)
def test_planted_fault_is_found(planted: MakeMachine) -> None:
    assert violations(planted, range(NUM_SCHEDULES)) is not None


def test_seed_repeats_a_schedule() -> None:
    runs = [Simulation(193, fault_rate=0.05) for _ in range(2)]

    generations = [run.run() for run in runs]

    assert generations[0] == generations[1]
    assert runs[0].now == runs[1].now
    assert FrameType.SUM == 1  # the wire format
