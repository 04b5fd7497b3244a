"""The three-layer perceptron and its gradient.

    z1 = x w1 + b1     h = f(z1)     z2 = h w2 + b2     o = output(z2)

    d2 = dE/dz2                     from the loss E
    d1 = dE/dz1 = (d2 w2^T) f'(z1)  errors propagate back through the transposed weights
    dw2 = h^T d2    db2 = sum d2    dw1 = x^T d1    db1 = sum d1

Dimensions, here and in every docstring: B images in a batch, D inputs (784 pixels of a digit), H
hidden units, C classes (10), S shards, W workers, P = D H + H + H C + C parameters.

References:
    Rumelhart, Hinton & Williams (1986), "Learning representations by back-propagating errors".
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nanograd.nn.activations import HIDDEN
from nanograd.nn.losses import LOSSES
from nanograd.runtime.arrays import Floats
from nanograd.runtime.randomness import INIT, stream


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Layers of a net."""

    inputs: int  # D
    hidden: int  # H
    classes: int  # C
    activation: str  # of the hidden layer: sigmoid, tanh or relu
    loss: str  # mse (sigmoid outputs) or cross_entropy (softmax outputs)

    def __post_init__(self) -> None:
        if self.activation not in HIDDEN or self.loss not in LOSSES:
            raise ValueError(f"unknown activation {self.activation!r} or loss {self.loss!r}")

    @property
    def num_parameters(self) -> int:
        """P, the number of parameters."""
        return (self.inputs + 1) * self.hidden + (self.hidden + 1) * self.classes


@dataclass(frozen=True)
class Params:
    """All parameters as one contiguous vector, with named views; a gradient has the same type."""

    vector: Floats = field(repr=False)  # (P,) float32; w1, b1, w2, b2 in this order
    architecture: Architecture  # gives D, H and C

    def __post_init__(self) -> None:
        if self.vector.shape != (self.architecture.num_parameters,):
            raise ValueError(
                f"{self.architecture.hidden} hidden units take {self.architecture.num_parameters} "
                f"parameters, not {self.vector.shape}"
            )

    @property
    def w1(self) -> Floats:
        """(D, H) weights of the hidden layer."""
        net = self.architecture
        return self.vector[: net.inputs * net.hidden].reshape(net.inputs, net.hidden)

    @property
    def b1(self) -> Floats:
        """(H,) biases of the hidden layer."""
        start = self.architecture.inputs * self.architecture.hidden
        return self.vector[start : start + self.architecture.hidden]

    @property
    def w2(self) -> Floats:
        """(H, C) weights of the output layer."""
        net = self.architecture
        start = (net.inputs + 1) * net.hidden
        return self.vector[start : -net.classes].reshape(net.hidden, net.classes)

    @property
    def b2(self) -> Floats:
        """(C,) biases of the output layer."""
        return self.vector[-self.architecture.classes :]


def init_params(architecture: Architecture, seed: int) -> Params:
    """Draw initial parameters: weights uniform in ±1/sqrt(fan_in), biases zero.

    A draw is the top 24 bits of a raw 64-bit number, which float32 represents exactly.

    References:
        LeCun, Bottou, Orr & Müller (1998), "Efficient backprop", section 4.6 (scale by fan-in).
    """
    params = Params(np.zeros(architecture.num_parameters, np.float32), architecture)
    generator = stream(seed, INIT)
    for weights in (params.w1, params.w2):
        draws = (generator.random_raw(weights.size) >> np.uint64(40)).astype(np.float32)
        uniform = draws * np.float32(2.0**-23) - np.float32(1)
        limit = np.float32(1 / np.sqrt(len(weights)))
        weights[...] = (uniform * limit).reshape(weights.shape)
    return params


def one_hot(labels: NDArray[np.integer], num_classes: int) -> NDArray[np.float32]:
    """Return (B,) labels 0 to C - 1 as (B, C) float32 rows with a single 1."""
    return np.asarray(np.eye(num_classes, dtype=np.float32)[labels])


@dataclass(frozen=True)
class Signals:
    """Outputs of the layers and error signals for a batch."""

    inputs: Floats  # (B, D) float32
    h: Floats  # (B, H) float32, hidden outputs
    d2: Floats  # (B, C) float32, dE/dz2
    d1: Floats  # (B, H) float32, dE/dz1
    losses: Floats  # (B,) float32, E of each image; no unit or nats


def forward(
    params: Params, inputs: Floats, parts: Sequence[slice] = (slice(None),)
) -> tuple[Floats, Floats]:
    """Compute the outputs of the net for a batch, before their activation (z2).

    Args:
        params: parameters of the net.
        inputs: (B, D) float32, prepared pixels.
        parts: slices of the rows, in order; together they cover each row once. Each part has its
            own matrix products, because the bits of a product depend on its number of rows. The
            bits of all other steps do not depend on it.

    Returns:
        h: (B, H) outputs of the hidden units.
        z2: (B, C) outputs before their activation.
    """
    z1 = _product(inputs, params.w1, parts)
    z1 += params.b1
    h = HIDDEN[params.architecture.activation].function(z1)
    z2 = _product(h, params.w2, parts)
    z2 += params.b2
    return h, z2


def predict(params: Params, inputs: Floats) -> Floats:
    """Compute the scores of (B, D) prepared pixels: (B, C) outputs in [0, 1]."""
    _, z2 = forward(params, inputs)
    return LOSSES[params.architecture.loss].output(z2)


def propagate(
    params: Params, inputs: Floats, targets: Floats, parts: Sequence[slice] = (slice(None),)
) -> Signals:
    """Compute the loss of each image and propagate its error back to the hidden layer.

    Besides the arguments of `forward`, it takes (B, C) targets. B may be 0. The rows of a part get
    the same bits as if the part were the whole batch.
    """
    h, z2 = forward(params, inputs, parts)
    losses, d2 = LOSSES[params.architecture.loss].gradient(z2, targets)
    d1 = _product(d2, params.w2.T, parts)
    d1 *= HIDDEN[params.architecture.activation].derivative(h)
    return Signals(inputs, h, d2, d1, losses)


def sum_gradients(signals: Signals, part: slice, out: Params) -> None:
    """Overwrite `out` with the gradient summed over the images of a part of the batch."""
    d2, d1 = signals.d2[part], signals.d1[part]
    np.matmul(signals.h[part].T, d2, out=out.w2)
    np.sum(d2, axis=0, out=out.b2)
    np.matmul(signals.inputs[part].T, d1, out=out.w1)
    np.sum(d1, axis=0, out=out.b1)


def _product(left: Floats, right: Floats, parts: Sequence[slice]) -> Floats:
    out = np.empty((len(left), right.shape[1]), left.dtype)
    for part in parts:
        np.matmul(left[part], right, out=out[part])
    return out
