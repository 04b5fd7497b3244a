from collections.abc import Callable

import numpy as np
import pytest

from nanograd.nn.activations import HIDDEN, relu, sigmoid, softmax
from nanograd.runtime.arrays import Floats

FUNCTIONS: dict[str, Callable[[Floats], Floats]] = {
    "sigmoid": sigmoid, "tanh": np.tanh, "relu": relu, "softmax": softmax
}  # fmt: skip
DTYPES = [np.float32, np.float64]


def draws(shape: tuple[int, ...], dtype: type) -> Floats:
    z = np.random.default_rng(7).normal(0, 3, shape).astype(dtype)
    z.flags.writeable = False
    return z


# tests/nn/test_mlp_oracle.py compares float64 with the definitions.
@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_in_float32_is_the_one_in_float64(name):
    z = draws((193, 10), np.float32)

    output = FUNCTIONS[name](z)

    expected = FUNCTIONS[name](z.astype(np.float64))
    np.testing.assert_allclose(output, expected, rtol=3e-6, atol=3e-7)
    assert (output.dtype, expected.dtype) == (np.float32, np.float64)
    assert not np.shares_memory(output, z)
    assert FUNCTIONS[name](z[:0]).shape == (0, 10)


def test_relu_is_zero_below_the_kink_and_has_no_slope_at_it():
    output = relu(np.float32([-2, -0.0, 0, 1e-30, 7]))
    slope = HIDDEN["relu"].derivative(output)

    assert output.dtype == slope.dtype == np.float32
    assert output.tolist() == [0, 0, 0, float(np.float32(1e-30)), 7]
    assert slope.tolist() == [0, 0, 0, 1, 1]


def test_softmax_does_not_depend_on_a_shift_of_the_row():
    z = np.float32([[1, 2, 4], [0, 0, 8]])

    output, shifted = softmax(z), softmax(z + np.float32([[64], [-1024]]))

    np.testing.assert_array_equal(shifted, output)


@pytest.mark.parametrize("dtype", DTYPES)
def test_largest_numbers_overflow_nowhere(dtype):
    # Warnings are errors here, so an overflow in between would fail, too.
    largest = np.finfo(dtype).max
    z = np.array([-largest, -1000, 0, 1000, largest], dtype)

    for function in (sigmoid, np.tanh, relu):
        output = function(z)
        assert np.isfinite(output).all()
        assert (np.diff(output) >= 0).all()
    rows = [[1000, -1000, 0], [1e38, 1e38, -1e38], [largest, -largest, 0]]
    output = softmax(np.array(rows, dtype))
    assert output.tolist() == [[1, 0, 0], [0.5, 0.5, 0], [1, 0, 0]]
