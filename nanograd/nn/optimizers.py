"""Optimisers: SGD, momentum, Adam; and an exponential average of the parameters.

Parameters, gradients and optimiser state are vectors of the same length. Updates are elementwise,
so their bits do not depend on how the vector is sliced.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float32]
Arrays: TypeAlias = Mapping[str, Vector]


class Optimizer(NamedTuple):
    """An optimiser: the names of the vectors that are its state, first 0, and its update.

    `update(old, gradient, learning_rate, step, new)` writes the next parameters, `vector`, and the
    next state into the arrays `new`, which may be `old`; step counts from 1. `update` also
    overwrites the gradient, with intermediate results.
    """

    names: Sequence[str]
    update: Callable[[Arrays, Vector, float, int, Arrays], None]


def sgd() -> Optimizer:
    """Return plain gradient descent: w <- w - lr g."""

    def update(old: Arrays, gradient: Vector, rate: float, step: int, new: Arrays) -> None:
        gradient *= np.float32(rate)
        np.subtract(old["vector"], gradient, out=new["vector"])

    return Optimizer((), update)


def momentum(decay: float = 0.9) -> Optimizer:
    """Return gradient descent with momentum: v <- decay v + g;  w <- w - lr v.

    References:
        Polyak (1964), "Some methods of speeding up the convergence of iteration methods";
        Sutskever, Martens, Dahl & Hinton (2013), section 2.
    """

    def update(old: Arrays, gradient: Vector, rate: float, step: int, new: Arrays) -> None:
        velocity = new["state.velocity"]
        np.multiply(old["state.velocity"], np.float32(decay), out=velocity)
        velocity += gradient
        np.multiply(velocity, np.float32(rate), out=gradient)
        np.subtract(old["vector"], gradient, out=new["vector"])

    return Optimizer(["state.velocity"], update)


def adam(beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> Optimizer:
    """Return Adam: steps scaled by moving averages of the gradient and of its square.

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  w <- w - lr m' / (sqrt(v') + epsilon)
    with m' = m / (1 - b1^t) and v' = v / (1 - b2^t).

    References:
        Kingma & Ba (2015), "Adam: a method for stochastic optimization", algorithm 1,
        computed as at the end of section 2: w <- w - lr' m / (sqrt(v) + epsilon') with
        lr' = lr sqrt(1 - b2^t) / (1 - b1^t) and epsilon' = epsilon sqrt(1 - b2^t).
    """

    def update(old: Arrays, gradient: Vector, rate: float, step: int, new: Arrays) -> None:
        mean, square = new["state.mean"], new["state.square"]
        np.multiply(old["state.mean"], np.float32(beta1), out=mean)
        mean += np.float32(1 - beta1) * gradient
        np.multiply(old["state.square"], np.float32(beta2), out=square)
        gradient *= gradient
        gradient *= np.float32(1 - beta2)
        square += gradient
        correction2 = np.sqrt(1 - beta2**step)
        np.sqrt(square, out=gradient)
        gradient += np.float32(epsilon * correction2)
        np.divide(mean, gradient, out=gradient)
        gradient *= np.float32(rate * correction2 / (1 - beta1**step))
        np.subtract(old["vector"], gradient, out=new["vector"])

    return Optimizer(["state.mean", "state.square"], update)


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
