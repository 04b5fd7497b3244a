"""Images with labels, their shards, and which images round k uses.

A batch is a function, not a stream: the images of a round follow from (seed, epoch, shard, round)
alone, so a replaced worker continues exactly where the lost one stood.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.random import Philox
from numpy.typing import NDArray

from nanograd.nn.mlp import NUM_INPUTS
from nanograd.runtime.randomness import SPLIT, stream

NUM_PIXELS = NUM_INPUTS


@dataclass(frozen=True)
class Dataset:
    """Labelled images; the arrays are read-only.

    Args:
        images: (N, 784) uint8, row by row, ink 255 on 0; of `nanograd.sklearn` (N, D) float32.
        labels: (N,) uint8, 0 to 9; of `nanograd.sklearn` int64, 0 to C - 1.
    """

    images: NDArray[Any]
    labels: NDArray[Any]

    def __post_init__(self) -> None:
        width = NUM_PIXELS if self.images.dtype == np.uint8 else self.images.shape[-1]
        if self.images.shape != (len(self.labels), width) or self.labels.ndim != 1:
            raise ValueError(f"shapes {self.images.shape} and {self.labels.shape} do not fit")
        self.images.flags.writeable = False
        self.labels.flags.writeable = False

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def take(self, index: NDArray[np.int64] | slice) -> "Dataset":
        """The images and labels at the given positions."""
        return Dataset(self.images[index], self.labels[index])

    def sha256(self) -> str:
        """Checksum of images and labels: which data is this?"""
        digest = sha256(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """Which images each shard contributes to each round.

    A batch is cut into `num_shards` micro-batches of nearly equal size, the training set into as
    many runs in the same proportion. Every image is used exactly once an epoch: each round takes
    `batch_size` images, the last one what is left. Full batches matter: a matrix product of 15 rows
    takes 1.4 times as long as one of 16.

    Args:
        num_images: N, size of the training set.
        num_shards: S, fixed for a run; how many workers share the shards changes nothing.
        batch_size: images a round.
        seed: 0 to 2**63 - 1.
    """

    num_images: int
    num_shards: int
    batch_size: int
    seed: int

    @property
    def rounds_per_epoch(self) -> int:
        """Number of rounds that use every image once."""
        return -(-self.num_images // self.batch_size)

    def shard_slice(self, shard: int) -> slice:
        """Where the shard's images stand in the training set."""
        share = self._share(shard)
        return slice(
            self.num_images * share.start // self.batch_size,
            self.num_images * share.stop // self.batch_size,
        )

    def order(self, epoch: int, shard: int) -> NDArray[np.int64]:
        """The shard's images, by position within the shard, in the order this epoch uses them."""
        span = self.shard_slice(shard)
        draws = stream(self.seed, epoch, shard).random_raw(span.stop - span.start)
        return np.argsort(draws, kind="stable")

    def distortions(self, round_: int, shard: int) -> Philox:
        """Random numbers for the distortions of the shard's images in this round."""
        epoch, place = divmod(round_, self.rounds_per_epoch)
        # Block 0 is the epoch's order.
        return stream(self.seed, epoch, shard, block=1 + place)

    def micro_batch(self, round_: int, shard: int) -> slice:
        """Which stretch of the shard's `order` the round uses (round counts over all epochs)."""
        span, share = self.shard_slice(shard), self._share(shard)
        length, size = span.stop - span.start, share.stop - share.start
        place = round_ % self.rounds_per_epoch
        return slice(min(place * size, length), min((place + 1) * size, length))

    def _share(self, shard: int) -> slice:
        """Which stretch of a full batch is the shard's."""
        return slice(
            self.batch_size * shard // self.num_shards,
            self.batch_size * (shard + 1) // self.num_shards,
        )


def split(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Cut a data set in two at random: (the rest, `share` of it), each in the original order.

    Args:
        dataset: N images.
        share: 0 <= share < 1; round(share * N) images are held out.
        seed: 0 to 2**63 - 1; the same seed holds out the same images.
    """
    draws = stream(seed, SPLIT).random_raw(len(dataset))
    num_held_out = round(share * len(dataset))
    order = np.argsort(draws, kind="stable")
    return (
        dataset.take(np.sort(order[num_held_out:])),
        dataset.take(np.sort(order[:num_held_out])),
    )
