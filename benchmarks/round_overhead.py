"""Claim: a round of RayGroup takes little more time than its arithmetic.

Two workers use shared memory and share the update. Timed subclasses record on the machine's
monotonic clock when a worker starts and ends its gradient, and how long it computes its slice of
the update. For each round:

    round time  = from the start of a worker's gradient to the start of its next one
    overhead    = round time - the longest gradient of the round
                = update (the longest of the workers)
                + rest (preparation of the inputs of the next round, waiting for each other)

Figures are medians over the rounds. The figures in brackets are the tenth percentiles, that is, of
the rounds that other programs disturbed least. The share of peak compares FLOP/s: of a worker's
matrix products in its gradient time in such quiet rounds, and the best of one thread on a large
square product and on products of the gradient's shapes, measured before in this process.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import ray
from common import Row, arguments, report
from contenders.base import Setting, load_images
from contenders.ours import recipe_of
from numpy.typing import NDArray

from nanograd.distributed import actors, group, members
from nanograd.distributed.cluster import session
from nanograd.nn.optimizers import Vector
from nanograd.runtime import process
from nanograd.training.recipe import Recipe
from nanograd.training.server import Update, first_snapshot
from nanograd.training.tree import TreeNode
from nanograd.training.worker import Contribution

_WARM_UP = 50
_US = 1e6


class TimedWorker(actors.WorkerActor):
    """A worker that records the times of its gradients."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._update: TimedUpdate = TimedUpdate(self._recipe)
        self._depth, self._began = 0, 0.0
        self._times: list[tuple[int, float, float]] = []

    def sum_node(self, round_: int, node: TreeNode, vector: Vector, out: Vector) -> Contribution:
        """Sum a tree node, and record the time of the outermost call."""
        if self._depth == 0:
            self._began = perf_counter()
        self._depth += 1
        done = super().sum_node(round_, node, vector, out)
        self._depth -= 1
        if self._depth == 0:
            self._times.append((round_, self._began, perf_counter()))
        return done

    def times(self) -> tuple[list[tuple[int, float, float]], list[tuple[int, float]]]:
        """Return round, start and end of each sum; round and seconds of each update."""
        return self._times, self._update.seconds


class TimedUpdate(Update):
    """An update that records its times."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.seconds: list[tuple[int, float]] = []

    def apply(self, sums: Sequence[Contribution], *others: Any) -> bool:
        """Update a slice, and record the time."""
        began = perf_counter()
        is_finite = super().apply(sums, *others)
        self.seconds.append((sums[0].round, perf_counter() - began))
        return is_finite


def measure(data: str, batches: Sequence[int], shards: Sequence[int], rounds: int) -> Iterator[Row]:
    """Yield a row for each batch size and number of shards."""
    with process.one_thread():
        peak = _gemm_flops(1024, 1024, 1024)
    vars(members).update(WorkerActor=TimedWorker)
    with session(None, 2):
        for batch in batches:
            for num_shards in shards:
                setting = Setting(name="nanograd", data=data, batch=batch, shards=num_shards)
                yield _row(setting, rounds, peak)


def _time_parts(setting: Setting, rounds: int) -> dict[str, NDArray[np.float64]]:
    """Return the seconds of each part of each round, after a warm-up."""
    data = load_images(setting)
    recipe = recipe_of(setting, len(data.train))
    group_ = group.RayGroup(recipe, data.train, first_snapshot(recipe))
    try:
        group_.advance(_WARM_UP)
        group_.advance(_WARM_UP + rounds)
        times = [ray.get(each.actor.times.remote()) for each in group_.members.present.values()]
    finally:
        group_.close()
    return _parts(times, range(_WARM_UP, _WARM_UP + rounds - 1))


def _row(setting: Setting, rounds: int, peak: float) -> Row:
    parts = _time_parts(setting, rounds)
    median = {name: float(np.median(values)) for name, values in parts.items()}
    quiet = {name: float(np.percentile(values, 10)) for name, values in parts.items()}
    micro = setting.batch // setting.shards
    with process.one_thread():
        shape = _gradient_flops(micro, setting.hidden)
    rate = setting.batch * _multiplications(setting.hidden) / quiet["gradient"]
    row = {
        "batch": setting.batch,
        "shards": setting.shards,
        **{
            f"{name} µs": f"{value * _US:.0f} ({quiet[name] * _US:.0f})"
            for name, value in median.items()
        },
        "overhead of round": f"{100 * median['overhead'] / median['round']:.0f} %",
        "GFLOP/s a worker": round(rate / 1e9, 1),
        "of square GEMM": f"{100 * rate / peak:.0f} %",
        "of own shapes": f"{100 * rate / shape:.0f} %",
        "load": round(os.getloadavg()[0], 1),
    }
    sys.stderr.write(f"{row}\n")
    return row


Times = dict[int, tuple[float, float]]


def _by_round(times: list[tuple[int, float, float]]) -> Times:
    joined: Times = {}
    for round_, began, ended in times:
        known = joined.get(round_, (began, ended))
        joined[round_] = (known[0], ended)
    return joined


def _parts(workers: Sequence[Any], rounds: range) -> dict[str, NDArray[np.float64]]:
    sums = [_by_round(each) for each, _ in workers]
    updates = [dict(each) for _, each in workers]
    began, ended = np.array([[times[r] for r in rounds] for times in sums]).transpose(2, 0, 1)
    following = np.array([[times[r + 1][0] for r in rounds] for times in sums])
    longest, whole = (ended - began).max(axis=0), (following - began).max(axis=0)
    update = np.array([[seconds[r] for r in rounds] for seconds in updates]).max(axis=0)
    return {
        "round": whole,
        "gradient": longest,
        "overhead": whole - longest,
        "update": update,
        "rest": whole - longest - update,
    }


def _multiplications(hidden: int) -> int:
    """Return the number of multiply-adds in matrix products per image."""
    return 2 * 784 * hidden + 3 * hidden * 10


def _gemm_flops(rows: int, inner: int, columns: int) -> float:
    a, b = np.ones((rows, inner), np.float32), np.ones((inner, columns), np.float32)
    out = np.empty((rows, columns), np.float32)
    return 2 * rows * inner * columns / _best(lambda: np.matmul(a, b, out=out))


def _gradient_flops(rows: int, hidden: int) -> float:
    """Return the FLOP/s of the two large products of a micro-batch."""
    x, w = np.ones((rows, 784), np.float32), np.ones((784, hidden), np.float32)
    z, gradient = np.ones((rows, hidden), np.float32), np.empty_like(w)

    def both() -> None:
        np.matmul(x, w, out=z)
        np.matmul(x.T, z, out=gradient)

    return 2 * rows * _multiplications(hidden) / _best(both)


def _best(action: Callable[[], object]) -> float:
    times = []
    for _ in range(60):
        began = perf_counter()
        action()
        times.append(perf_counter() - began)
    return min(times)


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--shards", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--rounds", type=int, default=600)
    options = parser.parse_args()
    rows = measure(options.data, options.batch, options.shards, options.rounds)
    report(list(rows), options.json)


if __name__ == "__main__":
    main()
