from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from nanograd.commands import make_recipe
from nanograd.config.train_config import TrainConfig
from nanograd.data.dataset import Dataset
from nanograd.data.mnist import Mnist
from nanograd.digits.augment import Distortion
from nanograd.models.model import Model
from nanograd.training.evaluation import accuracy, as_model
from nanograd.training.local import LocalGroup
from nanograd.training.server import first_snapshot

SETTINGS = {
    "hidden": 64,
    "batch_size": 32,
    "epochs": 2,
    "learning_rate": 0.003,
    "schedule": "cosine",
    "warmup": 7,
    "pixels": "standard",
    **asdict(Distortion()),
    "ema": 0.0,
}
ADAM = {"activation": "relu", "loss": "cross_entropy", "optimizer": "adam"}
NETS: list[dict[str, Any]] = [
    ADAM,
    {
        "activation": "tanh",
        "loss": "cross_entropy",
        "optimizer": "momentum",
        "learning_rate": 0.02,
    },
    {"activation": "sigmoid", "loss": "mse", "optimizer": "sgd", "learning_rate": 1.0},
]


def trained(images: Dataset, **settings: object) -> Model:
    recipe = make_recipe(TrainConfig.resolve(SETTINGS, settings), len(images))
    group = LocalGroup(recipe, images, first_snapshot(recipe))
    group.advance(recipe.num_rounds)
    return as_model(recipe, group.snapshot())


@pytest.mark.parametrize("net", NETS, ids=lambda net: f"{net['activation']}-{net['optimizer']}")
def test_two_epochs_of_the_sample_teach_85_per_cent(sample: Mnist, net: dict[str, Any]) -> None:
    model = trained(sample.train, **net)

    assert model.nets[0].params.vector.dtype == np.float32
    assert accuracy(model, sample.test) >= 0.85


def test_random_labels_teach_nothing_about_unseen_images(sample: Mnist) -> None:
    seen = sample.train.take(slice(0, 1931))
    noise = Dataset(seen.images, np.random.default_rng(7).permutation(seen.labels))

    model = trained(noise, **ADAM, epochs=20)

    assert model.nets[0].params.vector.dtype == np.float32
    assert accuracy(model, noise) > 0.3
    assert accuracy(model, sample.test) == pytest.approx(0.1, abs=0.05)


def test_distortions_do_not_stop_the_learning(sample: Mnist) -> None:
    distortion = {"elastic": 1.0, "rotation": 5.0, "scaling": 0.1, "shift": 0.5, "stroke": 0.5}
    model = trained(sample.train, **ADAM, **distortion, pixels="deslanted", ema=0.9)

    assert model.nets[0].params.vector.dtype == np.float32
    assert accuracy(model, sample.test) >= 0.85
