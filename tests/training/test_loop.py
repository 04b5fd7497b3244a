import math
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from threading import Event as StopSignal
from typing import Any

import numpy as np
import pytest

from nanograd.digits.dataset import Dataset, Mnist
from nanograd.errors import InternalError, Stopped
from nanograd.nn.mlp import Params, one_hot
from nanograd.runtime.events import EpochFinished, EpochMetrics, Event, ignore
from nanograd.settings.train_spec import TrainSpec
from nanograd.training import local, loop
from nanograd.training.local import LocalGroup
from nanograd.training.loop import Evaluator, accuracy, as_net
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.run_directory import CheckpointSaver, History
from nanograd.training.server import Snapshot, first_snapshot
from nanograd.training.worker import Contribution, Worker
from tests.helpers import runs
from tests.helpers.gradients import loss_and_gradients
from tests.helpers.models import prepare
from tests.helpers.runs import bits
from tests.training.test_checkpoint import some_checkpoint

SETTINGS = {**runs.SETTINGS, "learning_rate": 0.003, "pixels": "unit", "ema": 0.9, "epochs": 3}
NOTHING = Dataset(np.zeros((0, 784), np.uint8), np.zeros(0, np.uint8))
STOP = StopSignal()
STOP.set()


class MemorySaver(CheckpointSaver):
    """A saver that keeps the newest checkpoint in memory; it may claim to need half a minute."""

    is_slow = False

    def __init__(self) -> None:
        super().__init__("", some_checkpoint(0), ignore)
        self.snapshot: Snapshot | None = None
        self.history = History()
        self.rounds: list[int] = []

    def save(self, snapshot: Snapshot, history: History) -> None:
        self.snapshot, self.history = snapshot, deepcopy(history)
        self.rounds.append(snapshot.round)

    def is_due(self, history: History) -> bool:
        return self.is_slow and len(self.rounds) == 0

    def save_last(self, snapshot: Snapshot, history: History) -> None:
        if snapshot.round not in self.rounds:
            self.save(snapshot, history)


class SlowSaver(MemorySaver):
    is_slow = True


@pytest.fixture(scope="module")
def digits(sample: Mnist) -> Dataset:
    return sample.train.take(slice(0, 401))


def recipe_for(digits: Dataset, **settings: object) -> Recipe:
    return make_recipe(TrainSpec.resolve(SETTINGS, settings), len(digits))


def run(
    recipe: Recipe,
    digits: Dataset,
    saver: MemorySaver | None = None,
    stop: StopSignal | None = None,
    validation: Dataset = NOTHING,
) -> tuple[Snapshot, list[EpochMetrics]]:
    """Train from the newest checkpoint on; return the end and the epochs of this session."""
    events: list[Event] = []
    saver = saver or MemorySaver()
    snapshot = loop.train(
        recipe,
        LocalGroup(recipe, digits, saver.snapshot or first_snapshot(recipe)),
        deepcopy(saver.history),
        evaluator=Evaluator([recipe], 0, validation),
        saver=saver,
        listener=events.append,
        stop=stop or StopSignal(),
    )
    return snapshot, [event.metrics for event in events if isinstance(event, EpochFinished)]


def test_each_epoch_has_metrics_and_a_checkpoint_and_a_finished_run_is_not_computed_again(digits):
    recipe, saved = recipe_for(digits), MemorySaver()

    snapshot, rows = run(recipe, digits, saved, validation=digits)
    again, more = run(recipe, digits, saved)
    blind, _ = run(recipe, digits)

    assert [(row.epoch, row.round) for row in rows] == [(1, 7), (2, 14), (3, 21)]
    assert rows[2].loss < rows[0].loss < 2.5
    assert rows[2].val_accuracy > rows[0].val_accuracy
    assert rows[2].val_loss < rows[0].val_loss
    rates = [recipe.make_schedule()(round_) for round_ in (6, 13, 20)]
    assert [row.learning_rate for row in rows] == rates
    assert rows[0].train_s <= rows[1].train_s <= rows[2].train_s
    assert snapshot.round == recipe.num_rounds
    assert snapshot.progress.num_images == len(digits)
    assert saved.rounds == [7, 14, 21]
    assert (saved.history.epochs, more) == (rows, [])
    assert bits(again) == bits(blind) == bits(snapshot)  # validation changes no bit


def test_loss_is_the_mean_over_the_images_of_the_epoch(digits):
    recipe = recipe_for(digits, learning_rate=0.0, shift=0.0)

    _, rows = run(recipe, digits, validation=digits)

    start = Params(first_snapshot(recipe).vector, recipe.architecture)
    inputs = prepare(recipe.preparation, digits.images)
    total, _ = loss_and_gradients(start, inputs, one_hot(digits.labels, 10))
    assert [row.loss for row in rows] == pytest.approx([total / len(digits)] * 3, rel=1e-5)
    assert [row.val_loss for row in rows] == pytest.approx([total / len(digits)] * 3, rel=1e-5)


def test_slow_saves_skip_ends_of_epochs_but_the_last(digits):
    saved = SlowSaver()

    run(recipe_for(digits), digits, saved)

    assert saved.rounds == [1, 21]
    assert len(saved.history.epochs) == 3


def test_run_stopped_after_each_segment_ends_with_the_undisturbed_bits(digits):
    recipe, saved = recipe_for(digits), MemorySaver()
    expected, rows = run(recipe, digits)

    with pytest.raises(Stopped, match="after 1 of 21 rounds"):
        run(recipe, digits, saved, STOP)
    assert (saved.rounds, saved.history.epochs) == ([1], [])
    snapshot = None
    while snapshot is None:  # a stop in the last round has no effect
        with suppress(Stopped):
            snapshot, _ = run(recipe, digits, saved, STOP)

    assert bits(snapshot) == bits(expected)
    assert [row.loss for row in saved.history.epochs] == [row.loss for row in rows]
    assert saved.rounds == list(range(1, recipe.num_rounds + 1))


@pytest.mark.parametrize(("least", "epochs"), [(0, 3), (21, 3), (22, 4), (193, 28)])
def test_epochs_are_added_until_there_are_enough_rounds(digits, least, epochs):
    recipe = recipe_for(digits, epochs=3, least_rounds=least)

    assert (recipe.plan.rounds_per_epoch, recipe.epochs) == (7, epochs)


def test_model_is_made_of_the_average_if_there_is_one(digits):
    averaged, _ = run(recipe_for(digits), digits)
    plain, _ = run(recipe_for(digits, ema=0.0), digits)

    net = as_net(recipe_for(digits), averaged)
    last = as_net(recipe_for(digits, ema=0.0), plain)

    assert math.isnan(accuracy([net], NOTHING))
    np.testing.assert_array_equal(averaged.vector, plain.vector)
    np.testing.assert_array_equal(last.params.vector, plain.vector)
    assert not np.array_equal(net.params.vector, plain.vector)


class WrongCount(Worker):
    """A worker whose contributions claim one image too many."""

    def sum_node(self, *args: Any) -> Contribution:
        done = super().sum_node(*args)
        return replace(done, num_images=done.num_images + 1)


def test_refusal_of_a_finite_gradient_is_not_called_divergence(digits, monkeypatch):
    recipe = recipe_for(digits)
    monkeypatch.setattr(local, "Worker", WrongCount)
    group = LocalGroup(recipe, digits, first_snapshot(recipe))

    with pytest.raises(InternalError, match="number of images"):
        group.advance(1)
