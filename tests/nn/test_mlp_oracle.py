"""The gradient against an independent scalar autograd, as in micrograd."""

import math
from functools import reduce
from operator import add

import numpy as np
import pytest

from nanograd.nn.activations import HIDDEN
from nanograd.nn.losses import LOSSES
from nanograd.nn.mlp import Architecture, Params, one_hot
from tests.helpers.gradients import loss_and_gradients

HIDDEN_UNITS = 3


class Value:
    tape: list["Value"]

    def __init__(self, data: float, parents: tuple[tuple["Value", float], ...] = ()) -> None:
        self.data, self.parents, self.slope = data, parents, 0.0
        Value.tape.append(self)

    def __add__(self, other: "Value") -> "Value":
        return Value(self.data + other.data, ((self, 1.0), (other, 1.0)))

    def __mul__(self, other: "Value") -> "Value":
        return Value(self.data * other.data, ((self, other.data), (other, self.data)))

    def minus(self, number: float) -> "Value":
        return Value(self.data - number, ((self, 1.0),))

    def times(self, number: float) -> "Value":
        return Value(self.data * number, ((self, number),))

    def exp(self) -> "Value":
        e = math.exp(self.data)
        return Value(e, ((self, e),))

    def log(self) -> "Value":
        return Value(math.log(self.data), ((self, 1 / self.data),))

    def inverse(self) -> "Value":
        return Value(1 / self.data, ((self, -1 / self.data**2),))

    def relu(self) -> "Value":
        return Value(max(self.data, 0.0), ((self, float(self.data > 0)),))

    def backward(self) -> None:
        self.slope = 1.0
        for value in reversed(Value.tape):  # in reverse order of computation
            for parent, slope in value.parents:
                parent.slope += slope * value.slope


def sigmoid(z: Value) -> Value:
    return z.times(-1.0).exp().minus(-1.0).inverse()


def tanh(z: Value) -> Value:
    return sigmoid(z.times(2.0)).times(2.0).minus(1.0)


ACTIVATIONS = {"sigmoid": sigmoid, "tanh": tanh, "relu": Value.relu}


def loss_of_image(
    values: list[Value], pixels: list[float], label: int, activation: str, loss: str
) -> Value:
    """Compute the loss of one image; the values are w1, b1, w2, b2, row by row."""
    b1, w2 = 784 * HIDDEN_UNITS, 785 * HIDDEN_UNITS
    b2 = w2 + HIDDEN_UNITS * 10
    hidden = []
    for j in range(HIDDEN_UNITS):
        terms = [values[i * HIDDEN_UNITS + j].times(x) for i, x in enumerate(pixels)]
        hidden.append(ACTIVATIONS[activation](reduce(add, [*terms, values[b1 + j]])))
    logits = []
    for k in range(10):
        terms = [h * values[w2 + j * 10 + k] for j, h in enumerate(hidden)]
        logits.append(reduce(add, [*terms, values[b2 + k]]))
    if loss == "mse":
        errors = [sigmoid(z).minus(float(k == label)) for k, z in enumerate(logits)]
        return reduce(add, [error * error for error in errors])
    return reduce(add, [z.exp() for z in logits]).log() + logits[label].times(-1.0)


@pytest.mark.parametrize("activation", sorted(HIDDEN))
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_loss_and_gradient_equal_a_scalar_autograd(activation, loss):
    Value.tape = []
    generator = np.random.default_rng(7)
    vector = generator.uniform(-0.3, 0.3, 785 * HIDDEN_UNITS + 10 * HIDDEN_UNITS + 10)
    inputs = generator.uniform(0, 0.2, (2, 784))
    labels = np.array([3, 7], np.uint8)
    architecture = Architecture(
        inputs=784, hidden=HIDDEN_UNITS, classes=10, activation=activation, loss=loss
    )

    actual_loss, actual = loss_and_gradients(
        Params(vector, architecture), inputs, one_hot(labels, 10).astype(np.float64)
    )

    values = [Value(number) for number in vector.tolist()]
    images = zip(inputs.tolist(), labels.tolist(), strict=True)
    losses = [loss_of_image(values, x, label, activation, loss) for x, label in images]
    expected = reduce(add, losses)
    expected.backward()
    assert actual.vector.dtype == np.float64
    assert actual_loss == pytest.approx(expected.data, rel=1e-12)
    np.testing.assert_allclose(
        actual.vector, [value.slope for value in values], rtol=1e-9, atol=1e-13
    )
