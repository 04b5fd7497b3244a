"""The recipe of a net: settings that, with the images, determine its parameters."""

from dataclasses import dataclass, fields
from math import ceil

from nanograd.digits.augment import Distortion
from nanograd.digits.dataset import NUM_CLASSES, NUM_PIXELS, BatchPlan
from nanograd.digits.preparation import Preparation
from nanograd.nn import optimizers, schedules
from nanograd.nn.mlp import Architecture
from nanograd.nn.optimizers import Optimizer
from nanograd.nn.schedules import Schedule
from nanograd.settings.train_spec import TrainSpec


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings that, with the training images, determine the bits of a trained net."""

    spec: TrainSpec  # of this net
    architecture: Architecture
    preparation: Preparation
    plan: BatchPlan  # images of each round
    distortion: Distortion  # strength of the distortion of training images

    @property
    def epochs(self) -> int:
        """Number of passes over the training set."""
        return max(self.spec.epochs, ceil(self.spec.least_rounds / self.plan.rounds_per_epoch))

    @property
    def num_rounds(self) -> int:
        """Number of rounds in the training of the net."""
        return self.epochs * self.plan.rounds_per_epoch

    @property
    def deskew_last(self) -> bool:
        """Whether to deskew images after distorting them, instead of once before training."""
        return self.spec.deskew == "after"

    @property
    def state_names(self) -> list[str]:
        """Names of the vectors of training's state, in the order in which servers keep them."""
        average = ["average"] if self.spec.ema else []
        return ["vector", *self.make_optimizer().names, *average]

    def distortion_in(self, round_: int) -> Distortion:
        """Return the strength of the distortion in a round."""
        return self.distortion * schedules.cool_down(self.spec.cool_down, self.num_rounds)(round_)

    def make_optimizer(self) -> Optimizer:
        """Return the optimiser."""
        return optimizers.by_name(self.spec.optimizer, self.spec.momentum or 0)

    def make_schedule(self) -> Schedule:
        """Return the learning rate as a function of the round."""
        spec = self.spec
        return schedules.by_name(spec.schedule, spec.learning_rate, self.num_rounds, spec.warmup)


def make_recipe(spec: TrainSpec, num_images: int) -> Recipe:
    """Return the recipe of one net for a training set of this size."""
    return Recipe(
        spec=spec,
        architecture=Architecture(
            inputs=NUM_PIXELS,
            hidden=spec.hidden,
            classes=NUM_CLASSES,
            activation=spec.activation,
            loss=spec.loss,
        ),
        preparation=Preparation(name=spec.pixels, width=spec.width, height=spec.height),
        plan=BatchPlan(
            num_images=num_images,
            num_shards=spec.shards,
            batch_size=spec.batch_size,
            seed=spec.seed,
        ),
        distortion=Distortion(**{f.name: getattr(spec, f.name) for f in fields(Distortion)}),
    )
