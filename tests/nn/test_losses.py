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


def squared_error_by_loops(z2: Floats, rows: Floats) -> float:
    pairs = zip(z2.ravel().tolist(), rows.ravel().tolist(), strict=True)
    return sum((t - 1 / (1 + math.exp(-z))) ** 2 for z, t in pairs)


def cross_entropy_by_loops(z2: Floats, rows: Floats) -> float:
    total = 0.0
    for row_z, row_t in zip(z2.tolist(), rows.tolist(), strict=True):
        whole = sum(math.exp(z) for z in row_z)
        total -= sum(t * math.log(math.exp(z) / whole) for z, t in zip(row_z, row_t, strict=True))
    return total


ORACLES = {"mse": squared_error_by_loops, "cross_entropy": cross_entropy_by_loops}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_images", [0, 1, 193])
@pytest.mark.parametrize(("dtype", "rel"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_loss_equals_a_sum_by_loops(name, num_images, dtype, rel):
    z2, rows = logits(num_images, dtype), targets(num_images, dtype)  # read-only

    losses, gradient = LOSSES[name].gradient(z2, rows)

    assert losses.dtype == gradient.dtype == dtype
    assert (losses.shape, gradient.shape) == ((num_images,), (num_images, 10))
    assert losses.sum() == pytest.approx(ORACLES[name](z2, rows), rel=rel)


def test_scores_near_zero_and_one_are_exact():
    z2 = np.float32([[-1e9, -60, -18, -1, 0, 1, 18, 60, 1e9]])

    scores = LOSSES["mse"].output(z2)

    wanted = [1 / (1 + math.exp(min(-z, 80))) for z in z2[0].tolist()]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores[0], wanted, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("first", "length"), [(0, 1), (1, 65), (7, 16), (64, 7)])
def test_bits_of_an_image_do_not_depend_on_the_batch(name, first, length):
    # A worker computes the losses of all its shards at once, with the bits of each shard alone.
    z2, rows = logits(193), targets(193)
    part = slice(first, first + length)

    losses, gradient = LOSSES[name].gradient(z2, rows)
    losses_alone, gradient_alone = LOSSES[name].gradient(z2[part].copy(), rows[part].copy())

    np.testing.assert_array_equal(gradient_alone, gradient[part])
    np.testing.assert_array_equal(losses_alone, losses[part])


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
