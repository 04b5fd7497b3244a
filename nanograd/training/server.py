"""The parameter server: check, reduce, update, snapshot.

Synchronous and idempotent. A round is applied once, when every shard of it has arrived and passed
its checks; whatever repeats, comes late or makes no sense is refused without effect. A plain
class; Ray wraps it from outside.

References:
    Li et al. (2014), "Scaling distributed machine learning with the parameter server" (the
    architecture; here synchronous, with one server).
"""

from dataclasses import dataclass, field

import numpy as np

from nanograd.errors import DivergedError
from nanograd.nn import mlp, optimizers
from nanograd.nn.optimizers import State, Vector
from nanograd.training.recipe import Recipe
from nanograd.training.tree import Node, nodes, tree_sum
from nanograd.training.worker import Contribution, add


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What the rounds of an epoch did so far, added up round by round.

    Args:
        loss: summed over their images.
        num_images: how many.
    """

    loss: float = 0.0
    num_images: int = 0

    def __add__(self, other: "Progress") -> "Progress":
        return Progress(loss=self.loss + other.loss, num_images=self.num_images + other.num_images)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All that training needs to go on.

    Args:
        round: the next round to compute; equal to the number of rounds applied.
        vector: (P,) float32, the parameters.
        state: the optimiser's vectors.
        average: (P,) float32, the exponential average of the parameters; None without one.
        progress: what the epoch of the last applied round did.
    """

    round: int
    vector: Vector
    state: State
    average: Vector | None
    progress: Progress = field(default_factory=Progress)

    def final_vector(self) -> Vector:
        """The parameters a model is made of: the average if one is kept."""
        return self.vector if self.average is None else self.average


def first_snapshot(recipe: Recipe) -> Snapshot:
    """Where training begins."""
    vector = mlp.init_params(recipe.architecture, recipe.plan.seed).vector
    return Snapshot(
        round=0,
        vector=vector,
        state=recipe.make_optimizer().init(len(vector)),
        average=vector.copy() if recipe.ema else None,
    )


class ParameterServer:
    """Owns the parameters; turns the contributions of a round into the next ones.

    Args:
        recipe: optimiser, schedule, number of shards.
        snapshot: where to begin; its arrays are copied.
    """

    def __init__(self, recipe: Recipe, snapshot: Snapshot) -> None:
        self._recipe = recipe
        self._optimizer = recipe.make_optimizer()
        self._schedule = recipe.make_schedule()
        self._round = snapshot.round
        self._vector = snapshot.vector.copy()
        self._state = {name: vector.copy() for name, vector in snapshot.state.items()}
        self._average = None if snapshot.average is None else snapshot.average.copy()
        self._whole = (0, recipe.plan.num_shards)
        self._nodes = frozenset(nodes(self._whole))
        self._arrived: dict[Node, Contribution] = {}
        self._sums = {node: np.empty_like(self._vector) for node in self._nodes}
        self._progress = snapshot.progress

    @property
    def round(self) -> int:
        """The round whose contributions are awaited."""
        return self._round

    def parameters(self) -> Vector:
        """(P,) float32, read-only: a view, valid until the round is applied."""
        view = self._vector.view()
        view.flags.writeable = False
        return view

    def use_memory(self, vector: Vector) -> None:
        """Keep the parameters in this memory from now on; it takes their present values."""
        vector[...] = self._vector
        self._vector = vector

    def forget(self) -> int:
        """Drop what has arrived for the present round, and say which that is."""
        self._arrived = {}
        return self._round

    def missing(self) -> frozenset[int]:
        """The shards of the present round that have not arrived."""
        arrived = {shard for node in self._arrived for shard in range(*node)}
        return frozenset(range(self._recipe.plan.num_shards)) - arrived

    def submit(self, contribution: Contribution) -> str | None:
        """Take a contribution; apply the round if it was the last one missing.

        Returns:
            None if it was taken, else the reason why it was refused, without effect.

        Raises:
            DivergedError: the update left the finite numbers.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            reason = self._refusal(contribution)
        if reason is not None:
            return reason
        first, end = contribution.node
        for node in [n for n in self._arrived if first <= n[0] and n[1] <= end]:
            del self._arrived[node]  # the new sum covers it, with the same bits
        self._arrived[contribution.node] = contribution
        if not self.missing():
            with np.errstate(over="ignore", invalid="ignore"):  # _apply looks at the result
                self._apply()
        return None

    def snapshot(self) -> Snapshot:
        """A copy of all that training needs to go on."""
        return Snapshot(
            round=self._round,
            vector=self._vector.copy(),
            state={name: vector.copy() for name, vector in self._state.items()},
            average=None if self._average is None else self._average.copy(),
            progress=self._progress,
        )

    def _refusal(self, contribution: Contribution) -> str | None:
        gradient = contribution.gradient
        if contribution.round != self._round:
            return f"round {contribution.round} is not the present round {self._round}"
        if contribution.node not in self._nodes:
            return f"shards {contribution.node} are no node of the tree over {self._whole}"
        if self.missing().isdisjoint(range(*contribution.node)):
            return f"shards {contribution.node} have arrived before"
        if gradient.shape != self._vector.shape or gradient.dtype != self._vector.dtype:
            return f"gradient is {gradient.dtype} {gradient.shape}"
        if not (np.isfinite(gradient @ gradient) and np.isfinite(contribution.loss)):
            return "gradient or loss is not finite"
        return self._wrong_count(contribution)

    def _add(self, left: Contribution, right: Contribution) -> Contribution:
        return add(left, right, out=self._sums[left.node[0], right.node[1]])

    def _wrong_count(self, contribution: Contribution) -> str | None:
        plan = self._recipe.plan
        parts = [plan.micro_batch(self._round, shard) for shard in range(*contribution.node)]
        expected = sum(part.stop - part.start for part in parts)
        if contribution.num_images != expected:
            return f"{contribution.num_images} images where the plan has {expected}"
        return None

    def _apply(self) -> None:
        total = tree_sum(self._whole, self._arrived.get, self._add)
        self._arrived = {}
        gradient = np.multiply(
            total.gradient, np.float32(1 / total.num_images), out=self._sums[self._whole]
        )
        rate = self._schedule(self._round)
        if self._round % self._recipe.plan.rounds_per_epoch == 0:
            self._progress = Progress()
        self._round += 1
        self._optimizer.update(self._vector, gradient, self._state, rate, self._round)
        if not np.isfinite(self._vector @ self._vector):
            raise DivergedError(
                f"a parameter is not finite after round {self._round - 1}: lower --learning-rate"
            )
        if self._average is not None:
            optimizers.ema(self._average, self._vector, self._recipe.ema, self._round)
        self._progress = self._progress + Progress(loss=total.loss, num_images=total.num_images)
