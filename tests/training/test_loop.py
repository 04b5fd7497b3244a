import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from threading import Event as StopSignal
from typing import Any

import numpy as np
import pytest

from nanograd.digits.dataset import Dataset, Mnist
from nanograd.digits.preparation import prepare
from nanograd.errors import InternalError, Stopped
from nanograd.nn.mlp import Params, one_hot
from nanograd.runtime import process
from nanograd.runtime.events import EpochFinished, EpochMetrics, Event, WorkerState, ignore
from nanograd.settings.train_spec import TrainSpec
from nanograd.training import local, loop
from nanograd.training.checkpoint import CheckpointSaver, History
from nanograd.training.evaluation import Evaluator, accuracy, as_net
from nanograd.training.local import LocalGroup, WorkerGroup
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.server import LossSum, Snapshot, first_snapshot
from nanograd.training.worker import Contribution, Worker
from tests.helpers import runs
from tests.helpers.gradients import loss_and_gradients
from tests.helpers.runs import bits

SETTINGS = {
    **runs.SETTINGS,
    "learning_rate": 0.003,
    "pixels": "unit",
    "ema": 0.9,
    "epochs": 3,
}
ROUNDS_PER_EPOCH = 7
Rows = list[EpochMetrics]


class MemorySaver(CheckpointSaver):
    """A saver that keeps the newest checkpoint in memory."""

    def __init__(self) -> None:
        super().__init__("", {}, ignore)
        self.snapshot: Snapshot | None = None
        self.history = History()
        self.rounds: list[int] = []

    def save(self, snapshot: Snapshot, history: History) -> None:
        self.snapshot, self.history = snapshot, deepcopy(history)
        self.rounds.append(snapshot.round)

    def save_last(self, snapshot: Snapshot, history: History) -> None:
        if snapshot.round not in self.rounds:
            self.save(snapshot, history)


class SlowSaver(MemorySaver):
    """One whose saves take half a minute."""

    def save(self, snapshot: Snapshot, history: History) -> None:
        super().save(snapshot, history)
        self._tried_s = history.train_s
        self._interval_s = 300.0


class FakeGroup:
    """A group that computes nothing and records the ends of its segments."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot, self.ends = snapshot, [snapshot.round]

    def advance(self, until: int) -> None:
        self.ends.append(until)

    def snapshot(self) -> Snapshot:
        return Snapshot(
            round=self.ends[-1],
            vector=self._snapshot.vector,
            state={},
            average=None,
            progress=LossSum(loss=1.0, num_images=1),
        )

    def workers(self) -> dict[int, WorkerState]:
        return {0: WorkerState.WORKING}

    def fingerprints(self) -> Sequence[str]:
        return ()

    def close(self) -> None:
        """Nothing to release."""


@pytest.fixture(scope="module")
def digits(sample: Mnist) -> Dataset:
    return sample.train.take(slice(0, 401))


def recipe_for(digits: Dataset, **settings: object) -> Recipe:
    return make_recipe(TrainSpec.resolve(SETTINGS, settings), len(digits))


def nothing() -> Dataset:
    return Dataset(np.zeros((0, 784), np.uint8), np.zeros(0, np.uint8))


def stop_now() -> StopSignal:
    stop = StopSignal()
    stop.set()
    return stop


def run(
    recipe: Recipe,
    digits: Dataset,
    saver: MemorySaver,
    stop: StopSignal | None = None,
    validation: Dataset | None = None,
) -> tuple[Snapshot, Rows]:
    """Train from the newest checkpoint on; return the end and the epochs of this session."""
    group = LocalGroup(recipe, digits, saver.snapshot or first_snapshot(recipe))
    return train(recipe, group, saver, stop, validation)


def train(
    recipe: Recipe,
    group: WorkerGroup,
    saver: MemorySaver,
    stop: StopSignal | None = None,
    validation: Dataset | None = None,
) -> tuple[Snapshot, Rows]:
    events: list[Event] = []
    snapshot = loop.train(
        recipe,
        group,
        deepcopy(saver.history),
        evaluator=Evaluator(recipe, validation or nothing()),
        saver=saver,
        listener=events.append,
        stop=stop or StopSignal(),
    )
    return snapshot, [event.metrics for event in events if isinstance(event, EpochFinished)]


def sessions(recipe: Recipe, digits: Dataset, stop: StopSignal) -> tuple[Snapshot, MemorySaver]:
    """Train with as many sessions as it takes if each is stopped."""
    saved = MemorySaver()
    for _ in range(recipe.num_rounds + 1):
        try:
            return run(recipe, digits, saved, stop)[0], saved
        except Stopped:
            continue
    pytest.fail("the run never ends")


def test_each_epoch_has_metrics_and_a_checkpoint(digits: Dataset) -> None:
    recipe, saved = recipe_for(digits), MemorySaver()

    snapshot, rows = run(recipe, digits, saved, validation=digits)

    assert recipe.plan.rounds_per_epoch == ROUNDS_PER_EPOCH
    assert [row.epoch for row in rows] == [1, 2, 3]
    assert [row.round for row in rows] == [7, 14, 21]
    assert rows[2].loss < rows[0].loss < 2.5
    assert rows[2].val_accuracy > rows[0].val_accuracy
    rates = [recipe.make_schedule()(round_) for round_ in (6, 13, 20)]
    assert [row.learning_rate for row in rows] == rates
    assert rows[0].train_s <= rows[1].train_s <= rows[2].train_s
    assert snapshot.round == recipe.num_rounds
    assert snapshot.progress.num_images == len(digits)
    assert saved.rounds == [7, 14, 21]
    assert saved.history.epochs == rows


def test_loss_is_the_mean_over_the_images_of_the_epoch(digits: Dataset) -> None:
    recipe = recipe_for(digits, learning_rate=0.0, shift=0.0)

    _, rows = run(recipe, digits, MemorySaver())

    start = first_snapshot(recipe).vector
    inputs = prepare(recipe.preparation, digits.images)
    total, _ = loss_and_gradients(
        Params(start, recipe.architecture), inputs, one_hot(digits.labels, 10)
    )
    assert [row.loss for row in rows] == pytest.approx([total / len(digits)] * 3, rel=1e-5)


def test_validation_changes_no_bit(digits: Dataset) -> None:
    recipe = recipe_for(digits)

    watched, _ = run(recipe, digits, MemorySaver(), validation=digits.take(slice(0, 7)))
    blind, _ = run(recipe, digits, MemorySaver())

    assert bits(watched) == bits(blind)


def test_slow_saves_skip_ends_of_epochs_but_the_last(digits: Dataset) -> None:
    saved = SlowSaver()

    run(recipe_for(digits), digits, saved)

    assert saved.rounds == [ROUNDS_PER_EPOCH, 3 * ROUNDS_PER_EPOCH]
    assert len(saved.history.epochs) == 3


def test_stop_in_mid_epoch_saves_a_checkpoint(digits: Dataset) -> None:
    saved = MemorySaver()

    with pytest.raises(Stopped, match=r"^stopped after 1 of \d+ rounds, saved$"):
        run(recipe_for(digits), digits, saved, stop_now())

    assert saved.rounds == [1]
    assert saved.history.epochs == []
    assert saved.snapshot is not None
    assert saved.snapshot.progress.num_images > 0


def test_run_stopped_anywhere_ends_with_the_undisturbed_bits(digits: Dataset) -> None:
    recipe = recipe_for(digits)
    expected, rows = run(recipe, digits, MemorySaver())

    snapshot, saved = sessions(recipe, digits, stop_now())

    assert bits(snapshot) == bits(expected)
    assert [row.loss for row in saved.history.epochs] == [row.loss for row in rows]
    assert len(saved.rounds) > recipe.epochs


def test_stop_in_the_last_round_has_no_effect(digits: Dataset) -> None:
    recipe = recipe_for(digits, epochs=1, batch_size=1000)
    saved = MemorySaver()

    snapshot, rows = run(recipe, digits, saved, stop_now())

    assert snapshot.round == recipe.num_rounds == len(rows) == 1


@pytest.mark.parametrize(("least", "epochs"), [(0, 3), (21, 3), (22, 4), (193, 28)])
def test_epochs_are_added_until_there_are_enough_rounds(
    digits: Dataset, least: int, epochs: int
) -> None:
    recipe = recipe_for(digits, epochs=3, least_rounds=least)

    assert recipe.plan.rounds_per_epoch == ROUNDS_PER_EPOCH
    assert recipe.epochs == epochs


def test_finished_history_computes_nothing(digits: Dataset) -> None:
    recipe, saved = recipe_for(digits), MemorySaver()
    expected, _ = run(recipe, digits, saved)

    snapshot, rows = run(recipe, digits, saved)

    assert rows == []
    assert bits(snapshot) == bits(expected)


def test_no_segment_goes_beyond_its_epoch(digits: Dataset) -> None:
    recipe = recipe_for(digits)
    group = FakeGroup(first_snapshot(recipe))

    _, rows = train(recipe, group, MemorySaver())

    assert len(rows) == 3
    assert group.ends == sorted(set(group.ends))
    assert {7, 14, 21} <= set(group.ends)
    assert group.ends[1] == 1  # the first segment has one round


def test_accuracy_of_no_images_is_nan(digits: Dataset) -> None:
    recipe = recipe_for(digits)

    net = as_net(recipe, first_snapshot(recipe))

    assert math.isnan(accuracy([net], nothing()))


def test_model_is_made_of_the_average_if_there_is_one(digits: Dataset) -> None:
    averaged, _ = run(recipe_for(digits), digits, MemorySaver())
    plain, _ = run(recipe_for(digits, ema=0.0), digits, MemorySaver())

    net = as_net(recipe_for(digits), averaged)
    last = as_net(recipe_for(digits, ema=0.0), plain)

    np.testing.assert_array_equal(averaged.vector, plain.vector)
    np.testing.assert_array_equal(last.params.vector, plain.vector)
    assert not np.array_equal(net.params.vector, plain.vector)


def test_local_group_has_the_bits_of_one_blas_thread(digits: Dataset) -> None:
    recipe = recipe_for(digits)

    snapshot = runs.train_locally(recipe, digits, 2)

    with process.one_thread():
        expected = runs.train_locally(recipe, digits, 2)
    assert bits(snapshot) == bits(expected)


class WrongCount(Worker):
    """A worker whose contributions claim one image too many."""

    def sum_node(self, *args: Any) -> Contribution:
        done = super().sum_node(*args)
        return replace(done, num_images=done.num_images + 1)


def test_refusal_of_a_finite_gradient_is_not_called_divergence(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(digits)
    monkeypatch.setattr(local, "Worker", WrongCount)
    group = LocalGroup(recipe, digits, first_snapshot(recipe))

    with pytest.raises(InternalError, match="22 images instead of 21"):
        group.advance(1)
