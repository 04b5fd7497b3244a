"""The training loop: rounds, epochs, metrics and checkpoints, for every kind of worker group."""

from collections.abc import Sequence
from math import ceil
from threading import Event as StopSignal
from time import perf_counter

import numpy as np

from nanograd.digits.dataset import Dataset
from nanograd.digits.preparation import deskew_images, scale
from nanograd.errors import Stopped
from nanograd.models.model import CHUNK_ROWS, Net, mean_scores
from nanograd.nn import metrics, mlp
from nanograd.nn.losses import LOSSES
from nanograd.nn.mlp import Params
from nanograd.runtime import events, process
from nanograd.runtime.events import EpochFinished, Listener, TrainingProgress, WorkerState
from nanograd.training.local import WorkerGroup
from nanograd.training.recipe import Recipe
from nanograd.training.run_directory import CheckpointSaver, History
from nanograd.training.server import Snapshot

# Target duration of a segment of rounds; a stop may have to wait for so long.
_SEGMENT_S = 0.25


def accuracy(nets: Sequence[Net], dataset: Dataset) -> float:
    """Compute the share of images that the nets classify correctly; NaN without images."""
    with process.one_thread():
        predictions = np.argmax(mean_scores(nets, dataset.images), axis=1)
    return metrics.accuracy(predictions, dataset.labels)


def validate(net: Net, dataset: Dataset) -> tuple[float | None, float | None]:
    """Compute accuracy and mean loss of a net for images that are already deskewed."""
    if not len(dataset):
        return None, None
    loss, num_correct, total = LOSSES[net.architecture.loss], 0, 0.0
    with process.one_thread():
        for start in range(0, len(dataset), CHUNK_ROWS):
            part = dataset.take(slice(start, start + CHUNK_ROWS))
            _, z2 = mlp.forward(net.params, scale(net.preparation, part.images))
            targets = mlp.one_hot(part.labels, net.architecture.classes)
            total += float(loss.gradient(z2, targets)[0].sum(dtype=np.float64))
            num_correct += int((loss.output(z2).argmax(axis=1) == part.labels).sum())
    return num_correct / len(dataset), total / len(dataset)


def as_net(recipe: Recipe, snapshot: Snapshot) -> Net:
    """Return the net of a snapshot, with the average of the parameters, if there is one."""
    vector = snapshot.arrays.get("average", snapshot.vector)
    params = Params(vector, recipe.architecture)
    return Net(params=params, preparation=recipe.preparation)


class Evaluator:
    """Computes the metrics of the net with index `net`, and the progress of the run of all nets."""

    def __init__(self, recipes: Sequence[Recipe], net: int, validation: Dataset) -> None:
        self._recipe = recipes[net]
        # Deskew the images once instead of after each epoch.
        images = deskew_images(self._recipe.preparation, validation.images)
        self._validation = Dataset(images, validation.labels)
        self._num_rounds = sum(each.num_rounds for each in recipes)
        before = recipes[:net]
        self._first_round = sum(each.num_rounds for each in before)
        self._first_image = sum(each.epochs * each.plan.num_images for each in before)
        self._net, self._nets = net + 1, len(recipes)
        self._rate = events.Rate()

    def epoch(self, snapshot: Snapshot, history: History) -> EpochFinished:
        """Compute the metrics of an epoch from the snapshot at its end."""
        total = snapshot.progress
        before = history.epochs[-1].train_s if history.epochs else 0.0
        right, loss = validate(as_net(self._recipe, snapshot), self._validation)
        found = events.EpochMetrics(
            epoch=len(history.epochs) + 1,
            round=snapshot.round,
            loss=total.loss / total.num_images,
            val_accuracy=right,
            val_loss=loss,
            learning_rate=self._recipe.make_schedule()(snapshot.round - 1),
            train_s=round(history.train_s, 3),
            images_per_s=round(total.num_images / (history.train_s - before)),
        )
        return EpochFinished(metrics=found, net=self._net, nets=self._nets)

    def progress(
        self, round_: int, snapshot: Snapshot, history: History, workers: dict[int, WorkerState]
    ) -> TrainingProgress:
        """Compute the progress of the run before a round of the net; the snapshot may be older."""
        recipe, plan, total = self._recipe, self._recipe.plan, snapshot.progress
        rate, done = self._rate.at(round_), self._first_round + round_
        return TrainingProgress(
            net=self._net,
            nets=self._nets,
            epoch=max(1, ceil(round_ / plan.rounds_per_epoch)),
            epochs=recipe.epochs,
            round=done,
            rounds=self._num_rounds,
            image=self._first_image + plan.num_images * round_ // plan.rounds_per_epoch,
            rounds_per_s=round(rate, 3),
            images_per_s=round(rate * plan.num_images / plan.rounds_per_epoch),
            loss=total.loss / total.num_images if total.num_images else None,
            val_accuracy=history.epochs[-1].val_accuracy if history.epochs else None,
            left_s=round((self._num_rounds - done) / rate, 1) if rate else None,
            workers={str(rank): state for rank, state in workers.items()},
            complete=len(history.epochs) == recipe.epochs and self._net == self._nets,
        )


def train(
    recipe: Recipe,
    group: WorkerGroup,
    history: History,
    *,
    evaluator: Evaluator,
    saver: CheckpointSaver,
    listener: Listener,
    stop: StopSignal,
) -> Snapshot:
    """Train a net from the end of the history to the last round; append a record of each epoch.

    Raises:
        Stopped: `stop` was set; the last computed round is saved.
        DivergedError: a gradient, loss or parameter is not finite.
        StorageError: writing a checkpoint failed several times in a row.
    """
    snapshot, segment = group.snapshot(), 1
    round_, started = snapshot.round, perf_counter() - history.train_s
    listener(evaluator.progress(round_, snapshot, history, group.workers()))
    while round_ < recipe.num_rounds:
        epoch_end = recipe.plan.rounds_per_epoch * (len(history.epochs) + 1)
        until, began = min(round_ + segment, epoch_end), perf_counter()
        group.advance(until)
        seconds = max(perf_counter() - began, 1e-6)
        segment, round_ = max(1, round((until - round_) * _SEGMENT_S / seconds)), until
        history.train_s = perf_counter() - started
        history.fingerprints = list(dict.fromkeys([*history.fingerprints, *group.fingerprints()]))
        finished = None
        if round_ == epoch_end:
            snapshot = group.snapshot()
            finished = evaluator.epoch(snapshot, history)
            history.epochs.append(finished.metrics)
        is_needed = finished and (round_ == recipe.num_rounds or not saver.is_slow)
        if is_needed or saver.is_due(history):
            snapshot = snapshot if finished else group.snapshot()
            saver.save(snapshot, history)
        if finished:
            listener(finished)
        listener(evaluator.progress(round_, snapshot, history, group.workers()))
        if round_ < recipe.num_rounds and stop.is_set():
            saver.save_last(group.snapshot(), history)
            raise Stopped(f"stopped after {round_:,} of {recipe.num_rounds:,} rounds, saved")
    return snapshot
