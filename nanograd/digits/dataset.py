"""Labelled images, their shards, and the images of each round.

The images of a round depend on (seed, epoch, shard, round) alone. A worker that replaces a failed
one therefore continues with exactly the same images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Philox
from numpy.typing import NDArray

from nanograd.errors import DataError
from nanograd.runtime.randomness import SPLIT, stream

SIDE = 28
NUM_PIXELS = SIDE * SIDE
NUM_CLASSES = 10
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Dataset:
    """Labelled images. The fields are read-only views of the given arrays, which are not copied."""

    # (N, 784) uint8 pixels, row by row, ink 255 on 0; or (N, D) float32 features.
    images: NDArray[Any]
    labels: NDArray[Any]  # (N,) class numbers; uint8 for digits

    def __post_init__(self) -> None:
        width = NUM_PIXELS if self.images.dtype == np.uint8 else self.images.shape[-1]
        if self.images.shape != (len(self.labels), width) or self.labels.ndim != 1:
            raise ValueError(f"shapes {self.images.shape} and {self.labels.shape} do not fit")
        for name in ("images", "labels"):
            view = getattr(self, name).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64] | slice) -> "Dataset":
        """Return the images and labels at the given positions."""
        return Dataset(self.images[index], self.labels[index])

    def sha256(self) -> str:
        """Return the checksum of images and labels."""
        digest = sha256(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Mnist:
    """Training and test images."""

    train: Dataset  # N images, including any that are later held out for validation
    test: Dataset  # images that never influence training or any choice
    name: str  # `mnist`, `sample`, or the path of the files; several names are joined by +
    sha256: str  # checksum of training and test data together
    test_split: float | None = None  # share of images held out as test images; None if none were
    sources: tuple[str, ...] = ()  # the names of all data sets

    def require_trainable(self) -> None:
        """Raise DataError unless a net can be trained and tested on the images."""
        problem = ""
        if not len(self.train):
            problem = "no train images found, only test images; add mnist_train.csv or train-*"
        elif not len(self.test) and self.test_split:
            problem = "no test images: no digit has two images, one to train and one to test"
        elif not len(self.test):
            problem = "no test images: --test-split 0 holds out none; raise it"
        elif len(np.unique(self.train.labels)) == 1:
            problem = (
                f"every training image ({len(self.train):,}) has the label {self.train.labels[0]}; "
                "there is nothing to learn (in a CSV file without a header, the label comes first)"
            )
        if problem:
            raise DataError(f"{self.name}: {problem}")


class Source(NamedTuple):
    """A data set as it was loaded, before test images are held out."""

    name: str  # `mnist`, `sample`, or its path or URI
    train: Dataset  # labelled training images
    test: Dataset | None  # labelled test images; None if there are none


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The images that each shard contributes to each round.

    The training set is divided into `num_shards` shards of nearly equal size. A shard contributes
    its micro-batch to the batch of each round. Every image is used exactly once per epoch. The last
    round of an epoch uses the rest; rounds of equal sizes would be slower, because a matrix product
    of 15 rows takes 1.4 times as long as one of 16 rows.
    """

    num_images: int  # N, size of the training set
    num_shards: int  # S, fixed for a run and independent of the number of workers
    batch_size: int  # number of images per round
    seed: int  # 0 to 2**63 - 1

    @property
    def rounds_per_epoch(self) -> int:
        """Number of rounds in which every image is used once."""
        return -(-self.num_images // self.batch_size)

    def round_size(self, round_: int) -> int:
        """Return the number of images of a round, which is counted over all epochs."""
        is_last = (round_ + 1) % self.rounds_per_epoch == 0
        return (self.num_images - 1) % self.batch_size + 1 if is_last else self.batch_size

    def shard_slice(self, shard: int) -> slice:
        """Return the positions of the shard's images in the training set."""
        share = self._share(shard)
        return slice(
            self.num_images * share.start // self.batch_size,
            self.num_images * share.stop // self.batch_size,
        )

    def order(self, epoch: int, shard: int) -> NDArray[np.int64]:
        """Return the order of the shard's images in an epoch, as positions within the shard."""
        span = self.shard_slice(shard)
        draws = stream(self.seed, epoch, shard).random_raw(span.stop - span.start)
        return np.argsort(draws, kind="stable")

    def distortions(self, round_: int, shard: int) -> Philox:
        """Return the random numbers for the distortions of the shard's images in a round."""
        epoch, index = divmod(round_, self.rounds_per_epoch)
        # Block 0 gives the order of the epoch.
        return stream(self.seed, epoch, shard, block=1 + index)

    def micro_batch(self, round_: int, shard: int) -> slice:
        """Return the slice of the shard's `order` for a round, which is counted over all epochs."""
        span, share = self.shard_slice(shard), self._share(shard)
        length, size = span.stop - span.start, share.stop - share.start
        index = round_ % self.rounds_per_epoch
        return slice(min(index * size, length), min((index + 1) * size, length))

    def _share(self, shard: int) -> slice:
        """Return the shard's slice of a full batch."""
        return slice(
            self.batch_size * shard // self.num_shards,
            self.batch_size * (shard + 1) // self.num_shards,
        )


def split(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Hold out round(share * N) of N images at random; return the rest and these, in order."""
    draws = stream(seed, SPLIT).random_raw(len(dataset))
    order = np.argsort(draws, kind="stable")
    held_out, rest = np.split(order, [round(share * len(dataset))])
    return dataset.take(np.sort(rest)), dataset.take(np.sort(held_out))


def concatenate(sets: Sequence[Dataset]) -> Dataset:
    """Join sets of labelled images in the given order."""
    if len(sets) == 1:
        return sets[0]
    images, labels = ([getattr(each, n) for each in sets] for n in ("images", "labels"))
    return Dataset(np.concatenate(images), np.concatenate(labels))


def hold_out(images: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """Hold out a share of each digit's images, the last ones; return the rest, and those held out.

    With a share above 0, at least one image of a digit that has two or more is held out, and at
    least one is not. A share is held out of each digit, because files may be sorted by digit. The
    last images are held out, because these were often written by other people than the first ones.
    """
    is_test = np.zeros(len(images), np.bool_)
    for digit in np.unique(images.labels) if share else ():
        rows = np.flatnonzero(images.labels == digit)
        number = min(max(round(share * len(rows)), 1), len(rows) - 1)
        is_test[rows[len(rows) - number :]] = True
    return images.take(np.flatnonzero(~is_test)), images.take(np.flatnonzero(is_test))
