import numpy as np
import pytest

from nanograd.digits.dataset import Dataset
from nanograd.models.model import Net
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.loop import accuracy, as_net
from nanograd.training.recipe import make_recipe
from tests.helpers import runs

SETTINGS = {
    **runs.SETTINGS, "shift": 0.0, "hidden": 64, "seed": 0, "shards": 8, "batch_size": 32,
    "learning_rate": 0.003, "warmup": 7, "ema": 0.0,
}  # fmt: skip
TAUGHT: list[dict[str, object]] = [
    {"activation": "tanh", "optimizer": "momentum", "learning_rate": 0.02},
    {"activation": "sigmoid", "loss": "mse", "optimizer": "sgd", "learning_rate": 1.0},
    {"elastic": 1.0, "rotation": 5.0, "stroke": 0.5, "pixels": "deskewed", "ema": 0.9},
]

pytestmark = pytest.mark.long


def trained(images: Dataset, **settings: object) -> Net:
    recipe = make_recipe(TrainSpec.resolve(SETTINGS, settings), len(images))
    return as_net(recipe, runs.train_locally(recipe, images))


@pytest.mark.parametrize("settings", TAUGHT)
def test_two_epochs_of_the_sample_teach_85_per_cent(sample, settings):
    assert accuracy([trained(sample.train, **settings)], sample.test) >= 0.85


def test_random_labels_teach_nothing_about_unseen_images(sample):
    seen = sample.train.take(slice(0, 1931))
    noise = Dataset(seen.images, np.random.default_rng(7).permutation(seen.labels))

    net = trained(noise, epochs=20)

    assert accuracy([net], noise) > 0.3
    assert accuracy([net], sample.test) == pytest.approx(0.1, abs=0.05)
