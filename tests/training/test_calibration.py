from dataclasses import replace

import numpy as np
import pytest

from nanograd.digits.dataset import Mnist
from nanograd.models import model as model_io
from nanograd.models.model import Model, mean_scores
from nanograd.models.reference import UNFAMILIAR
from nanograd.nn import metrics
from nanograd.training.calibration import fit_reference
from tests.helpers.models import some_images
from tests.helpers.runs import train

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def model(sample: Mnist, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A net that memorised its images: without distortions, for many epochs."""
    place = tmp_path_factory.mktemp("run")
    settings = {"hidden": 64, "epochs": 10, "shift": 0.0, "pixels": "deskewed"}
    return model_io.load(train(sample, place / "run", **settings)["model"])


def test_reference_of_a_model_follows_from_nets_images_and_seed(sample, model):
    some = sample.train.take(slice(0, 701))
    fitted = [fit_reference(model.nets, some, seed) for seed in (5, 5, 6)]

    first, again, other = (replace(model, reference=each).sha256() for each in fitted)
    assert first == again != other


def test_probabilities_are_calibrated_though_the_images_were_learnt(sample, model):
    errors = []
    images = sample.test.images
    for scores in (model.probabilities(images), mean_scores(model.nets, images)):
        correct = scores.argmax(axis=1) == sample.test.labels
        errors.append(metrics.calibration(scores.max(axis=1), correct, 15).error)

    assert errors[0] < 0.03
    assert errors[0] < errors[1]


def test_what_is_no_digit_is_unfamiliar(sample, model):
    digits = model.unfamiliarity(sample.test.images)
    halves = np.split(sample.test.images.reshape(-1, 28, 28)[:1000, :, ::2], 2)
    frame = np.zeros((28, 28), np.uint8)
    frame[4:24, 5:23], frame[7:21, 8:20] = 255, 0

    assert (digits > UNFAMILIAR).mean() < 0.1
    for others in (some_images(193), np.concatenate(halves, 2), frame[None], np.zeros((1, 784))):
        unfamiliarity = model.unfamiliarity(others)
        order = np.searchsorted(np.sort(digits), unfamiliarity) / len(digits)
        assert order.mean() > 0.95  # the area under the ROC curve


@pytest.mark.parametrize(("number", "classes"), [(10, 10), (1200, 7)])
def test_few_images_or_a_class_without_any_give_finite_statistics(sample, model, number, classes):
    some = sample.train.take(np.flatnonzero(sample.train.labels < classes)[:number])
    found = replace(model, reference=fit_reference(model.nets, some))

    assert np.isfinite(found.unfamiliarity(sample.test.images)).all()
    assert np.isfinite(found.probabilities(sample.test.images)).all()
