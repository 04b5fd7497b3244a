from dataclasses import replace

import numpy as np
import pytest

from nanograd.models.model import mean_scores
from nanograd.models.reference import fit_temperature, to_probabilities
from nanograd.nn.activations import softmax
from tests.helpers.models import some_ensemble, some_images, some_model, some_reference


def logits(number: int = 4096) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 4, (number, 10)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.5, 1.7])
def test_probabilities_are_the_softmax_of_divided_logits(temperature):
    z = logits(193)
    rows = to_probabilities(np.array([[0, 0, 0], [1, 1, 0], [0.2, 0, 0]], np.float32), temperature)

    found = to_probabilities(softmax(z), temperature)

    assert found.dtype == np.float32
    np.testing.assert_allclose(found, softmax(z / np.float32(temperature)), atol=2e-6)
    assert (found.argmax(axis=1) == z.argmax(axis=1)).all()
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(rows[:, 0], [1 / 3, 0.5, 1], rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.6, 1.9])
def test_temperature_of_labels_that_follow_it_is_found(temperature):
    z = logits(20_000)
    shares = softmax(z / np.float32(temperature)).cumsum(axis=1)
    labels = (np.random.default_rng(2).random((len(z), 1)) > shares[:, :-1]).sum(axis=1)

    assert fit_temperature(softmax(z), labels) == pytest.approx(temperature, rel=0.05)


def test_mean_of_a_class_is_familiar_and_a_blank_image_is_not():
    reference = some_reference()
    means = reference.means.copy()
    means[:, 300] = 255  # the brightest pixel, so nothing is stretched
    reference = replace(reference, means=means)

    assert reference.unfamiliarity(means, np.arange(10)).max() < 1e-3
    assert reference.unfamiliarity(np.zeros((10, 784), np.uint8), np.arange(10)).min() > 0.99
    assert reference.unfamiliarity(means[:0], np.arange(0)).shape == (0,)


def test_reference_changes_no_prediction_and_compares_with_its_digit():
    images = some_images(193)
    for model in (some_model(loss="mse"), some_ensemble()):
        probabilities, unfamiliarity = model.assess(images)

        predicted = mean_scores(model.nets, images).argmax(axis=1)
        others = model.compare(images, (predicted + 1) % 10)
        assert (probabilities.argmax(axis=1) == predicted).all()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
        assert (probabilities == model.probabilities(images)).all()
        assert (unfamiliarity == model.unfamiliarity(images)).all()
        assert (unfamiliarity == model.compare(images, predicted)).all()
        assert (unfamiliarity != others).mean() > 0.5


@pytest.mark.parametrize(
    "change",
    [{"temperature": 0.0}, {"temperature": np.nan}, {"scales": np.full(10, np.inf, np.float32)},
     {"means": np.zeros((10, 784), np.float32)}, {"directions": np.zeros((10, 3, 576), np.int8)}],
    ids=["zero", "nan", "infinite", "type", "shape"],
)  # fmt: skip
def test_statistics_that_make_no_sense_are_refused(change):
    with pytest.raises(ValueError, match=r"temperature|tensor"):
        replace(some_reference(), **change)
