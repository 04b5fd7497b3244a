"""The three-layer perceptron: 784 inputs, one hidden layer, 10 outputs, and its gradient by hand.

    z1 = x w1 + b1     h = f(z1)     z2 = h w2 + b2     o = output(z2)

    d2 = dE/dz2                     from the loss
    d1 = dE/dz1 = (d2 w2^T) f'(h)   errors flow back through the transposed weights
    dw2 = h^T d2    db2 = sum d2    dw1 = x^T d1    db1 = sum d1

Dimensions, here and in every docstring: B images in a batch, D = 784 inputs, H hidden units,
C = 10 classes, S shards, W workers, P = D H + H + H C + C parameters.

References:
    Rumelhart, Hinton & Williams (1986), "Learning representations by back-propagating errors".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanograd.nn.activations import HIDDEN, FloatArray
from nanograd.nn.losses import LOSSES
from nanograd.runtime.randomness import INIT, stream

NUM_INPUTS = 784
NUM_CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The shape of a net: what its parameter vector means.

    Args:
        hidden: H, number of hidden units.
        activation: of the hidden layer: sigmoid, tanh or relu.
        loss: mse (sigmoid outputs) or cross_entropy (softmax outputs).
        inputs: D; other than 784 in `nanograd.sklearn` alone, as is C.
        classes: C.
    """

    hidden: int
    activation: str
    loss: str
    inputs: int = NUM_INPUTS
    classes: int = NUM_CLASSES

    def __post_init__(self) -> None:
        if self.activation not in HIDDEN or self.loss not in LOSSES:
            raise ValueError(f"unknown activation {self.activation!r} or loss {self.loss!r}")

    @property
    def num_parameters(self) -> int:
        """P."""
        return (self.inputs + 1) * self.hidden + (self.hidden + 1) * self.classes

    def params(self, vector: FloatArray) -> "Params":
        """The named views on a parameter vector or a gradient."""
        return Params(vector, self.hidden, self.inputs, self.classes)


@dataclass(frozen=True)
class Params:
    """All parameters as one contiguous vector, with named views on it; a gradient is the same.

    Args:
        vector: (P,) float32; w1, b1, w2, b2 one after the other.
        hidden: H.
        inputs: D.
        classes: C.

    Raises:
        ValueError: the vector's length does not fit D, H and C.
    """

    vector: FloatArray
    hidden: int
    inputs: int = NUM_INPUTS
    classes: int = NUM_CLASSES

    def __post_init__(self) -> None:
        expected = (self.inputs + 1) * self.hidden + (self.hidden + 1) * self.classes
        if self.vector.shape != (expected,):
            raise ValueError(
                f"{self.hidden} hidden units take {expected} parameters, not {self.vector.shape}"
            )

    @property
    def w1(self) -> FloatArray:
        """(D, H) weights into the hidden layer, a view."""
        return self.vector[: self.inputs * self.hidden].reshape(self.inputs, self.hidden)

    @property
    def b1(self) -> FloatArray:
        """(H,) biases of the hidden layer, a view."""
        start = self.inputs * self.hidden
        return self.vector[start : start + self.hidden]

    @property
    def w2(self) -> FloatArray:
        """(H, C) weights into the output layer, a view."""
        start = (self.inputs + 1) * self.hidden
        return self.vector[start : -self.classes].reshape(self.hidden, self.classes)

    @property
    def b2(self) -> FloatArray:
        """(C,) biases of the output layer, a view."""
        return self.vector[-self.classes :]


def init_params(architecture: Architecture, seed: int) -> Params:
    """Random initial parameters: uniform in ±1/sqrt(fan_in), biases zero.

    The draws are the top 24 bits of raw 64-bit output, exact in float32.

    Args:
        architecture: gives D, H and C.
        seed: 0 to 2**63 - 1.

    Returns:
        Params of float32.

    References:
        LeCun, Bottou, Orr & Müller (1998), "Efficient backprop", section 4.6 (scale by fan-in).
    """
    params = architecture.params(np.zeros(architecture.num_parameters, np.float32))
    generator = stream(seed, INIT)
    for weights in (params.w1, params.w2):
        draws = (generator.random_raw(weights.size) >> np.uint64(40)).astype(np.float32)
        uniform = draws * np.float32(2.0**-23) - np.float32(1)
        limit = np.float32(1 / np.sqrt(len(weights)))
        weights[...] = (uniform * limit).reshape(weights.shape)
    return params


def one_hot(labels: NDArray[np.integer], classes: int = NUM_CLASSES) -> NDArray[np.float32]:
    """(B,) labels 0 to C - 1 as (B, C) float32 rows with a single 1."""
    return np.asarray(np.eye(classes, dtype=np.float32)[labels])


@dataclass(frozen=True)
class Signals:
    """What flows through the net for a batch: outputs of each layer forward, errors back.

    Args:
        inputs: (B, D) float32.
        h: (B, H) float32, hidden outputs.
        d2: (B, C) float32, dE/dz2.
        d1: (B, H) float32, dE/dz1.
        losses: (B,) float32, E of each image; no unit or nats.
    """

    inputs: FloatArray
    h: FloatArray
    d2: FloatArray
    d1: FloatArray
    losses: FloatArray


def forward(
    architecture: Architecture,
    params: Params,
    inputs: FloatArray,
    parts: Sequence[slice] = (slice(None),),
) -> tuple[FloatArray, FloatArray]:
    """From pixels to output pre-activations.

    Args:
        architecture: which hidden activation.
        params: the net.
        inputs: (B, D) float32, prepared pixels.
        parts: rows that are multiplied together; all rows once, in order. The bits of a matrix
            product depend on its shape, those of every other step do not.

    Returns:
        h: (B, H) hidden outputs.
        z2: (B, C) output pre-activations.
    """
    z1 = _product(inputs, params.w1, parts)
    z1 += params.b1
    h = HIDDEN[architecture.activation].function(z1)
    z2 = _product(h, params.w2, parts)
    z2 += params.b2
    return h, z2


def predict(architecture: Architecture, params: Params, inputs: FloatArray) -> FloatArray:
    """Ten scores an image: (B, D) prepared pixels to (B, C) outputs, each in [0, 1]."""
    _, z2 = forward(architecture, params, inputs)
    return LOSSES[architecture.loss].output(z2)


def propagate(
    architecture: Architecture,
    params: Params,
    inputs: FloatArray,
    targets: FloatArray,
    parts: Sequence[slice] = (slice(None),),
) -> Signals:
    """Forward to the loss of each image, and the errors back to the hidden layer.

    Args:
        architecture: activation and loss.
        params: the net.
        inputs: (B, D) float32, prepared pixels; B may be 0.
        targets: (B, C) float32, one-hot.
        parts: rows that are multiplied together, as in `forward`; what comes out for the rows of
            a part is what the part alone would give, bit for bit.
    """
    h, z2 = forward(architecture, params, inputs, parts)
    losses, d2 = LOSSES[architecture.loss].gradient(z2, targets)
    d1 = _product(d2, params.w2.T, parts)
    d1 *= HIDDEN[architecture.activation].derivative(h)
    return Signals(inputs, h, d2, d1, losses)


def sum_gradients(signals: Signals, part: slice, out: Params) -> None:
    """The gradient with respect to every parameter, summed over some images, into `out`.

    Args:
        signals: of a batch.
        part: which of its images.
        out: as the parameters; overwritten.
    """
    d2, d1 = signals.d2[part], signals.d1[part]
    np.matmul(signals.h[part].T, d2, out=out.w2)
    np.sum(d2, axis=0, out=out.b2)
    np.matmul(signals.inputs[part].T, d1, out=out.w1)
    np.sum(d1, axis=0, out=out.b1)


def loss_and_gradients(
    architecture: Architecture, params: Params, inputs: FloatArray, targets: FloatArray
) -> tuple[float, Params]:
    """The loss summed over a batch, and its gradient with respect to every parameter.

    Args:
        architecture: activation and loss.
        params: the net.
        inputs: (B, D) float32, prepared pixels; B may be 0.
        targets: (B, C) float32, one-hot.

    Returns:
        loss: sum over the batch (not the mean), no unit or nats.
        gradient: of the same type as the parameters.
    """
    signals = propagate(architecture, params, inputs, targets)
    gradient = architecture.params(np.empty_like(params.vector))
    sum_gradients(signals, slice(None), gradient)
    return float(signals.losses.sum(dtype=np.float64)), gradient


def _product(left: FloatArray, right: FloatArray, parts: Sequence[slice]) -> FloatArray:
    out = np.empty((len(left), right.shape[1]), left.dtype)
    for part in parts:
        np.matmul(left[part], right, out=out[part])
    return out
