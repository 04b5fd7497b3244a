import math
from collections.abc import Callable

import numpy as np
import pytest

from nanograd.nn.activations import (
    HIDDEN,
    FloatArray,
    relu,
    relu_derivative,
    sigmoid,
    softmax,
    tanh,
)

Function = Callable[[FloatArray], FloatArray]

FUNCTIONS = [sigmoid, tanh, relu, softmax]
ELEMENTWISE = [sigmoid, tanh, relu]
DTYPES = [np.float32, np.float64]
SHAPES = [(0, 10), (1, 1), (7, 10), (193, 3)]


def draws(shape: tuple[int, ...], dtype: type, scale: float = 3.0) -> FloatArray:
    z = np.random.default_rng(7).normal(0, scale, shape).astype(dtype)
    z.flags.writeable = False
    return z


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_activation_keeps_dtype_and_shape(
    function: Function, dtype: type, shape: tuple[int, int]
) -> None:
    output = function(draws(shape, dtype))

    assert output.dtype == dtype
    assert output.shape == shape


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activation_leaves_its_input_unchanged(function: Function, dtype: type) -> None:
    z = draws((7, 10), dtype)
    before = z.tobytes()

    output = function(z)

    assert z.tobytes() == before
    assert not np.shares_memory(output, z)
    assert output.dtype == dtype


@pytest.mark.parametrize(("dtype", "atol"), [(np.float32, 1e-7), (np.float64, 1e-15)])
def test_sigmoid_equals_its_definition(dtype: type, atol: float) -> None:
    z = np.linspace(-30, 30, 193).astype(dtype)

    output = sigmoid(z)

    assert output.dtype == dtype
    oracle = [1 / (1 + math.exp(-value)) for value in z.tolist()]
    np.testing.assert_allclose(output, oracle, rtol=0, atol=atol)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-6), (np.float64, 1e-14)])
def test_tanh_equals_its_definition(dtype: type, rtol: float) -> None:
    z = np.linspace(-9, 9, 193).astype(dtype)

    output = tanh(z)

    assert output.dtype == dtype
    np.testing.assert_allclose(output, [math.tanh(value) for value in z.tolist()], rtol=rtol)


def test_relu_replaces_negative_values_by_zero() -> None:
    output = relu(np.float32([-2, -0.0, 0, 1e-30, 7]))

    assert output.dtype == np.float32
    assert output.tolist() == [0, 0, 0, float(np.float32(1e-30)), 7]


def test_relu_has_no_slope_at_the_kink() -> None:
    slope = relu_derivative(np.float32([0, 1e-30, 7]))

    assert slope.dtype == np.float32
    assert slope.tolist() == [0, 1, 1]


@pytest.mark.parametrize("name", sorted(HIDDEN))
def test_derivative_equals_the_slope_between_neighbours(name: str) -> None:
    activation, step = HIDDEN[name], 1e-6
    z = draws((193,), np.float64)

    slope = activation.derivative(activation.function(z))

    rise = activation.function(z + step) - activation.function(z - step)
    assert slope.dtype == np.float64
    np.testing.assert_allclose(slope, rise / (2 * step), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", sorted(HIDDEN))
@pytest.mark.parametrize("dtype", DTYPES)
def test_derivative_keeps_dtype_and_leaves_its_input_unchanged(name: str, dtype: type) -> None:
    output = HIDDEN[name].function(draws((7, 3), dtype))
    output.flags.writeable = False
    before = output.tobytes()

    slope = HIDDEN[name].derivative(output)

    assert slope.dtype == dtype
    assert output.tobytes() == before


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 3e-6), (np.float64, 1e-13)])
def test_softmax_equals_its_definition(dtype: type, rtol: float) -> None:
    z = draws((7, 10), dtype)

    output = softmax(z)

    exponentials = [[math.exp(value) for value in row] for row in z.tolist()]
    oracle = [[e / sum(row) for e in row] for row in exponentials]
    assert output.dtype == dtype
    np.testing.assert_allclose(output, oracle, rtol=rtol)


def test_softmax_rows_sum_to_one() -> None:
    output = softmax(draws((193, 10), np.float32, scale=30))

    assert output.dtype == np.float32
    assert output.min() >= 0
    np.testing.assert_allclose(output.sum(axis=1), np.ones(193), rtol=1e-6)


def test_softmax_does_not_depend_on_a_shift_of_the_row() -> None:
    z = np.float32([[1, 2, 4], [0, 0, 8]])

    output, shifted = softmax(z), softmax(z + np.float32([[64], [-1024]]))

    assert shifted.dtype == np.float32
    np.testing.assert_array_equal(shifted, output)


@pytest.mark.parametrize("function", ELEMENTWISE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activation_of_the_largest_numbers_is_finite(function: Function, dtype: type) -> None:
    # Warnings are errors here, so an overflow in between would fail, too.
    largest = np.finfo(dtype).max

    output = function(np.array([-largest, -1000, 0, 1000, largest], dtype))

    assert output.dtype == dtype
    assert np.isfinite(output).all()
    assert (np.diff(output) >= 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_large_logits_is_finite(dtype: type) -> None:
    output = softmax(np.array([[1000, -1000, 0], [1e38, 1e38, -1e38]], dtype))

    assert output.dtype == dtype
    assert output.tolist() == [[1, 0, 0], [0.5, 0.5, 0]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_opposite_largest_numbers_is_finite(dtype: type) -> None:
    largest = np.finfo(dtype).max

    output = softmax(np.array([[largest, -largest]], dtype))

    assert output.dtype == dtype
    assert output.tolist() == [[1, 0]]
