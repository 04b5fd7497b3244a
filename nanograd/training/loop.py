"""The training loop: rounds, evaluation, checkpoints. One loop, whatever the group of workers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from nanograd.data.dataset import Dataset
from nanograd.digits.preparation import deskew_images, without_deskewing
from nanograd.errors import Stopped
from nanograd.models.model import Model, Net
from nanograd.nn import metrics
from nanograd.runtime import process
from nanograd.training.checkpoint import History
from nanograd.training.local import WorkerGroup
from nanograd.training.recipe import Recipe
from nanograd.training.server import Snapshot

# How long nobody can stop the run: a stretch of rounds aims at this time.
_STRETCH_S = 0.25
# At most so much work is done again after a kill.
CHECKPOINT_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What the loop asks and tells the outside world.

    Args:
        stop: whether the run shall end here, resumable.
        save: commit a checkpoint.
        reached: told the next round after each stretch.
    """

    stop: Callable[[], bool]
    save: Callable[[Snapshot, History], None]
    reached: Callable[[int], None] = lambda round_: None


def train(
    recipe: Recipe, validation: Dataset, group: WorkerGroup, history: History, watch: Watch
) -> Iterator[dict[str, Any]]:
    """Train to the end of the recipe; yields a row of figures after each epoch.

    Args:
        recipe: what to compute.
        validation: images to watch the run with; they change nothing. May be empty.
        group: who computes, standing where the history ends.
        history: what is behind; brought forward in place.
        watch: when to stop, how to save.

    Raises:
        Stopped: `watch.stop` said so; a checkpoint has been saved.
        DivergedError: parameters or loss left the finite numbers.
    """
    per_epoch = recipe.plan.rounds_per_epoch
    round_ = group.snapshot().round
    began = perf_counter() - history.train_s
    # Images are set upright here, once, instead of after each epoch.
    watched = Dataset(deskew_images(recipe.preparation, validation.images), validation.labels)
    reader = replace(recipe, preparation=without_deskewing(recipe.preparation))
    saved_s = history.train_s
    for epoch in range(len(history.epochs), recipe.epochs):
        end = (epoch + 1) * per_epoch
        for reached in _stretches(group, round_, end):
            history.train_s = perf_counter() - began
            watch.reached(reached)
            stop = watch.stop()
            if reached == end:
                break  # the epoch's own checkpoint follows
            if stop or history.train_s - saved_s > CHECKPOINT_S:
                watch.save(group.snapshot(), history)
                saved_s = history.train_s
            if stop:
                raise Stopped(f"stopped after round {reached - 1}, saved")
        round_, snapshot = end, group.snapshot()
        history.epochs.append(_row(reader, watched, snapshot, history))
        watch.save(snapshot, history)
        saved_s = history.train_s
        yield history.epochs[-1]


def accuracy(model: Model, dataset: Dataset) -> float:
    """Share of a data set that the model reads right; not a number if there are no images."""
    with process.one_thread():
        predictions = np.argmax(model.scores(dataset.images), axis=1)
    return metrics.accuracy(predictions, dataset.labels)


def as_model(recipe: Recipe, snapshot: Snapshot, about: dict[str, Any]) -> Model:
    """The model that training would end with if it ended here."""
    net = Net(
        architecture=recipe.architecture,
        params=recipe.architecture.params(snapshot.final_vector()),
        preparation=recipe.preparation,
    )
    return Model(nets=(net,), about=about)


def _stretches(group: WorkerGroup, start: int, end: int) -> Iterator[int]:
    """Advance the group to the end, yielding now and then how far it is."""
    length = 1
    while start < end:
        until = min(start + length, end)
        began = perf_counter()
        group.advance(until)
        seconds = perf_counter() - began
        length = max(1, round((until - start) * _STRETCH_S / max(seconds, 1e-6)))
        start = until
        yield start


def _row(
    recipe: Recipe, validation: Dataset, snapshot: Snapshot, history: History
) -> dict[str, Any]:
    progress = snapshot.progress
    before = history.epochs[-1]["train_s"] if history.epochs else 0.0
    val_accuracy = accuracy(as_model(recipe, snapshot, {}), validation)
    return {
        "epoch": len(history.epochs) + 1,
        "round": snapshot.round,
        "loss": progress.loss / progress.num_images,
        "val_accuracy": val_accuracy if len(validation) else None,
        "learning_rate": recipe.make_schedule()(snapshot.round - 1),
        "train_s": round(history.train_s, 3),
        "images_per_s": round(progress.num_images / (history.train_s - before)),
    }
