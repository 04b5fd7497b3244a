"""What a contender is told and what it can do."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nanograd.data.mnist import Mnist, load
from nanograd.digits.preparation import Preparation, prepare

# Rounds of linear warm-up, and the decay of the average of the weights, of the recipe `averaged`.
WARM_UP, AVERAGE_DECAY = 80, 0.98


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What to train and how.

    Args:
        name: the contender.
        data: as `nanograd train --data`.
        batch: images a round, over all workers.
        recipe: `momentum` (0.9, rate 0.1), `adam` (rate 1e-3) or `averaged` (momentum 0.9, rate
            0.25, warm-up, average of the weights).
        workers: processes that compute gradients; 0 for none beside the one that asks.
        threads: of the arithmetic in each process.
        hidden: H.
        shards: of nanograd's plan.
        elastic: pixels by which nanograd bends each image afresh; 0 leaves them.
        seed: of the initial weights and of the order of the images.
    """

    name: str
    data: str = "auto"
    batch: int = 512
    recipe: str = "momentum"
    workers: int = 2
    threads: int = 1
    hidden: int = 200
    shards: int = 8
    elastic: float = 0.0
    seed: int = 0


class Contender(Protocol):
    """A net in training."""

    def reset(self, seed: int) -> None:
        """Begin anew."""

    def run(self, rounds: int) -> int:
        """Train for so many rounds; how many images that were."""

    def accuracy(self) -> float:
        """Share of the test images read right."""

    def close(self) -> None:
        """Give back what it holds."""


def load_images(setting: Setting) -> Mnist:
    """The images, without a word."""
    return load(setting.data, lambda sentence: None)


def standardised(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """All images as float32 inputs, prepared once as a user of a framework would."""
    return prepare(Preparation(name="standard"), images)


def share(mnist: Mnist, rank: int, workers: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Inputs and labels of a rank's share of the training images."""
    return standardised(mnist.train.images[rank::workers]), mnist.train.labels[rank::workers]
