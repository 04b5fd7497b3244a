"""The recipe of a net: everything except the images that determines its parameters."""

from dataclasses import dataclass, fields
from math import ceil

from nanograd.digits.augment import Distortion
from nanograd.digits.dataset import NUM_CLASSES, NUM_PIXELS, BatchPlan
from nanograd.digits.preparation import Preparation
from nanograd.nn import optimizers, schedules
from nanograd.nn.mlp import Architecture
from nanograd.nn.optimizers import Optimizer
from nanograd.nn.schedules import Schedule
from nanograd.settings.train_spec import MOMENTUM, TrainSpec


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings that, with the training images, determine the bits of a trained net."""

    architecture: Architecture
    preparation: Preparation
    plan: BatchPlan  # images of each round
    distortion: Distortion  # strength of the distortion of training images
    cool_down: float  # share by which the distortion has decreased at the last round
    deskew_last: bool  # deskew images after distorting them, instead of once before training
    epochs: int  # passes over the training set
    optimizer: str  # sgd, momentum or adam
    momentum: float  # decay of the momentum optimiser
    schedule: str  # constant or cosine
    learning_rate: float  # peak of the schedule
    num_warm_up: int  # rounds of linear warm-up
    ema: float  # decay of the exponential average of the weights; 0 for no average

    @property
    def num_rounds(self) -> int:
        """Number of rounds in the training of the net."""
        return self.epochs * self.plan.rounds_per_epoch

    def distortion_in(self, round_: int) -> Distortion:
        """Return the strength of the distortion in a round."""
        return self.distortion * schedules.cool_down(self.cool_down, self.num_rounds)(round_)

    def make_optimizer(self) -> Optimizer:
        """Return the optimiser."""
        return optimizers.by_name(self.optimizer, self.momentum)

    def make_schedule(self) -> Schedule:
        """Return the learning rate as a function of the round."""
        peak, num_warm_up = self.learning_rate, self.num_warm_up
        return schedules.by_name(self.schedule, peak, self.num_rounds, num_warm_up)


def make_recipe(spec: TrainSpec, num_images: int) -> Recipe:
    """Return the recipe of one net for a training set of this size."""
    plan = BatchPlan(
        num_images=num_images, num_shards=spec.shards, batch_size=spec.batch_size, seed=spec.seed
    )
    return Recipe(
        architecture=Architecture(
            inputs=NUM_PIXELS,
            hidden=spec.hidden,
            classes=NUM_CLASSES,
            activation=spec.activation,
            loss=spec.loss,
        ),
        preparation=Preparation(name=spec.pixels, width=spec.width, height=spec.height),
        plan=plan,
        distortion=Distortion(**{f.name: getattr(spec, f.name) for f in fields(Distortion)}),
        cool_down=spec.cool_down,
        deskew_last=spec.deskew == "after",
        epochs=max(spec.epochs, ceil(spec.least_rounds / plan.rounds_per_epoch)),
        optimizer=spec.optimizer,
        momentum=MOMENTUM if spec.momentum is None else spec.momentum,
        schedule=spec.schedule,
        learning_rate=spec.learning_rate,
        num_warm_up=spec.warmup,
        ema=spec.ema,
    )
