"""A worker: computes sums of gradients for its shards.

The round, the parameters and the shards determine what a worker computes, so another worker with
the same shards sends the same bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from nanograd.digits.augment import distort
from nanograd.digits.dataset import Dataset
from nanograd.digits.preparation import deskew_images, scale
from nanograd.nn import mlp
from nanograd.nn.mlp import Params, Signals
from nanograd.nn.optimizers import Vector
from nanograd.runtime.arrays import Bytes, Floats, Ints
from nanograd.training.recipe import Recipe
from nanograd.training.tree import TreeNode, children, cover


@dataclass(frozen=True)
class Contribution:
    """A message of a worker: the sum over the images of one tree node in a round."""

    round: int  # counted over all epochs
    node: TreeNode  # range of shards
    gradient: Vector  # (P,) float32, summed over the images (not averaged)
    loss: float  # summed over the images
    num_images: int  # number of images in the sums


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """The inputs of a tree node in a round, ordered by shard."""

    inputs: Floats  # (B, 784) float32
    labels: Bytes  # (B,) uint8
    parts: list[slice]  # rows of each shard


def add(left: Contribution, right: Contribution, out: Vector | None = None) -> Contribution:
    """Add the contributions of two children of a tree node; `out` (P,) receives the gradient."""
    node, gradient = (left.node[0], right.node[1]), np.add(left.gradient, right.gradient, out=out)
    loss, num_images = left.loss + right.loss, left.num_images + right.num_images
    return Contribution(left.round, node, gradient, loss, num_images)


class Worker:
    """Source of the contributions of some shards; it holds their uint8 images."""

    def __init__(self, recipe: Recipe, shards: Mapping[int, Dataset]) -> None:
        self._recipe = recipe
        self._plan = recipe.plan
        self._distorts = bool(recipe.distortion) or recipe.deskew_last
        self._orders: dict[int, tuple[int, Ints]] = {}  # epoch and order of each shard
        self._scratch: dict[int, Vector] = {}
        self._ready: dict[tuple[int, TreeNode], _Batch] = {}
        self.hold(shards)

    def hold(self, shards: Mapping[int, Dataset]) -> None:
        """Replace the worker's shards."""
        self._ready, self._shards = {}, dict(shards)
        # The largest tree nodes that contain only these shards; the worker sends their sums.
        self.nodes = cover((0, self._plan.num_shards), frozenset(shards))
        if not self._recipe.deskew_last:
            for shard, digits in shards.items():
                images = deskew_images(self._recipe.preparation, digits.images)
                self._shards[shard] = Dataset(images, digits.labels)

    def prepare(self, round_: int) -> None:
        """Prepare the inputs of a round in advance; they do not depend on the parameters."""
        if round_ < self._recipe.num_rounds:
            self._ready = {(round_, node): self._batch(round_, node) for node in self.nodes}

    def contribute(self, round_: int, vector: Vector) -> list[Contribution]:
        """Compute the contributions of all tree nodes, each with a new gradient vector."""
        return [self.sum_node(round_, node, vector, np.empty_like(vector)) for node in self.nodes]

    def sum_node(self, round_: int, node: TreeNode, vector: Vector, out: Vector) -> Contribution:
        """Compute the contribution of a tree node that has only shards of the worker.

        `vector` has the parameters, (P,) float32. `out`, (P,) float32, receives the gradient.
        """
        batch = self._ready.pop((round_, node), None) or self._batch(round_, node)
        architecture = self._recipe.architecture
        targets = mlp.one_hot(batch.labels, architecture.classes)
        params = Params(vector, architecture)
        signals = mlp.propagate(params, batch.inputs, targets, batch.parts)
        loss = self._sum(signals, dict(zip(range(*node), batch.parts, strict=True)), node, out)
        return Contribution(round_, node, out, loss, len(batch.labels))

    def _batch(self, round_: int, node: TreeNode) -> _Batch:
        """Collect, distort and scale the images of a tree node."""
        recipe, shards = self._recipe, range(*node)
        spans = [self._plan.micro_batch(round_, shard) for shard in shards]
        ends = accumulate((span.stop - span.start for span in spans), initial=0)
        parts = [slice(start, end) for start, end in pairwise(ends)]
        num_images, like = parts[-1].stop, self._shards[node[0]]
        images = np.empty((num_images, *like.images.shape[1:]), like.images.dtype)
        labels = np.empty(num_images, like.labels.dtype)
        epoch = round_ // self._plan.rounds_per_epoch
        for shard, span, part in zip(shards, spans, parts, strict=True):
            # Compute the order of the images only once per epoch.
            if self._orders.get(shard, (None,))[0] != epoch:
                self._orders[shard] = (epoch, self._plan.order(epoch, shard))
            index, data = self._orders[shard][1][span], self._shards[shard]
            np.take(data.images, index, axis=0, out=images[part], mode="clip")
            np.take(data.labels, index, out=labels[part], mode="clip")
        distorted: Bytes | Floats = images
        if self._distorts:
            distortion = recipe.distortion_in(round_)
            size = recipe.preparation.size if recipe.deskew_last else None
            distorted = np.empty(images.shape, np.float32)
            # Distort shard by shard, because the bits of a matrix product depend on its rows.
            for shard, part in zip(shards, parts, strict=True):
                draws = self._plan.distortions(round_, shard)
                distorted[part] = distort(images[part], distortion, draws, size)
        return _Batch(inputs=scale(recipe.preparation, distorted), labels=labels, parts=parts)

    def _sum(
        self, signals: Signals, parts: Mapping[int, slice], node: TreeNode, out: Vector
    ) -> float:
        """Write the gradient of a tree node to `out`; return its loss."""
        if node[1] - node[0] == 1:
            part = parts[node[0]]
            mlp.sum_gradients(signals, part, Params(out, self._recipe.architecture))
            return float(signals.losses[part].sum(dtype=np.float64))
        left, right = children(node)
        # One buffer per size of node is enough, because the ancestors in use have other sizes.
        size = node[1] - node[0]
        if size not in self._scratch:
            self._scratch[size] = np.empty_like(out)
        buffer = self._scratch[size]
        loss = self._sum(signals, parts, left, out) + self._sum(signals, parts, right, buffer)
        out += buffer
        return loss
