import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from nanograd.nn.optimizers import Point, State, Vector, by_name, update_average

STEPS = 7
RATE = 0.05


def vectors(size: int) -> tuple[Vector, list[Vector]]:
    """Return initial parameters and a read-only gradient for each step."""
    generator = np.random.default_rng(7)
    gradients = [generator.normal(0, 1, size).astype(np.float32) for _ in range(STEPS)]
    for gradient in gradients:
        gradient.flags.writeable = False
    return generator.normal(0, 1, size).astype(np.float32), gradients


def run(
    name: str, size: int, cuts: list[int] | None = None, momentum_decay: float = 0.9
) -> tuple[Vector, State]:
    """Return parameters and state after all steps, each of them made slice by slice."""
    optimizer = by_name(name, momentum_decay)
    params, gradients = vectors(size)
    state = optimizer.init(size)
    bounds = [0, *(cuts or []), size]
    for step, gradient in enumerate(gradients, start=1):
        for first, end in pairwise(bounds):
            part = slice(first, end)
            point = Point(params[part], {name: vector[part] for name, vector in state.items()})
            optimizer.update(point, gradient[part].copy(), RATE, step, point)
    return params, state


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
    params, _ = run(name, size)

    start, gradients = vectors(size)
    columns = np.array(gradients, np.float64).T.tolist()
    oracle = [ORACLES[name](w, g) for w, g in zip(start.tolist(), columns, strict=True)]
    assert params.dtype == np.float32
    np.testing.assert_allclose(params, oracle, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(ORACLES))
@pytest.mark.parametrize("cuts", [[7, 8, 100], list(range(1, 193))])
def test_update_in_slices_has_the_bits_of_one_update(name, cuts):
    whole, whole_state = run(name, 193)
    sliced, sliced_state = run(name, 193, cuts)

    np.testing.assert_array_equal(sliced, whole)
    for key, vector in whole_state.items():
        np.testing.assert_array_equal(sliced_state[key], vector)


@pytest.mark.parametrize(
    ("name", "keys"), [("sgd", []), ("momentum", ["velocity"]), ("adam", ["mean", "square"])]
)
def test_update_in_place_has_the_bits_of_another_and_a_rate_of_zero_changes_nothing(name, keys):
    optimizer = by_name(name, 0.9)
    params, (gradient, *_) = vectors(7)
    state = optimizer.init(7)
    old_params, old_state = params.copy(), dict(state)
    assert sorted(state) == keys
    assert all(v.dtype == np.float32 and v.shape == (7,) and not v.any() for v in state.values())

    point = Point(params, state)
    optimizer.update(point, gradient.copy(), 0.0, 1, point)
    same = params.copy()
    out = Point(np.empty_like(params), optimizer.init(7))
    for target in (out, point):  # `out` first: the update must not change its point
        optimizer.update(point, gradient.copy(), RATE, 2, target)

    np.testing.assert_array_equal(same, old_params)
    assert (params != old_params).all()
    assert all(state[key] is vector for key, vector in old_state.items())
    np.testing.assert_array_equal(out.params, params)
    for key in keys:
        np.testing.assert_array_equal(out.state[key], state[key])


def test_momentum_without_decay_is_plain_descent():
    heavy, _ = run("momentum", 193, momentum_decay=0.0)
    plain, _ = run("sgd", 193)

    np.testing.assert_array_equal(heavy, plain)


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
