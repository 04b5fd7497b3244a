"""A worker: shards in, shard gradients out.

A plain class; Ray wraps it from outside. It holds no state that matters: what it computes follows
from the round, the parameters and its shards, so another worker with the same shards sends the
same bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nanograd import mlp
from nanograd.data.augment import distort
from nanograd.data.dataset import Dataset
from nanograd.mlp import Params
from nanograd.optimizers import Vector
from nanograd.pixels import scale, upright
from nanograd.training.recipe import Recipe
from nanograd.training.reduce import Node, children, cover


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


def add(left: Contribution, right: Contribution) -> Contribution:
    """The contribution of a parent node from those of its two children."""
    return Contribution(
        round=left.round,
        node=(left.node[0], right.node[1]),
        gradient=left.gradient + right.gradient,
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
        self.hold(shards)

    def hold(self, shards: Mapping[int, Dataset]) -> None:
        """Take these shards in place of the present ones."""
        self._shards = {
            shard: Dataset(upright(self._recipe.preparation, digits.images), digits.labels)
            for shard, digits in shards.items()
        }

    def nodes(self) -> list[Node]:
        """The largest whole nodes of the tree over its shards."""
        return cover((0, self._plan.num_shards), frozenset(self._shards))

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
        if node[1] - node[0] == 1:
            return self._leaf(round_, node, vector, out)
        left_node, right_node = children(node)
        left = self.sum_node(round_, left_node, vector, out)
        right = self.sum_node(round_, right_node, vector, self._buffer(node, out))
        out += right.gradient
        return replace(
            left,
            node=node,
            loss=left.loss + right.loss,
            num_images=left.num_images + right.num_images,
        )

    def _buffer(self, node: Node, like: Vector) -> Vector:
        # One for each size of node: the one in use further up the tree is of another size.
        size = node[1] - node[0]
        if size not in self._scratch:
            self._scratch[size] = np.empty_like(like)
        return self._scratch[size]

    def _leaf(self, round_: int, node: Node, vector: Vector, out: Vector) -> Contribution:
        batch = self._batch(round_, node[0])
        hidden = self._recipe.architecture.hidden
        loss, gradient = mlp.loss_and_gradients(
            self._recipe.architecture,
            Params(vector, hidden),
            self._inputs(round_, node[0], batch),
            mlp.one_hot(batch.labels),
            Params(out, hidden),
        )
        return Contribution(
            round=round_, node=node, gradient=gradient.vector, loss=loss, num_images=len(batch)
        )

    def _batch(self, round_: int, shard: int) -> Dataset:
        order = self._order(round_ // self._plan.rounds_per_epoch, shard)
        return self._shards[shard].take(order[self._plan.micro_batch(round_, shard)])

    def _inputs(self, round_: int, shard: int, batch: Dataset) -> NDArray[np.float32]:
        preparation, distortion = self._recipe.preparation, self._recipe.distortion
        if not distortion:
            return scale(preparation, batch.images)
        draws = self._plan.distortions(round_, shard)
        return scale(preparation, distort(batch.images, distortion, draws))

    def _order(self, epoch: int, shard: int) -> NDArray[np.int64]:
        # A cache, not a state: it saves sorting the same draws for every round of an epoch.
        known = self._orders.get(shard)
        if known is None or known[0] != epoch:
            known = self._orders[shard] = (epoch, self._plan.order(epoch, shard))
        return known[1]
