"""Small training runs, as several test files begin, stop and look at them."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanograd.config.train_config import TrainConfig
from nanograd.data.mnist import Mnist
from nanograd.digits.augment import Distortion
from nanograd.errors import Stopped
from nanograd.runtime.events import Show, ignore
from nanograd.training.local import LocalGroup
from nanograd.training.run import MakeGroup, train_run
from nanograd.training.run_directory import Run
from nanograd.training.server import Snapshot

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


class StopAt:
    """Wants a stop from the n-th time on that it is asked, as a signal does."""

    def __init__(self, count: int) -> None:
        self._asked, self._count = 0, count

    def __call__(self) -> bool:
        self._asked += 1
        return self._asked >= self._count


def never() -> bool:
    return False


def refuse_to_compute(*about: object) -> LocalGroup:
    pytest.fail("a group was started although nothing is left to compute")


def train(
    data: Mnist,
    place: Path,
    stop: Callable[[], bool] = never,
    make_group: MakeGroup = LocalGroup,
    said: list[str] | None = None,
    show: Show = ignore,
    **settings: object,
) -> Figures:
    config = TrainConfig.resolve(SETTINGS, settings)
    say = (said if said is not None else []).append
    return train_run(Run(config=config, place=str(place), data=data), make_group, stop, say, show)


def without_times(figures: Figures) -> Figures:
    untimed = {"train_s", "images_per_s", "model"}
    return {name: value for name, value in figures.items() if name not in untimed}


def stopped(data: Mnist, place: Path, **settings: object) -> Path:
    """A run that was stopped after its first round."""
    with pytest.raises(Stopped):
        train(data, place, StopAt(1), **settings)
    return place


def bits(snapshot: Snapshot) -> tuple[object, ...]:
    """All of a snapshot that the next rounds depend on."""
    assert snapshot.vector.dtype == np.float32
    average = None if snapshot.average is None else snapshot.average.tobytes()
    state = [(name, vector.tobytes()) for name, vector in sorted(snapshot.state.items())]
    return snapshot.round, snapshot.vector.tobytes(), state, average
