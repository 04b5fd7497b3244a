"""Settings and interface of a contender."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nanograd.digits.dataset import Mnist
from nanograd.digits.preparation import Preparation, scale
from nanograd.images import sources

# The recipe `averaged`: rounds of linear warm-up, and decay of the average of the weights.
WARM_UP, AVERAGE_DECAY = 80, 0.98


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The training of a contender.

    Args:
        name: the contender.
        data: as `nanograd train --data`.
        batch: images per round, over all workers.
        recipe: `momentum` (0.9, rate 0.1), `adam` (rate 1e-3) or `averaged` (momentum 0.9, rate
            0.25, warm-up, average of the weights).
        workers: processes that compute gradients; 0 to use the contender's process.
        threads: threads for arithmetic in each process.
        hidden: H, the number of hidden units.
        shards: shards of nanograd; 0 for its default.
        elastic: elastic distortion by nanograd, in pixels; 0 = off.
        seed: seed of the initial weights and of the order of the images.
    """

    name: str
    data: str = "auto"
    batch: int = 512
    recipe: str = "momentum"
    workers: int = 2
    threads: int = 1
    hidden: int = 200
    shards: int = 0
    elastic: float = 0.0
    seed: int = 0


class Contender(Protocol):
    """A net in training."""

    def reset(self, seed: int) -> None:
        """Start again with new weights."""

    def run(self, rounds: int) -> int:
        """Train for some rounds, and return the number of images."""

    def accuracy(self) -> float:
        """Return the accuracy on the test images."""

    def close(self) -> None:
        """Release all resources."""


def load_images(setting: Setting) -> Mnist:
    """Load the images without logging."""
    return sources.load([setting.data])


def standardised(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Prepare all images once as float32 inputs, as users of a framework do."""
    return scale(Preparation(name="standard"), images)


def share(mnist: Mnist, rank: int, workers: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return inputs and labels of a rank's share of the training images."""
    return standardised(mnist.train.images[rank::workers]), mnist.train.labels[rank::workers]
