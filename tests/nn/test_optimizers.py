import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from nanograd.nn.optimizers import Arrays, Optimizer, Vector, by_name, update_average

STEPS = 7
RATE = 0.05


def vectors(size: int) -> tuple[Vector, list[Vector]]:
    """Return initial parameters and a read-only gradient for each step."""
    generator = np.random.default_rng(7)
    gradients = [generator.normal(0, 1, size).astype(np.float32) for _ in range(STEPS)]
    for gradient in gradients:
        gradient.flags.writeable = False
    return generator.normal(0, 1, size).astype(np.float32), gradients


def begin(optimizer: Optimizer, params: Vector) -> Arrays:
    return {"vector": params, **{name: np.zeros_like(params) for name in optimizer.names}}


def run(name: str, size: int, cuts: list[int] | None = None) -> Arrays:
    """Return parameters and state after all steps, each of them made slice by slice."""
    optimizer = by_name(name, 0.9)
    params, gradients = vectors(size)
    arrays = begin(optimizer, params)
    bounds = [0, *(cuts or []), size]
    for step, gradient in enumerate(gradients, start=1):
        for first, end in pairwise(bounds):
            part = slice(first, end)
            some = {name: vector[part] for name, vector in arrays.items()}
            optimizer.update(some, gradient[part].copy(), RATE, step, some)
    return arrays


def momentum_by_loops(w: float, gradients: list[float]) -> float:
    velocity = 0.0
    for g in gradients:
        velocity = 0.9 * velocity + g
        w -= RATE * velocity
    return w


def adam_by_loops(w: float, gradients: list[float]) -> float:
    """Algorithm 1 of Kingma & Ba as printed, not in its reordered form."""
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        w -= RATE * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return w


ORACLES: dict[str, Callable[[float, list[float]], float]] = {
    "sgd": lambda w, gradients: w - RATE * sum(gradients),
    "momentum": momentum_by_loops,
    "adam": adam_by_loops,
}


@pytest.mark.parametrize("name", sorted(ORACLES))
@pytest.mark.parametrize("size", [1, 193])
def test_parameters_follow_a_float64_oracle(name, size):
    params = run(name, size)["vector"]

    start, gradients = vectors(size)
    columns = np.array(gradients, np.float64).T.tolist()
    oracle = [ORACLES[name](w, g) for w, g in zip(start.tolist(), columns, strict=True)]
    assert params.dtype == np.float32
    np.testing.assert_allclose(params, oracle, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(ORACLES))
@pytest.mark.parametrize("cuts", [[7, 8, 100], list(range(1, 193))])
def test_update_in_slices_has_the_bits_of_one_update(name, cuts):
    whole, sliced = run(name, 193), run(name, 193, cuts)

    assert sliced.keys() == whole.keys()
    for key, vector in whole.items():
        np.testing.assert_array_equal(sliced[key], vector)


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_update_in_place_has_the_bits_of_another_and_a_rate_of_zero_changes_nothing(name):
    optimizer = by_name(name, 0.9)
    params, (gradient, *_) = vectors(7)
    arrays = begin(optimizer, params)
    before, old_params = dict(arrays), params.copy()

    optimizer.update(arrays, gradient.copy(), 0.0, 1, arrays)
    same = params.copy()
    new = begin(optimizer, np.empty_like(params))
    for target in (new, arrays):  # `new` first: the update must not change the old arrays
        optimizer.update(arrays, gradient.copy(), RATE, 2, target)

    np.testing.assert_array_equal(same, old_params)
    assert (params != old_params).all()
    assert all(arrays[key] is vector for key, vector in before.items())
    for key, vector in arrays.items():
        np.testing.assert_array_equal(new[key], vector)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_average_follows_a_float64_oracle_also_in_slices(decay):
    start, points = vectors(193)
    average, sliced = start.copy(), start.copy()
    oracle = start.astype(np.float64)

    for step, point in enumerate(points, start=1):
        update_average(average, point, decay, step, average)
        for part in (slice(0, 1), slice(1, 8), slice(8, 193)):
            update_average(sliced[part], point[part], decay, step, sliced[part])
        share = 1 - min(decay, step / (step + 10))
        oracle = (1 - share) * oracle + share * point

    np.testing.assert_allclose(average, oracle, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(sliced, average)
