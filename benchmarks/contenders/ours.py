"""nanograd: `--workers N` (Ray actors) and `--workers 0` (this process)."""

from contextlib import ExitStack
from dataclasses import asdict, replace

from contenders.base import AVERAGE_DECAY, WARM_UP, Setting, load_images
from nanograd.digits.augment import Distortion
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.local import LocalGroup, WorkerGroup
from nanograd.training.loop import accuracy, as_net
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.server import first_snapshot

_RECIPES: dict[str, dict[str, object]] = {
    "momentum": {"optimizer": "momentum", "learning_rate": 0.1, "warmup": 0, "ema": 0.0},
    "adam": {"optimizer": "adam", "learning_rate": 1e-3, "warmup": 0, "ema": 0.0},
    "averaged": {
        "optimizer": "momentum",
        "learning_rate": 0.25,
        "warmup": WARM_UP,
        "ema": AVERAGE_DECAY,
    },
}


def recipe_of(setting: Setting, num_images: int) -> Recipe:
    """Return the recipe of a setting, with more epochs than any benchmark runs."""
    config = TrainSpec.resolve(
        _RECIPES[setting.recipe],
        {
            "batch_size": setting.batch,
            "hidden": setting.hidden,
            "shards": setting.shards,
            "seed": setting.seed,
            "workers": setting.workers,
            "epochs": 1000,
            "schedule": "constant",
            "pixels": "standard",
            **asdict(Distortion(elastic=setting.elastic)),
            "validation_split": 0.0,
        },
    )
    return make_recipe(config, num_images)


class Ours:
    """A group of workers, which trains as in `nanograd train`.

    Args:
        setting: the training; `workers` 0 selects the group in this process.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._data = load_images(setting)
        self._stack = ExitStack()
        if setting.workers:
            from nanograd.distributed.cluster import session

            self._stack.enter_context(session(None, setting.workers))
        self._group: WorkerGroup | None = None
        self.reset(setting.seed)

    def reset(self, seed: int) -> None:
        """Start over with new workers."""
        if self._group is not None:
            self._group.close()
        setting = replace(self._setting, seed=seed)
        self._recipe = recipe_of(setting, len(self._data.train))
        self._round = 0
        snapshot = first_snapshot(self._recipe)
        if setting.workers:
            from nanograd.distributed.cluster import num_actors
            from nanograd.distributed.group import RayGroup

            num_actors(setting.workers)  # waits for their CPUs
            self._group = RayGroup(self._recipe, self._data.train, snapshot)
        else:
            self._group = LocalGroup(self._recipe, self._data.train, snapshot)

    def run(self, rounds: int) -> int:
        """Train for some rounds, and return the number of images."""
        self._round += rounds
        self._the_group.advance(self._round)
        plan = self._recipe.plan
        return round(rounds * plan.num_images / plan.rounds_per_epoch)

    def accuracy(self) -> float:
        """Return the accuracy on the test images."""
        net = as_net(self._recipe, self._the_group.snapshot())
        return accuracy([net], self._data.test)

    def close(self) -> None:
        """End the workers and Ray."""
        self._the_group.close()
        self._stack.close()

    @property
    def _the_group(self) -> WorkerGroup:
        if self._group is None:
            raise RuntimeError("no group; call reset first")
        return self._group
