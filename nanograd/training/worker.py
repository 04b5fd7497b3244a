"""A worker: shards in, sums of gradients out.

A plain class that Ray wraps from outside. It holds no state that matters: the round, the parameters
and its shards determine what it computes, so another worker with the same shards sends the same
bits.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from nanograd.data.dataset import Dataset
from nanograd.digits.augment import distort
from nanograd.digits.preparation import deskew_images, scale
from nanograd.nn import mlp
from nanograd.nn.mlp import Params, Signals
from nanograd.nn.optimizers import Vector
from nanograd.training.recipe import Recipe
from nanograd.training.tree import TreeNode, children, cover


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """A worker's message for a round: the sum over the images of one tree node."""

    round: int  # its round, counted over all epochs
    node: TreeNode  # the range of shards it covers
    gradient: Vector  # (P,) float32, summed over the images (not averaged)
    loss: float  # summed over the images
    num_images: int  # number of images in the sums, so that the server can weight them


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """The images of a round from the shards of a tree node, one shard after the other."""

    inputs: NDArray[np.float32]  # (B, 784) float32
    labels: NDArray[np.uint8]  # (B,) uint8
    parts: list[slice]  # the rows of each shard


def add(left: Contribution, right: Contribution, out: Vector | None = None) -> Contribution:
    """Add the contributions of two children to that of their parent.

    Args:
        left: of the first child.
        right: of the second child.
        out: (P,) float32, receives the gradient; None for a new vector.
    """
    return Contribution(
        round=left.round,
        node=(left.node[0], right.node[1]),
        gradient=np.add(left.gradient, right.gradient, out=out),
        loss=left.loss + right.loss,
        num_images=left.num_images + right.num_images,
    )


class Worker:
    """A source of gradients for the shards it holds.

    Args:
        recipe: the net, the preparation of pixels and the batch plan.
        shards: the images of each shard, as uint8; pixels become float32 batch by batch.
    """

    def __init__(self, recipe: Recipe, shards: Mapping[int, Dataset]) -> None:
        self._recipe = recipe
        self._plan = recipe.plan
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}
        self._scratch: dict[int, Vector] = {}
        self._ready: dict[tuple[int, TreeNode], _Batch] = {}
        self.hold(shards)

    def hold(self, shards: Mapping[int, Dataset]) -> None:
        """Replace the shards it holds."""
        self._ready, self._shards = {}, dict(shards)
        if not self._recipe.deskew_last:
            for shard, digits in shards.items():
                images = deskew_images(self._recipe.preparation, digits.images)
                self._shards[shard] = Dataset(images, digits.labels)

    def nodes(self) -> list[TreeNode]:
        """Return the largest whole tree nodes over its shards."""
        return cover((0, self._plan.num_shards), frozenset(self._shards))

    def prepare(self, round_: int) -> None:
        """Prepare a round's inputs before its parameters arrive: most of the work needs none.

        Args:
            round_: counted over all epochs; beyond the last one nothing happens.
        """
        if round_ < self._recipe.num_rounds:
            self._ready = {(round_, node): self._batch(round_, node) for node in self.nodes()}

    def contribute(self, round_: int, vector: Vector) -> list[Contribution]:
        """Compute the contributions of all its tree nodes, each with its own gradient vector.

        Args:
            round_: counted over all epochs.
            vector: (P,) float32 parameters, not changed.
        """
        return [self.sum_node(round_, node, vector, np.empty_like(vector)) for node in self.nodes()]

    def sum_node(self, round_: int, node: TreeNode, vector: Vector, out: Vector) -> Contribution:
        """Compute the contribution of one tree node: left sum + right sum, down to the shards.

        Args:
            round_: counted over all epochs.
            node: a tree node; the worker holds all its shards.
            vector: (P,) float32 parameters, not changed.
            out: (P,) float32, receives the gradient.
        """
        batch = self._ready.pop((round_, node), None) or self._batch(round_, node)
        architecture = self._recipe.architecture
        signals = mlp.propagate(
            Params(vector, architecture),
            batch.inputs,
            mlp.one_hot(batch.labels, architecture.classes),
            batch.parts,
        )
        loss = self._sum(signals, dict(zip(range(*node), batch.parts, strict=True)), node, out)
        return Contribution(
            round=round_, node=node, gradient=out, loss=loss, num_images=len(batch.labels)
        )

    def _batch(self, round_: int, node: TreeNode) -> _Batch:
        parts = _in_a_row(self._plan.micro_batch(round_, shard) for shard in range(*node))
        num_images, like = parts[-1].stop, self._shards[node[0]]
        images = np.empty((num_images, *like.images.shape[1:]), like.images.dtype)
        labels = np.empty(num_images, like.labels.dtype)
        for shard, part in zip(range(*node), parts, strict=True):
            order = self._order(round_ // self._plan.rounds_per_epoch, shard)
            index, data = order[self._plan.micro_batch(round_, shard)], self._shards[shard]
            np.take(data.images, index, axis=0, out=images[part], mode="clip")
            np.take(data.labels, index, out=labels[part], mode="clip")
        inputs = scale(self._recipe.preparation, self._distorted(round_, node, parts, images))
        return _Batch(inputs=inputs, labels=labels, parts=parts)

    def _distorted(
        self, round_: int, node: TreeNode, parts: Sequence[slice], images: NDArray[np.uint8]
    ) -> NDArray[np.uint8] | NDArray[np.float32]:
        """Distort each shard's images on their own: the result goes through matrix products."""
        distortion = self._recipe.distortion_in(round_)
        if not distortion and not self._recipe.deskew_last:
            return images
        size = self._recipe.preparation.size if self._recipe.deskew_last else None
        distorted = np.empty(images.shape, np.float32)
        for shard, part in zip(range(*node), parts, strict=True):
            draws = self._plan.distortions(round_, shard)
            distorted[part] = distort(images[part], distortion, draws, size)
        return distorted

    def _sum(
        self, signals: Signals, parts: Mapping[int, slice], node: TreeNode, out: Vector
    ) -> float:
        """Sum the node's gradient into `out` and return its loss."""
        if node[1] - node[0] == 1:
            part = parts[node[0]]
            mlp.sum_gradients(signals, part, Params(out, self._recipe.architecture))
            return float(signals.losses[part].sum(dtype=np.float64))
        left, right = children(node)
        # One buffer for each size: the one in use further up the tree has another size.
        size = node[1] - node[0]
        if size not in self._scratch:
            self._scratch[size] = np.empty_like(out)
        buffer = self._scratch[size]
        loss = self._sum(signals, parts, left, out) + self._sum(signals, parts, right, buffer)
        out += buffer
        return loss

    def _order(self, epoch: int, shard: int) -> NDArray[np.int64]:
        # A cache, not state: it saves sorting the same draws for every round of an epoch.
        known = self._orders.get(shard)
        if known is None or known[0] != epoch:
            known = self._orders[shard] = (epoch, self._plan.order(epoch, shard))
        return known[1]


def _in_a_row(spans: Iterable[slice]) -> list[slice]:
    """Return slices of the same lengths, one after the other from 0."""
    ends = list(accumulate((span.stop - span.start for span in spans), initial=0))
    return [slice(start, end) for start, end in pairwise(ends)]
