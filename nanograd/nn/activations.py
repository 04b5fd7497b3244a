"""Activation functions: sigmoid, tanh, relu, softmax.

Each derivative is a function of the activation's *output*, which the forward pass has computed.
All keep the dtype of their input and raise no overflow warning for finite input.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nanograd.runtime.arrays import Floats


class Activation(NamedTuple):
    """A function of the pre-activations and its derivative as a function of its output."""

    function: Callable[[Floats], Floats]
    derivative: Callable[[Floats], Floats]


def sigmoid(z: Floats) -> Floats:
    """Compute 1 / (1 + exp(-z)) elementwise; same shape and dtype, in [0, 1].

    The form used, (1 + tanh(z / 2)) / 2, is the same function and cannot overflow.

    >>> sigmoid(np.float32([-1000, 0, 1000])).tolist()
    [0.0, 0.5, 1.0]
    """
    half = z.dtype.type(0.5)
    return np.asarray(np.tanh(z * half) * half + half)


def sigmoid_derivative(output: Floats) -> Floats:
    """Compute o (1 - o) for o = sigmoid(z)."""
    return output * (1 - output)


def relu(z: Floats) -> Floats:
    """Compute max(z, 0) elementwise; same shape and dtype.

    References:
        Nair & Hinton (2010), "Rectified linear units improve restricted Boltzmann machines".
    """
    return np.maximum(z, z.dtype.type(0))


def softmax(z: Floats) -> Floats:
    """Compute exp(z_k) / sum_j exp(z_j) for each row of (B, C); a row of the result sums to 1.

    >>> softmax(np.float32([[1000, 1000]])).tolist()
    [[0.5, 0.5]]
    """
    e = np.exp(subtract_max(z))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def subtract_max(z: Floats) -> Floats:
    """Subtract from each row its maximum; the result is <= 0 and finite.

    This keeps exp from overflowing and does not change the softmax.
    """
    with np.errstate(over="ignore"):
        difference = z - z.max(axis=1, keepdims=True)
    return np.asarray(np.maximum(difference, np.finfo(z.dtype).min))


HIDDEN = {
    "sigmoid": Activation(sigmoid, sigmoid_derivative),
    "tanh": Activation(np.tanh, lambda output: 1 - output * output),
    "relu": Activation(relu, lambda output: (output > 0).astype(output.dtype)),
}
