"""How far a training run is: rounds counted, figures shown."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from nanograd.runtime.events import Rate, Show
from nanograd.training.checkpoint import History
from nanograd.training.recipe import Recipe
from nanograd.training.server import Snapshot


class Progress:
    """Shows how far the nets of a run are.

    Args:
        recipes: of all nets.
        show: shown figures after each stretch and each epoch.
        rate: measures rounds a second.
    """

    def __init__(self, recipes: Sequence[Recipe], show: Show, rate: Rate | None = None) -> None:
        self._recipes, self._show, self._rate = recipes, show, rate or Rate()
        self._num_rounds = sum(recipe.num_rounds for recipe in recipes)
        self._workers: Mapping[int, str] = {}
        self._loss: float | None = None
        self._val_accuracy: float | None = None

    def reached(self, net: int, round_: int, workers: Mapping[int, str]) -> None:
        """A net has come so far.

        Args:
            net: its number, from 0.
            round_: the next one to compute.
            workers: what each rank does.
        """
        self._workers = workers
        self._show({**self._figures(net, round_), "complete": False})

    def saved(self, net: int, snapshot: Snapshot, history: History) -> None:
        """A net's state was looked at; if that was at the end of an epoch, so were its figures."""
        done = snapshot.progress
        self._loss = done.loss / done.num_images if done.num_images else self._loss
        rows = history.epochs
        self._val_accuracy = rows[-1]["val_accuracy"] if rows else None
        if rows and rows[-1]["round"] == snapshot.round:
            which = {"net": net + 1, "nets": len(self._recipes)}
            self._show({"event": "epoch", "command": "train", **which, **rows[-1]})
            self._show(self._figures(net, snapshot.round))

    def _figures(self, net: int, round_: int) -> dict[str, Any]:
        plan, epochs = self._recipes[net].plan, self._recipes[net].epochs
        earlier = self._recipes[:net]
        done = sum(recipe.num_rounds for recipe in earlier) + round_
        images = sum(recipe.epochs * recipe.plan.num_images for recipe in earlier)
        rate = self._rate.at(done)
        return {
            "event": "progress",
            "command": "train",
            "net": net + 1,
            "nets": len(self._recipes),
            "epoch": max(1, ceil(round_ / plan.rounds_per_epoch)),
            "epochs": epochs,
            "round": done,
            "rounds": self._num_rounds,
            "image": images + plan.num_images * round_ // plan.rounds_per_epoch,
            "rounds_per_s": round(rate, 3),
            "images_per_s": round(rate * plan.num_images / plan.rounds_per_epoch),
            "loss": self._loss,
            "val_accuracy": self._val_accuracy,
            "left_s": round((self._num_rounds - done) / rate, 1) if rate else None,
            "workers": {str(rank): state for rank, state in self._workers.items()},
            "complete": done == self._num_rounds,
        }
