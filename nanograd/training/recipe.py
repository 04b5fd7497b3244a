"""What a training run computes, free of where and by whom."""

from dataclasses import dataclass, fields

from nanograd.config.train_config import TrainConfig
from nanograd.data.dataset import BatchPlan
from nanograd.digits.augment import Distortion
from nanograd.digits.preparation import Preparation
from nanograd.nn import optimizers, schedules
from nanograd.nn.mlp import Architecture
from nanograd.nn.optimizers import Optimizer
from nanograd.nn.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that determines the bits of the result, beside the training images.

    Args:
        architecture: the net.
        preparation: how pixels become inputs.
        plan: which images each round uses.
        distortion: how far training images are distorted.
        cool_down: by what share of itself that falls in the last rounds.
        upright_last: whether they are set upright after that instead of before.
        epochs: passes over the training set.
        optimizer: sgd, momentum or adam.
        momentum: decay of the velocity.
        schedule: constant or cosine.
        learning_rate: its peak.
        num_warm_up: rounds of linear warm-up.
        ema: decay of the average of the weights; 0 for none.
    """

    architecture: Architecture
    preparation: Preparation
    plan: BatchPlan
    distortion: Distortion
    cool_down: float
    upright_last: bool
    epochs: int
    optimizer: str
    momentum: float
    schedule: str
    learning_rate: float
    num_warm_up: int
    ema: float

    @property
    def num_rounds(self) -> int:
        """Rounds of the whole run."""
        return self.epochs * self.plan.rounds_per_epoch

    def distortion_in(self, round_: int) -> Distortion:
        """How far the images of a round are distorted."""
        return self.distortion * schedules.cool_down(self.cool_down, self.num_rounds)(round_)

    def make_optimizer(self) -> Optimizer:
        """The optimiser it names."""
        return optimizers.by_name(self.optimizer, self.momentum)

    def make_schedule(self) -> Schedule:
        """The learning rate of each round."""
        return schedules.by_name(
            self.schedule, self.learning_rate, self.num_rounds, self.num_warm_up
        )


def make_recipe(config: TrainConfig, num_images: int) -> Recipe:
    """The recipe that a configuration means for a training set of this size."""
    plan = BatchPlan(
        num_images=num_images,
        num_shards=config.shards,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    return Recipe(
        architecture=Architecture(
            hidden=config.hidden, activation=config.activation, loss=config.loss
        ),
        preparation=Preparation(name=config.pixels, width=config.width, height=config.height),
        plan=plan,
        distortion=Distortion(
            **{each.name: getattr(config, each.name) for each in fields(Distortion)}
        ),
        cool_down=config.cool_down,
        upright_last=config.upright == "after",
        epochs=max(config.epochs, -(-config.least_rounds // plan.rounds_per_epoch)),
        optimizer=config.optimizer,
        momentum=0.9 if config.momentum is None else config.momentum,
        schedule=config.schedule,
        learning_rate=config.learning_rate,
        num_warm_up=config.warmup,
        ema=config.ema,
    )
