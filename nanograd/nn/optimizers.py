"""Optimisers: SGD, momentum, Adam; and an exponential average of the parameters.

Parameters, gradients and optimiser state are vectors of the same length. Updates are elementwise,
so their bits do not depend on how the vector is sliced.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float32]
State: TypeAlias = dict[str, Vector]


class Point(NamedTuple):
    """The parameters, and the state of the optimiser."""

    params: Vector
    state: State


class Optimizer(NamedTuple):
    """The functions of an optimiser.

    `init(num_parameters)` returns its state. `update(point, gradient, learning_rate, step, out)`
    writes the next point (parameters and state) to `out`, which may be `point`; step counts from 1.
    `update` also overwrites the gradient, with intermediate results.
    """

    init: Callable[[int], State]
    update: Callable[[Point, Vector, float, int, Point], None]


def sgd() -> Optimizer:
    """Return plain gradient descent: w <- w - lr g."""

    def update(point: Point, gradient: Vector, rate: float, step: int, out: Point) -> None:
        gradient *= np.float32(rate)
        np.subtract(point.params, gradient, out=out.params)

    return Optimizer(lambda num_parameters: {}, update)


def momentum(decay: float = 0.9) -> Optimizer:
    """Return gradient descent with momentum: v <- decay v + g;  w <- w - lr v.

    References:
        Polyak (1964), "Some methods of speeding up the convergence of iteration methods";
        Sutskever, Martens, Dahl & Hinton (2013), section 2.
    """

    def init(num_parameters: int) -> State:
        return {"velocity": np.zeros(num_parameters, np.float32)}

    def update(point: Point, gradient: Vector, rate: float, step: int, out: Point) -> None:
        velocity = out.state["velocity"]
        np.multiply(point.state["velocity"], np.float32(decay), out=velocity)
        velocity += gradient
        np.multiply(velocity, np.float32(rate), out=gradient)
        np.subtract(point.params, gradient, out=out.params)

    return Optimizer(init, update)


def adam(beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> Optimizer:
    """Return Adam: steps scaled by running means of the gradient and of its square.

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  w <- w - lr m^ / (sqrt(v^) + epsilon)
    with m^ = m / (1 - b1^t) and v^ = v / (1 - b2^t).

    References:
        Kingma & Ba (2015), "Adam: a method for stochastic optimization", algorithm 1,
        computed as at the end of section 2: w <- w - lr' m / (sqrt(v) + epsilon') with
        lr' = lr sqrt(1 - b2^t) / (1 - b1^t) and epsilon' = epsilon sqrt(1 - b2^t).
    """

    def init(num_parameters: int) -> State:
        zeros = np.zeros(num_parameters, np.float32)
        return {"mean": zeros, "square": zeros.copy()}

    def update(point: Point, gradient: Vector, rate: float, step: int, out: Point) -> None:
        mean, square = out.state["mean"], out.state["square"]
        np.multiply(point.state["mean"], np.float32(beta1), out=mean)
        mean += np.float32(1 - beta1) * gradient
        np.multiply(point.state["square"], np.float32(beta2), out=square)
        gradient *= gradient
        gradient *= np.float32(1 - beta2)
        square += gradient
        correction2 = np.sqrt(1 - beta2**step)
        np.sqrt(square, out=gradient)
        gradient += np.float32(epsilon * correction2)
        np.divide(mean, gradient, out=gradient)
        gradient *= np.float32(rate * correction2 / (1 - beta1**step))
        np.subtract(point.params, gradient, out=out.params)

    return Optimizer(init, update)


def update_average(average: Vector, params: Vector, decay: float, step: int, out: Vector) -> None:
    """Write the next exponential average of the parameters to `out`, which may be `average`.

    out = d average + (1 - d) params, with d = min(decay, step / (step + 10)), so that the average
    soon forgets the first steps; step counts from 1.

    References:
        Polyak & Juditsky (1992), "Acceleration of stochastic approximation by averaging".
    """
    share = np.float32(1 - min(decay, step / (step + 10)))
    np.add(average, share * (params - average), out=out)


def by_name(name: str, momentum_decay: float) -> Optimizer:
    """Return the optimiser sgd, momentum or adam."""
    return {"sgd": sgd(), "momentum": momentum(momentum_decay), "adam": adam()}[name]
