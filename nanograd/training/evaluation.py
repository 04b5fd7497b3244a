"""Metrics of a run between two rounds: accuracy, metrics of an epoch, progress."""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

import numpy as np

from nanograd.digits.dataset import Dataset
from nanograd.digits.preparation import deskew_images, without_deskewing
from nanograd.models.model import Net, mean_scores
from nanograd.nn import metrics
from nanograd.nn.mlp import Params
from nanograd.runtime import process
from nanograd.runtime.events import EpochMetrics, Rate, TrainingProgress, WorkerState
from nanograd.training.checkpoint import History
from nanograd.training.recipe import Recipe
from nanograd.training.server import Snapshot


def accuracy(nets: Sequence[Net], dataset: Dataset) -> float:
    """Compute the share of images that the nets classify correctly; NaN without images."""
    with process.one_thread():
        predictions = np.argmax(mean_scores(nets, dataset.images), axis=1)
    return metrics.accuracy(predictions, dataset.labels)


def as_net(recipe: Recipe, snapshot: Snapshot) -> Net:
    """Return the net of a snapshot."""
    params = Params(snapshot.final_vector(), recipe.architecture)
    return Net(params=params, preparation=recipe.preparation)


class Evaluator:
    """Source of the metrics and the progress of a run.

    Args:
        recipe: recipe of the net.
        validation: validation images; may be empty.
    """

    def __init__(self, recipe: Recipe, validation: Dataset) -> None:
        # Deskew the images once instead of after each epoch.
        self._recipe = replace(recipe, preparation=without_deskewing(recipe.preparation))
        images = deskew_images(recipe.preparation, validation.images)
        self._validation = Dataset(images, validation.labels)
        self._rate = Rate()

    def epoch(self, snapshot: Snapshot, history: History) -> EpochMetrics:
        """Compute the metrics of the epoch that ends with a snapshot."""
        total, validation = snapshot.progress, self._validation
        before = history.epochs[-1].train_s if history.epochs else 0.0
        net = as_net(self._recipe, snapshot)
        return EpochMetrics(
            epoch=len(history.epochs) + 1,
            round=snapshot.round,
            loss=total.loss / total.num_images,
            val_accuracy=accuracy([net], validation) if len(validation) else None,
            learning_rate=self._recipe.make_schedule()(snapshot.round - 1),
            train_s=round(history.train_s, 3),
            images_per_s=round(total.num_images / (history.train_s - before)),
        )

    def progress(
        self, round_: int, snapshot: Snapshot, history: History, workers: dict[int, WorkerState]
    ) -> TrainingProgress:
        """Compute the progress of the run.

        Args:
            round_: the next round to compute.
            snapshot: newest state that the driver has.
            history: finished epochs.
            workers: state of each rank.
        """
        recipe, plan, total = self._recipe, self._recipe.plan, snapshot.progress
        rate = self._rate.at(round_)
        return TrainingProgress(
            epoch=max(1, ceil(round_ / plan.rounds_per_epoch)),
            epochs=recipe.epochs,
            round=round_,
            rounds=recipe.num_rounds,
            image=plan.num_images * round_ // plan.rounds_per_epoch,
            rounds_per_s=round(rate, 3),
            images_per_s=round(rate * plan.num_images / plan.rounds_per_epoch),
            loss=total.loss / total.num_images if total.num_images else None,
            val_accuracy=history.epochs[-1].val_accuracy if history.epochs else None,
            left_s=round((recipe.num_rounds - round_) / rate, 1) if rate else None,
            workers={str(rank): state for rank, state in workers.items()},
            complete=len(history.epochs) == recipe.epochs,
        )
