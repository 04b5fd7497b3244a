import math
from collections.abc import Callable

import numpy as np
import pytest

from nanograd.nn.activations import HIDDEN, FloatArray, relu, sigmoid, softmax

Function = Callable[[FloatArray], FloatArray]
Oracle = Callable[[float], float]

FUNCTIONS = [sigmoid, np.tanh, relu, softmax]
ELEMENTWISE = [sigmoid, np.tanh, relu]
DTYPES = [np.float32, np.float64]
SHAPES = [(0, 10), (1, 1), (7, 10), (193, 3)]


def draws(shape: tuple[int, ...], dtype: type, scale: float = 3.0) -> FloatArray:
    z = np.random.default_rng(7).normal(0, scale, shape).astype(dtype)
    z.flags.writeable = False
    return z


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_activation_keeps_dtype_and_shape_and_leaves_its_input_unchanged(
    function: Function, dtype: type, shape: tuple[int, int]
) -> None:
    z = draws(shape, dtype)
    before = z.tobytes()

    output = function(z)

    assert output.dtype == dtype
    assert output.shape == shape
    assert z.tobytes() == before
    assert not np.shares_memory(output, z)


@pytest.mark.parametrize(
    ("function", "oracle", "largest", "dtype", "rtol", "atol"),
    [
        (sigmoid, lambda value: 1 / (1 + math.exp(-value)), 30, np.float32, 0, 1e-7),
        (sigmoid, lambda value: 1 / (1 + math.exp(-value)), 30, np.float64, 0, 1e-15),
        (np.tanh, math.tanh, 9, np.float32, 1e-6, 0),
        (np.tanh, math.tanh, 9, np.float64, 1e-14, 0),
    ],
)
def test_function_equals_its_definition(
    function: Function, oracle: Oracle, largest: float, dtype: type, rtol: float, atol: float
) -> None:
    z = np.linspace(-largest, largest, 193).astype(dtype)

    output = function(z)

    expected = [oracle(value) for value in z.tolist()]
    np.testing.assert_allclose(output, expected, rtol=rtol, atol=atol)


def test_relu_is_zero_below_the_kink_and_has_no_slope_at_it() -> None:
    output = relu(np.float32([-2, -0.0, 0, 1e-30, 7]))
    slope = HIDDEN["relu"].derivative(output)

    assert output.dtype == slope.dtype == np.float32
    assert output.tolist() == [0, 0, 0, float(np.float32(1e-30)), 7]
    assert slope.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("name", sorted(HIDDEN))
@pytest.mark.parametrize(
    ("dtype", "step", "rtol"), [(np.float64, 1e-6, 1e-6), (np.float32, 2**-6, 1e-3)]
)
def test_derivative_equals_the_difference_quotient(
    name: str, dtype: type, step: float, rtol: float
) -> None:
    activation, z = HIDDEN[name], draws((193,), dtype)
    output = activation.function(z)
    output.flags.writeable = False
    before = output.tobytes()

    slope = activation.derivative(output)

    far = np.abs(z) > step  # from the kink
    rise = activation.function(z + dtype(step)) - activation.function(z - dtype(step))
    assert slope.dtype == dtype
    assert output.tobytes() == before
    np.testing.assert_allclose(slope[far], (rise / (2 * step))[far], rtol=rtol, atol=rtol / 10)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 3e-6), (np.float64, 1e-13)])
def test_softmax_equals_its_definition(dtype: type, rtol: float) -> None:
    z = draws((7, 10), dtype)

    output = softmax(z)

    exponentials = [[math.exp(value) for value in row] for row in z.tolist()]
    oracle = [[e / sum(row) for e in row] for row in exponentials]
    np.testing.assert_allclose(output, oracle, rtol=rtol)


def test_softmax_rows_sum_to_one() -> None:
    output = softmax(draws((193, 10), np.float32, scale=30))

    assert output.min() >= 0
    np.testing.assert_allclose(output.sum(axis=1), np.ones(193), rtol=1e-6)


def test_softmax_does_not_depend_on_a_shift_of_the_row() -> None:
    z = np.float32([[1, 2, 4], [0, 0, 8]])

    output, shifted = softmax(z), softmax(z + np.float32([[64], [-1024]]))

    np.testing.assert_array_equal(shifted, output)


@pytest.mark.parametrize("function", ELEMENTWISE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activation_of_the_largest_numbers_is_finite(function: Function, dtype: type) -> None:
    # Warnings are errors here, so an overflow in between would fail, too.
    largest = np.finfo(dtype).max

    output = function(np.array([-largest, -1000, 0, 1000, largest], dtype))

    assert np.isfinite(output).all()
    assert (np.diff(output) >= 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_large_logits_is_finite(dtype: type) -> None:
    largest = np.finfo(dtype).max

    output = softmax(
        np.array([[1000, -1000, 0], [1e38, 1e38, -1e38], [largest, -largest, 0]], dtype)
    )

    assert output.tolist() == [[1, 0, 0], [0.5, 0.5, 0], [1, 0, 0]]
