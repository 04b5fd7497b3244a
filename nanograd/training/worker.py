"""A worker: shards in, shard gradients out.

A plain class; Ray wraps it from outside. It holds no state that matters: what it computes follows
from the round, the parameters and its shards, so another worker with the same shards sends the
same bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanograd import mlp
from nanograd.data.augment import shift
from nanograd.data.dataset import Dataset
from nanograd.mlp import Params
from nanograd.optimizers import Vector
from nanograd.pixels import prepare
from nanograd.training.recipe import Recipe
from nanograd.training.reduce import Node, cover, tree_sum


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
        self._shards = dict(shards)
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def contribute(self, round_: int, vector: Vector) -> list[Contribution]:
        """Gradients at the given parameters, one for each largest whole node of its shards.

        Args:
            round_: over all epochs.
            vector: (P,) float32 parameters, left alone.
        """
        params = Params(vector, self._recipe.architecture.hidden)
        nodes = cover((0, self._plan.num_shards), frozenset(self._shards))
        return [tree_sum(node, lambda n: self._leaf(round_, n, params), add) for node in nodes]

    def _leaf(self, round_: int, node: Node, params: Params) -> Contribution | None:
        shard, end = node
        if end - shard > 1:
            return None
        batch = self._batch(round_, shard)
        loss, gradient = mlp.loss_and_gradients(
            self._recipe.architecture,
            params,
            prepare(self._recipe.preparation, self._distorted(round_, shard, batch)),
            mlp.one_hot(batch.labels),
        )
        return Contribution(
            round=round_, node=node, gradient=gradient.vector, loss=loss, num_images=len(batch)
        )

    def _batch(self, round_: int, shard: int) -> Dataset:
        order = self._order(round_ // self._plan.rounds_per_epoch, shard)
        return self._shards[shard].take(order[self._plan.micro_batch(round_, shard)])

    def _distorted(self, round_: int, shard: int, batch: Dataset) -> NDArray[np.uint8]:
        if not self._recipe.shift:
            return batch.images
        return shift(batch.images, self._recipe.shift, self._plan.distortions(round_, shard))

    def _order(self, epoch: int, shard: int) -> np.ndarray:
        # A cache, not a state: it saves sorting the same draws for every round of an epoch.
        known = self._orders.get(shard)
        if known is None or known[0] != epoch:
            known = self._orders[shard] = (epoch, self._plan.order(epoch, shard))
        return known[1]
