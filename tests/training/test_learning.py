import numpy as np
import pytest

from nanograd.digits.dataset import Dataset
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.loop import accuracy, as_net
from nanograd.training.recipe import make_recipe
from tests.helpers import runs

SETTINGS = {
    **runs.SETTINGS, "shift": 0.0, "hidden": 64, "seed": 0, "shards": 8, "batch_size": 32,
    "learning_rate": 0.003, "warmup": 7, "ema": 0.0,
}  # fmt: skip

pytestmark = pytest.mark.long


def test_random_labels_teach_nothing_about_unseen_images(sample):
    seen = sample.train.take(slice(0, 1931))
    noise = Dataset(seen.images, np.random.default_rng(7).permutation(seen.labels))

    recipe = make_recipe(TrainSpec.resolve(SETTINGS, {"epochs": 20}), len(noise))
    net = as_net(recipe, runs.train_locally(recipe, noise))

    assert accuracy([net], noise) > 0.3
    assert accuracy([net], sample.test) == pytest.approx(0.1, abs=0.05)
