import math

import numpy as np
import pytest

from nanograd.nn.losses import LOSSES
from nanograd.runtime.arrays import Floats

NAMES = sorted(LOSSES)


def logits(num_images: int, dtype: type = np.float32) -> Floats:
    z2 = np.random.default_rng(7).normal(0, 2, (num_images, 10)).astype(dtype)
    z2.flags.writeable = False
    return z2


def targets(num_images: int, dtype: type = np.float32) -> Floats:
    labels = np.random.default_rng(8).integers(0, 10, num_images)
    rows = np.eye(10, dtype=dtype)[labels]
    rows.flags.writeable = False
    return rows


# tests/nn/test_mlp_oracle.py compares float64 with the definitions.
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_images", [0, 1, 193])
def test_loss_and_gradient_in_float32_are_those_in_float64(name, num_images):
    exact = LOSSES[name].gradient(logits(num_images, np.float64), targets(num_images, np.float64))

    losses, gradient = LOSSES[name].gradient(logits(num_images), targets(num_images))  # read-only

    assert [each.dtype for each in (losses, gradient, *exact)] == ["f4", "f4", "f8", "f8"]
    assert (losses.shape, gradient.shape) == ((num_images,), (num_images, 10))
    np.testing.assert_allclose(losses, exact[0], rtol=1e-5)
    np.testing.assert_allclose(gradient, exact[1], rtol=1e-5, atol=1e-6)


def test_scores_near_zero_and_one_are_exact():
    z2 = np.float32([[-1e9, -60, -18, -1, 0, 1, 18, 60, 1e9]])

    scores = LOSSES["mse"].output(z2)

    wanted = [1 / (1 + math.exp(min(-z, 80))) for z in z2[0].tolist()]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores[0], wanted, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(6, 10), (7, 1), (10,)])
def test_different_shapes_are_refused(name, shape):
    with pytest.raises(ValueError, match="differ in shape"):
        LOSSES[name].gradient(logits(7), np.zeros(shape, np.float32))


def test_saturated_outputs_have_a_gradient_unless_they_are_right():
    rows = targets(7)
    for loss in LOSSES.values():
        assert not any(each.any() for each in loss.gradient((rows - np.float32(0.5)) * 1000, rows))

    wrong = np.float32([[-500, 500]])
    loss, gradient = LOSSES["cross_entropy"].gradient(wrong, np.float32([[1, 0]]))

    assert loss.tolist() == [1000]
    assert gradient.tolist() == [[-1, 1]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1e3, 1e38, np.finfo(np.float32).max])
def test_loss_of_large_logits_raises_no_warning_and_is_finite(name, size):
    z2 = np.where(np.arange(70).reshape(7, 10) % 3, size, -size).astype(np.float32)

    loss, gradient = LOSSES[name].gradient(z2, targets(7))

    assert np.isfinite(loss).all() or size > 1e38
    assert not np.isnan(loss).any()
    assert np.isfinite(gradient).all()
