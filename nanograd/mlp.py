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

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanograd.activations import HIDDEN, FloatArray
from nanograd.losses import LOSSES
from nanograd.randomness import INIT, stream

NUM_INPUTS = 784
NUM_CLASSES = 10

_ONE_HOT = np.eye(NUM_CLASSES, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The shape of a net: what its parameter vector means.

    Args:
        hidden: H, number of hidden units.
        activation: of the hidden layer: sigmoid, tanh or relu.
        loss: mse (sigmoid outputs) or cross_entropy (softmax outputs).
    """

    hidden: int
    activation: str
    loss: str

    def __post_init__(self) -> None:
        if self.activation not in HIDDEN or self.loss not in LOSSES:
            raise ValueError(f"unknown activation {self.activation!r} or loss {self.loss!r}")

    @property
    def num_parameters(self) -> int:
        """P."""
        return (NUM_INPUTS + 1) * self.hidden + (self.hidden + 1) * NUM_CLASSES


@dataclass(frozen=True)
class Params:
    """All parameters as one contiguous vector, with named views on it; a gradient is the same.

    Args:
        vector: (P,) float32; w1, b1, w2, b2 one after the other.
        hidden: H.

    Raises:
        ValueError: the vector's length does not fit H.
    """

    vector: FloatArray
    hidden: int

    def __post_init__(self) -> None:
        expected = (NUM_INPUTS + 1) * self.hidden + (self.hidden + 1) * NUM_CLASSES
        if self.vector.shape != (expected,):
            raise ValueError(
                f"{self.hidden} hidden units take {expected} parameters, not {self.vector.shape}"
            )

    @property
    def w1(self) -> FloatArray:
        """(D, H) weights into the hidden layer, a view."""
        return self.vector[: NUM_INPUTS * self.hidden].reshape(NUM_INPUTS, self.hidden)

    @property
    def b1(self) -> FloatArray:
        """(H,) biases of the hidden layer, a view."""
        start = NUM_INPUTS * self.hidden
        return self.vector[start : start + self.hidden]

    @property
    def w2(self) -> FloatArray:
        """(H, C) weights into the output layer, a view."""
        start = (NUM_INPUTS + 1) * self.hidden
        return self.vector[start:-NUM_CLASSES].reshape(self.hidden, NUM_CLASSES)

    @property
    def b2(self) -> FloatArray:
        """(C,) biases of the output layer, a view."""
        return self.vector[-NUM_CLASSES:]


def init_params(architecture: Architecture, seed: int) -> Params:
    """Random initial parameters: uniform in ±1/sqrt(fan_in), biases zero.

    The draws are the top 24 bits of raw 64-bit output, exact in float32.

    Args:
        architecture: gives H.
        seed: 0 to 2**63 - 1.

    Returns:
        Params of float32.

    References:
        LeCun, Bottou, Orr & Müller (1998), "Efficient backprop", section 4.6 (scale by fan-in).
    """
    params = Params(np.zeros(architecture.num_parameters, np.float32), architecture.hidden)
    generator = stream(seed, INIT)
    for weights in (params.w1, params.w2):
        draws = (generator.random_raw(weights.size) >> np.uint64(40)).astype(np.float32)
        uniform = draws * np.float32(2.0**-23) - np.float32(1)
        limit = np.float32(1 / np.sqrt(len(weights)))
        weights[...] = (uniform * limit).reshape(weights.shape)
    return params


def one_hot(labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(B,) labels 0 to 9 as (B, C) float32 rows with a single 1."""
    return _ONE_HOT[labels]


def forward(
    architecture: Architecture, params: Params, inputs: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """From pixels to output pre-activations.

    Args:
        architecture: which hidden activation.
        params: the net.
        inputs: (B, D) float32, prepared pixels.

    Returns:
        h: (B, H) hidden outputs.
        z2: (B, C) output pre-activations.
    """
    h = HIDDEN[architecture.activation].function(inputs @ params.w1 + params.b1)
    return h, h @ params.w2 + params.b2


def predict(architecture: Architecture, params: Params, inputs: FloatArray) -> FloatArray:
    """Ten scores an image: (B, D) prepared pixels to (B, C) outputs, each in [0, 1]."""
    _, z2 = forward(architecture, params, inputs)
    return LOSSES[architecture.loss].output(z2)


def loss_and_gradients(
    architecture: Architecture,
    params: Params,
    inputs: FloatArray,
    targets: FloatArray,
    out: Params | None = None,
) -> tuple[float, Params]:
    """The loss summed over a batch, and its gradient with respect to every parameter.

    Args:
        architecture: activation and loss.
        params: the net.
        inputs: (B, D) float32, prepared pixels; B may be 0.
        targets: (B, C) float32, one-hot.
        out: where the gradient goes, if it should not be a new vector.

    Returns:
        loss: sum over the batch (not the mean), no unit or nats.
        gradient: of the same type as the parameters; `out` if that was given.
    """
    gradient = out or Params(np.empty_like(params.vector), params.hidden)
    h, z2 = forward(architecture, params, inputs)
    loss, d2 = LOSSES[architecture.loss].gradient(z2, targets)
    d1 = (d2 @ params.w2.T) * HIDDEN[architecture.activation].derivative(h)
    np.matmul(h.T, d2, out=gradient.w2)
    np.sum(d2, axis=0, out=gradient.b2)
    np.matmul(inputs.T, d1, out=gradient.w1)
    np.sum(d1, axis=0, out=gradient.b1)
    return loss, gradient
