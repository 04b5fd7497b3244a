"""Small training runs that several test files start, stop and compare."""

from dataclasses import asdict
from pathlib import Path
from threading import Event as StopSignal
from typing import Any

import numpy as np
import pytest

from nanograd.console.results import Training
from nanograd.digits.augment import Distortion
from nanograd.digits.dataset import Dataset, Mnist
from nanograd.errors import Stopped
from nanograd.models.model import Model
from nanograd.runtime import storage
from nanograd.runtime.events import Event, Listener, Message, ignore
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.local import LocalGroup, StartGroup
from nanograd.training.recipe import Recipe
from nanograd.training.run import TrainingRun
from nanograd.training.server import Snapshot, first_snapshot

SETTINGS = {
    "hidden": 16,
    "activation": "relu",
    "loss": "cross_entropy",
    "optimizer": "adam",
    "learning_rate": 0.01,
    "schedule": "cosine",
    "warmup": 3,
    "pixels": "standard",
    **asdict(Distortion()),
    "shift": 1.0,
    "ema": 0.5,
    "shards": 3,
    "batch_size": 64,
    "epochs": 2,
    "seed": 5,
    "validation_split": 0.1,
}
Figures = dict[str, Any]


class StopAt(StopSignal):
    """A stop signal that is set from its n-th check on."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._checks, self._count = 0, count

    def is_set(self) -> bool:
        self._checks += 1
        return self._checks >= self._count


def refuse_to_compute(*about: object) -> LocalGroup:
    pytest.fail("a group was started although nothing is left to compute")


def train(
    data: Mnist,
    place: Path,
    stop: StopSignal | None = None,
    start_group: StartGroup = LocalGroup,
    listener: Listener = ignore,
    initial: Model | None = None,
    **settings: object,
) -> Figures:
    run = TrainingRun(TrainSpec.resolve(SETTINGS, settings), str(place), data, initial)
    model = run.train(start_group, listener, stop or StopSignal())
    return Training(model=model, metrics=[], directory=str(place)).to_json()


def messages(events: list[Event]) -> list[str]:
    return [str(event) for event in events if isinstance(event, Message)]


def without_times(figures: Figures) -> Figures:
    untimed = {"train_s", "images_per_s", "model"}
    return {name: value for name, value in figures.items() if name not in untimed}


def stopped(data: Mnist, place: Path, **settings: object) -> Path:
    """Stop a run after its first round and return its directory."""
    with pytest.raises(Stopped):
        train(data, place, StopAt(1), **settings)
    return place


def train_locally(recipe: Recipe, digits: Dataset, num_rounds: int | None = None) -> Snapshot:
    """Train in this process for some rounds; for all of them by default."""
    group = LocalGroup(recipe, digits, first_snapshot(recipe))
    group.advance(num_rounds or recipe.num_rounds)
    return group.snapshot()


def bits(snapshot: Snapshot) -> tuple[object, ...]:
    """Return a snapshot as values to compare: its round and loss, and checksums of its vectors."""
    assert {vector.dtype for vector in snapshot.arrays.values()} == {np.dtype(np.float32)}
    sums = {name: storage.checksum(each.tobytes()) for name, each in snapshot.arrays.items()}
    return snapshot.round, snapshot.progress, sums


def noise(num_images: int) -> Dataset:
    generator = np.random.default_rng(7)
    images = generator.integers(0, 256, (num_images, 784)).astype(np.uint8)
    return Dataset(images, generator.integers(0, 10, num_images).astype(np.uint8))
