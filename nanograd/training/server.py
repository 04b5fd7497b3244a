"""The parameter server: check, reduce, update, snapshot.

Synchronous and idempotent. A round is applied once, when every shard has arrived and passed its
checks; a contribution that repeats, comes late or is malformed is refused without effect. A plain
class that Ray wraps from outside.

References:
    Li et al. (2014), "Scaling distributed machine learning with the parameter server" (the
    architecture; here synchronous, with one server).
"""

from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np

from nanograd.errors import DivergedError
from nanograd.nn import mlp, optimizers
from nanograd.nn.optimizers import State, Vector
from nanograd.training.recipe import Recipe
from nanograd.training.tree import TreeNode, cover, nodes, tree_sum
from nanograd.training.worker import Contribution, add


@dataclass(frozen=True, kw_only=True)
class LossSum:
    """The training loss of an epoch so far, added round by round.

    Args:
        loss: summed over the images.
        num_images: their number.
    """

    loss: float = 0.0
    num_images: int = 0

    def __add__(self, other: "LossSum") -> "LossSum":
        return LossSum(loss=self.loss + other.loss, num_images=self.num_images + other.num_images)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The whole state of training between two rounds.

    Args:
        round: the next round to compute; equal to the number of rounds applied.
        vector: (P,) float32, the parameters.
        state: the optimiser's vectors.
        average: (P,) float32, the exponential average of the parameters; None without one.
        progress: training loss of the epoch of the last applied round.
    """

    round: int
    vector: Vector
    state: State
    average: Vector | None
    progress: LossSum = field(default_factory=LossSum)

    def final_vector(self) -> Vector:
        """Return the parameters for a model: the average if there is one."""
        return self.vector if self.average is None else self.average


def first_snapshot(recipe: Recipe) -> Snapshot:
    """Return the state before the first round."""
    vector = mlp.init_params(recipe.architecture, recipe.plan.seed).vector
    return Snapshot(
        round=0,
        vector=vector,
        state=recipe.make_optimizer().init(len(vector)),
        average=vector.copy() if recipe.ema else None,
    )


class RefusalReason(Enum):
    """Why a parameter server refuses a contribution."""

    WRONG_ROUND = auto()
    UNKNOWN_NODE = auto()
    REPEATED = auto()
    WRONG_SHAPE = auto()
    WRONG_COUNT = auto()
    NOT_FINITE = auto()


@dataclass(frozen=True)
class Refusal:
    """A refused contribution.

    Args:
        reason: the check that it failed.
        detail: the difference, for people.
    """

    reason: RefusalReason
    detail: str

    def __str__(self) -> str:
        return self.detail


class ParameterServer:
    """Owner of the parameters, which it updates from the contributions of each round.

    Args:
        recipe: optimiser, schedule, number of shards.
        snapshot: the state to start from; its arrays are copied.
    """

    def __init__(self, recipe: Recipe, snapshot: Snapshot) -> None:
        self._recipe = recipe
        self._optimizer = recipe.make_optimizer()
        self._schedule = recipe.make_schedule()
        self._vector = snapshot.vector.copy()
        self._root = (0, recipe.plan.num_shards)
        self._nodes = frozenset(nodes(self._root))
        self.own(frozenset(range(recipe.plan.num_shards)))
        self._sums = {node: np.empty_like(self._vector) for node in self._nodes}
        self.restore(snapshot)

    @property
    def round(self) -> int:
        """The round whose contributions are awaited."""
        return self._round

    def parameters(self) -> Vector:
        """Return a read-only view, (P,) float32, valid until the round is applied."""
        view = self._vector.view()
        view.flags.writeable = False
        return view

    def use_memory(self, vector: Vector) -> None:
        """Keep the parameters in this memory from now on; it receives their present values."""
        vector[...] = self._vector
        self._vector = vector

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from another state; its arrays are copied."""
        self._round = snapshot.round
        self._vector[...] = snapshot.vector
        self._state = {name: vector.copy() for name, vector in snapshot.state.items()}
        self._average = None if snapshot.average is None else snapshot.average.copy()
        self._progress = snapshot.progress
        self._arrived: dict[TreeNode, Contribution] = {}

    def own(self, shards: frozenset[int]) -> None:
        """Expect contributions only for these shards; other servers sum the rest.

        With fewer than all shards, `submit` applies no round: `sums` returns the sums of the own
        shards, and `apply` takes the sum over all of them.
        """
        self._own = shards
        self._own_nodes = cover(self._root, shards)

    def forget(self) -> int:
        """Drop the contributions of the current round and return its number."""
        self._arrived = {}
        return self._round

    def missing(self) -> frozenset[int]:
        """Return the own shards of the current round that have not arrived."""
        return self._own - {shard for node in self._arrived for shard in range(*node)}

    def submit(self, contribution: Contribution) -> Refusal | None:
        """Accept a contribution; apply the round if it was the last one missing.

        Returns:
            None if it was accepted, else the refusal, which has no effect.

        Raises:
            DivergedError: a parameter is not finite after the update.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            if refusal := self._check(contribution):
                return refusal
            first, end = contribution.node
            for node in [n for n in self._arrived if first <= n[0] and n[1] <= end]:
                del self._arrived[node]  # the new sum covers it, with the same bits
            self._arrived[contribution.node] = contribution
        if self._own_nodes == [self._root] and not self.missing():
            self.apply(self.sums()[0])
        return None

    def sums(self) -> list[Contribution]:
        """Return the sums over the largest tree nodes of the own shards, when all have arrived."""
        return [tree_sum(node, self._arrived.get, self._add) for node in self._own_nodes]

    def apply(self, total: Contribution) -> None:
        """Apply a round.

        Args:
            total: the sum over all shards; its gradient is not changed.

        Raises:
            DivergedError: a parameter is not finite after the update.
        """
        # Overflow is found by the check of the result.
        with np.errstate(over="ignore", invalid="ignore"):
            self._update(total)

    def snapshot(self) -> Snapshot:
        """Return a copy of the whole state."""
        return Snapshot(
            round=self._round,
            vector=self._vector.copy(),
            state={name: vector.copy() for name, vector in self._state.items()},
            average=None if self._average is None else self._average.copy(),
            progress=self._progress,
        )

    def _check(self, contribution: Contribution) -> Refusal | None:
        gradient, node = contribution.gradient, contribution.node
        if contribution.round != self._round:
            return Refusal(
                RefusalReason.WRONG_ROUND,
                f"round {contribution.round} is not the current round {self._round}",
            )
        if node not in self._nodes:
            return Refusal(
                RefusalReason.UNKNOWN_NODE, f"shards {node} are no node of the tree {self._root}"
            )
        if self.missing().isdisjoint(range(*node)):
            return Refusal(RefusalReason.REPEATED, f"shards {node} have already arrived")
        if gradient.shape != self._vector.shape or gradient.dtype != self._vector.dtype:
            return Refusal(
                RefusalReason.WRONG_SHAPE, f"gradient is {gradient.dtype} {gradient.shape}"
            )
        if not (_is_finite(gradient) and np.isfinite(contribution.loss)):
            return Refusal(RefusalReason.NOT_FINITE, "gradient or loss is not finite")
        return self._check_count(contribution)

    def _check_count(self, contribution: Contribution) -> Refusal | None:
        plan = self._recipe.plan
        parts = [plan.micro_batch(self._round, shard) for shard in range(*contribution.node)]
        planned, num_images = sum(part.stop - part.start for part in parts), contribution.num_images
        if num_images == planned:
            return None
        return Refusal(
            RefusalReason.WRONG_COUNT, f"{num_images} images where the plan has {planned}"
        )

    def _add(self, left: Contribution, right: Contribution) -> Contribution:
        return add(left, right, out=self._sums[left.node[0], right.node[1]])

    def _update(self, total: Contribution) -> None:
        self._arrived = {}
        gradient = np.multiply(
            total.gradient, np.float32(1 / total.num_images), out=self._sums[self._root]
        )
        rate = self._schedule(self._round)
        if self._round % self._recipe.plan.rounds_per_epoch == 0:
            self._progress = LossSum()
        self._round += 1
        self._optimizer.update(self._vector, gradient, self._state, rate, self._round)
        if not np.isfinite(self._vector @ self._vector):
            raise DivergedError(
                f"a parameter is not finite after round {self._round - 1}: lower --learning-rate"
            )
        if self._average is not None:
            optimizers.update_average(self._average, self._vector, self._recipe.ema, self._round)
        self._progress += LossSum(loss=total.loss, num_images=total.num_images)


def _is_finite(vector: Vector) -> bool:
    # The sum of squares is cheaper, but may overflow where every element is finite.
    return bool(np.isfinite(vector @ vector) or np.isfinite(vector).all())
