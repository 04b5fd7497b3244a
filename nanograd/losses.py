"""How wrong the outputs are, and which way to push: mean squared error and cross-entropy.

A loss owns the output activation it belongs to, so that its gradient can be taken with respect to
the output *pre-activation* z2, where it is simple and stable. Both are summed over the batch: the
parameter server divides once, by the number of images of the whole round, so that shards of
unequal size weigh right.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nanograd.activations import FloatArray, below_largest, sigmoid, sigmoid_derivative, softmax


class Loss(NamedTuple):
    """An output activation, and the loss on it as a function of (z2, targets)."""

    output: Callable[[FloatArray], FloatArray]
    gradient: Callable[[FloatArray, FloatArray], tuple[float, FloatArray]]


def squared_error(z2: FloatArray, targets: FloatArray) -> tuple[float, FloatArray]:
    """Squared error of sigmoid outputs, summed over classes and images, and its gradient.

    E = sum_bk (t - o)^2 with o = sigmoid(z2);  dE/dz2 = 2 (o - t) o (1 - o)

    Args:
        z2: (B, C) float32, output pre-activations.
        targets: (B, C) float32, one-hot.

    Returns:
        loss: >= 0, no unit; divide by B for the mean squared error.
        gradient: (B, C) float32, d loss / d z2.

    Raises:
        ValueError: the shapes differ.
    """
    _check_shapes(z2, targets)
    outputs = sigmoid(z2)
    error = outputs - targets
    loss = float(np.einsum("bk,bk->", error, error, dtype=np.float64))
    return loss, 2 * error * sigmoid_derivative(outputs)


def cross_entropy(z2: FloatArray, targets: FloatArray) -> tuple[float, FloatArray]:
    """Cross-entropy of softmax outputs, summed over images, and its gradient.

    E = -sum_bk t log o = sum_b (log sum_j exp z_bj - sum_k t_bk z_bk)  with o = softmax(z2)
    dE/dz2 = o - t

    Args:
        z2: (B, C) float32, output pre-activations (logits).
        targets: (B, C) float32, each row sums to 1.

    Returns:
        loss: >= 0, in nats; divide by B for the mean.
        gradient: (B, C) float32, d loss / d z2.

    Raises:
        ValueError: the shapes differ.

    References:
        Bishop (2006), "Pattern recognition and machine learning", eq. 4.109.
    """
    _check_shapes(z2, targets)
    shifted = below_largest(z2)
    e = np.exp(shifted)
    total = e.sum(axis=1, keepdims=True)
    loss = float(np.log(total).sum(dtype=np.float64)) - float(
        np.einsum("bk,bk->", targets, shifted, dtype=np.float64)
    )
    return loss, e / total - targets


def _check_shapes(z2: FloatArray, targets: FloatArray) -> None:
    if z2.shape != targets.shape:
        raise ValueError(f"outputs {z2.shape} and targets {targets.shape} differ in shape")


LOSSES = {"mse": Loss(sigmoid, squared_error), "cross_entropy": Loss(softmax, cross_entropy)}
