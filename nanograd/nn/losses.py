"""Loss functions: mean squared error and cross-entropy.

Each loss includes its output activation, because the gradient with respect to z2, the outputs
before this activation, is simple and numerically stable. Losses are not averaged over the batch.
The parameter server divides by the number of images in the round, so every image has equal weight
even if shards have different sizes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nanograd.nn.activations import sigmoid, sigmoid_derivative, softmax, subtract_max
from nanograd.runtime.arrays import Floats


class Loss(NamedTuple):
    """An output activation, and the function of (z2, targets) that returns losses and gradient.

    z2 has the outputs before the activation, (B, C) float32. Targets are (B, C) float32; each row
    sums to 1. The losses are (B,) float32, >= 0. The gradient dE/dz2 is (B, C) float32. If the
    shapes of z2 and targets differ, the function raises ValueError.
    """

    output: Callable[[Floats], Floats]
    gradient: Callable[[Floats, Floats], tuple[Floats, Floats]]


def precise_sigmoid(z2: Floats) -> Floats:
    """Compute sigmoid(z2), in full precision, even if the result is near 0.

    `sigmoid` has steps of 6e-8 near 0, but a temperature above 1 enlarges small scores. Training
    uses `sigmoid`, because its gradient needs no more digits.
    """
    return np.asarray(1 / (1 + np.exp(-np.maximum(z2, -80))))  # so that exp does not overflow


def squared_error(z2: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Compute the squared error of sigmoid outputs, summed over classes, and its gradient.

    E_b = sum_k (t - o)^2 with o = sigmoid(z2);  dE/dz2 = 2 (o - t) o (1 - o)
    """
    _check_shapes(z2, targets)
    outputs = sigmoid(z2)
    error = outputs - targets
    return (error * error).sum(axis=1), 2 * error * sigmoid_derivative(outputs)


def cross_entropy(z2: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Compute the cross-entropy of softmax outputs, in nats, and its gradient.

    E_b = -sum_k t log o = log sum_j exp z_j - sum_k t_k z_k  with o = softmax(z2);  dE/dz2 = o - t

    References:
        Bishop (2006), "Pattern recognition and machine learning", eq. 4.109.
    """
    _check_shapes(z2, targets)
    shifted = subtract_max(z2)
    e = np.exp(shifted)
    total = e.sum(axis=1, keepdims=True)
    losses = np.log(total)[:, 0] - (targets * shifted).sum(axis=1)
    return losses, e / total - targets


def _check_shapes(z2: Floats, targets: Floats) -> None:
    if z2.shape != targets.shape:
        raise ValueError(f"outputs {z2.shape} and targets {targets.shape} differ in shape")


LOSSES = {
    "mse": Loss(precise_sigmoid, squared_error),
    "cross_entropy": Loss(softmax, cross_entropy),
}
