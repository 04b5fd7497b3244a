import numpy as np
import pytest

from nanograd.digits.deskew import deskew
from nanograd.digits.preparation import Preparation
from tests.helpers.models import prepare

NAMES = ["plain", "unit", "standard", "deskewed"]


@pytest.mark.parametrize(
    ("name", "mean", "deviation"),
    [("plain", 0, 1 / 255), ("unit", 0, 1), ("standard", 0.1307, 0.3081)],
)
def test_inputs_are_shares_of_ink_less_the_mean_by_the_deviation(name, mean, deviation):
    images = np.resize(np.arange(256, dtype=np.uint8), (7, 784))

    inputs = prepare(Preparation(name=name), images)

    expected = (images.astype(np.float64) / 255 - mean) / deviation
    np.testing.assert_allclose(inputs, expected, rtol=1e-5, atol=1e-6)
    assert name != "unit" or inputs.max() == 1


@pytest.mark.parametrize(
    "preparation",
    [*(Preparation(name=name) for name in NAMES), Preparation(name="deskewed", width=3.5)],
    ids=str,
)
def test_image_is_prepared_alone_as_among_others(preparation, sample):
    images = sample.test.images[:193]

    inputs = prepare(preparation, images)

    assert (inputs.dtype, inputs.shape) == (np.float32, images.shape)
    for place in (0, 7, 192):  # alone and among others
        alone = prepare(preparation, images[place : place + 1])
        np.testing.assert_array_equal(alone[0], inputs[place])
    if preparation == Preparation(name="deskewed"):
        expected = prepare(Preparation(name="standard"), deskew(images))
        np.testing.assert_array_equal(inputs, expected)


@pytest.mark.parametrize(
    "fields",
    [
        *({"name": name} for name in ("", "Unit")),
        *({"name": "unit", "version": version} for version in (0, 2)),
        *({"name": "standard", side: 5.5} for side in ("width", "height")),
    ],
    ids=str,
)
def test_unknown_preparation_or_a_size_without_effect_is_refused(fields):
    with pytest.raises(ValueError, match="pixel preparation"):
        Preparation(**fields)
