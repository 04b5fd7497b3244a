"""A worker: shards in, shard gradients out.

A plain class; Ray wraps it from outside. It holds no state that matters: what it computes follows
from the round, the parameters and its shards, so another worker with the same shards sends the
same bits.
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
from nanograd.nn.mlp import Signals
from nanograd.nn.optimizers import Vector
from nanograd.training.recipe import Recipe
from nanograd.training.tree import Node, children, cover


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What a worker sends for a round: the sum over the images of one node of the tree.

    Args:
        round: which round it belongs to, over all epochs.
        node: the range of shards it covers.
        gradient: (P,) float32, summed over the images (not averaged).
        loss: summed over the images.
        num_images: how many; travels with the sums, so that the server can weigh them right.
    """

    round: int
    node: Node
    gradient: Vector
    loss: float
    num_images: int


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """The images of a round from the shards of a node, one shard after the other.

    Args:
        inputs: (B, 784) float32.
        labels: (B,) uint8.
        parts: which rows are of which shard.
    """

    inputs: NDArray[np.float32]
    labels: NDArray[np.uint8]
    parts: list[slice]


def add(left: Contribution, right: Contribution, out: Vector | None = None) -> Contribution:
    """The contribution of a parent node from those of its two children.

    Args:
        left: of the first child.
        right: of the second.
        out: (P,) float32, where the gradient goes, if it should not be a new vector.
    """
    return Contribution(
        round=left.round,
        node=(left.node[0], right.node[1]),
        gradient=np.add(left.gradient, right.gradient, out=out),
        loss=left.loss + right.loss,
        num_images=left.num_images + right.num_images,
    )


class Worker:
    """Computes the gradients of the shards it holds.

    Args:
        recipe: the net, how pixels become inputs, which images each round uses.
        shards: the images of each shard, as uint8; pixels become float32 batch by batch.
    """

    def __init__(self, recipe: Recipe, shards: Mapping[int, Dataset]) -> None:
        self._recipe = recipe
        self._plan = recipe.plan
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}
        self._scratch: dict[int, Vector] = {}
        self._ready: dict[tuple[int, Node], _Batch] = {}
        self.hold(shards)

    def hold(self, shards: Mapping[int, Dataset]) -> None:
        """Take these shards in place of the present ones."""
        self._shards = {
            shard: digits if self._recipe.upright_last else self._upright(digits)
            for shard, digits in shards.items()
        }
        self._ready = {}

    def _upright(self, digits: Dataset) -> Dataset:
        return Dataset(deskew_images(self._recipe.preparation, digits.images), digits.labels)

    def nodes(self) -> list[Node]:
        """The largest whole nodes of the tree over its shards."""
        return cover((0, self._plan.num_shards), frozenset(self._shards))

    def prepare(self, round_: int) -> None:
        """Make a round's inputs before its parameters are there: most of the work needs none.

        Args:
            round_: over all epochs; beyond the last one nothing is done.
        """
        if round_ < self._recipe.num_rounds:
            self._ready = {(round_, node): self._batch(round_, node) for node in self.nodes()}

    def contribute(self, round_: int, vector: Vector) -> list[Contribution]:
        """The contributions of all its nodes, each with a gradient vector of its own.

        Args:
            round_: over all epochs.
            vector: (P,) float32 parameters, left alone.
        """
        return [self.sum_node(round_, node, vector, np.empty_like(vector)) for node in self.nodes()]

    def sum_node(self, round_: int, node: Node, vector: Vector, out: Vector) -> Contribution:
        """The contribution of one node: left child's sum + right child's sum, down to the shards.

        Args:
            round_: over all epochs.
            node: all of whose shards it holds.
            vector: (P,) float32 parameters, left alone.
            out: (P,) float32, where the gradient goes.
        """
        batch = self._ready.pop((round_, node), None) or self._batch(round_, node)
        architecture = self._recipe.architecture
        signals = mlp.propagate(
            architecture,
            architecture.params(vector),
            batch.inputs,
            mlp.one_hot(batch.labels, architecture.classes),
            batch.parts,
        )
        loss = self._sum(signals, dict(zip(range(*node), batch.parts, strict=True)), node, out)
        return Contribution(
            round=round_, node=node, gradient=out, loss=loss, num_images=len(batch.labels)
        )

    def _batch(self, round_: int, node: Node) -> _Batch:
        parts = _in_a_row(self._plan.micro_batch(round_, shard) for shard in range(*node))
        num_images, like = parts[-1].stop, self._shards[node[0]]
        images = np.empty((num_images, *like.images.shape[1:]), like.images.dtype)
        labels = np.empty(num_images, like.labels.dtype)
        for shard, part in zip(range(*node), parts, strict=True):
            order = self._order(round_ // self._plan.rounds_per_epoch, shard)
            index, data = order[self._plan.micro_batch(round_, shard)], self._shards[shard]
            np.take(data.images, index, axis=0, out=images[part], mode="clip")
            np.take(data.labels, index, out=labels[part], mode="clip")
        distorted = self._distorted(round_, node, parts, images)
        inputs = scale(self._recipe.preparation, distorted)
        return _Batch(inputs=inputs, labels=labels, parts=parts)

    def _distorted(
        self, round_: int, node: Node, parts: Sequence[slice], images: NDArray[np.uint8]
    ) -> NDArray[np.uint8] | NDArray[np.float32]:
        """Each shard's images distorted on their own: matrix products are involved."""
        distortion = self._recipe.distortion_in(round_)
        if not distortion and not self._recipe.upright_last:
            return images
        size = self._recipe.preparation.size if self._recipe.upright_last else None
        distorted = np.empty(images.shape, np.float32)
        for shard, part in zip(range(*node), parts, strict=True):
            draws = self._plan.distortions(round_, shard)
            distorted[part] = distort(images[part], distortion, draws, size)
        return distorted

    def _sum(self, signals: Signals, parts: Mapping[int, slice], node: Node, out: Vector) -> float:
        """The node's gradient into `out`: left child's + right child's, down to the shards."""
        if node[1] - node[0] == 1:
            part = parts[node[0]]
            mlp.sum_gradients(signals, part, self._recipe.architecture.params(out))
            return float(signals.losses[part].sum(dtype=np.float64))
        left, right = children(node)
        buffer = self._buffer(node, out)
        loss = self._sum(signals, parts, left, out) + self._sum(signals, parts, right, buffer)
        out += buffer
        return loss

    def _buffer(self, node: Node, like: Vector) -> Vector:
        # One for each size of node: the one in use further up the tree is of another size.
        size = node[1] - node[0]
        if size not in self._scratch:
            self._scratch[size] = np.empty_like(like)
        return self._scratch[size]

    def _order(self, epoch: int, shard: int) -> NDArray[np.int64]:
        # A cache, not a state: it saves sorting the same draws for every round of an epoch.
        known = self._orders.get(shard)
        if known is None or known[0] != epoch:
            known = self._orders[shard] = (epoch, self._plan.order(epoch, shard))
        return known[1]


def _in_a_row(spans: Iterable[slice]) -> list[slice]:
    """Slices of the same lengths, one after the other from 0."""
    ends = list(accumulate((span.stop - span.start for span in spans), initial=0))
    return [slice(start, end) for start, end in pairwise(ends)]
