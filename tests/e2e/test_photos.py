"""Simulated photos of digits, read by a net that has seen nothing but MNIST's own images."""

import numpy as np
import pytest

from nanograd import commands
from nanograd.digits.dataset import Mnist
from nanograd.errors import UnreadableError
from nanograd.models import model
from nanograd.models.model import Model
from nanograd.pictures.decode import decode
from nanograd.pictures.normalise import normalise
from nanograd.settings.train_spec import TrainSpec
from simulators.photos import photograph
from simulators.scenes import KINDS

OF_EACH_KIND = 3
# The first kinds are of good paper and light; the later ones are harder, three in ten of them were
# misclassified before the normaliser had methods for each.
GOOD, HARD = list(KINDS)[:27], list(KINDS)[27:]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The default net, trained on the sample's 4,000 images."""
    place = tmp_path_factory.mktemp("net") / "run"
    config = TrainSpec(data="sample", output=str(place), workers=0, validation_split=0.0)
    return model.load(str(commands.train(spec=config).to_json()["model"]))


def read(net: Model, data: bytes) -> int | str:
    """The digit that is read, or why none is."""
    try:
        image = normalise(decode(data))
    except UnreadableError as error:
        return error.reason
    return int(net.probabilities(image.reshape(1, 784)).argmax())


@pytest.mark.parametrize(
    ("group", "least", "difference"), [(GOOD, 0.9, 0.06), (HARD, 0.8, 0.15)], ids=["good", "hard"]
)
def test_simulated_photos_of_every_kind_are_read_nearly_as_well_as_the_images(
    net: Model, sample: Mnist, group: list[str], least: float, difference: float
) -> None:
    test = sample.test.take(slice(len(group) * OF_EACH_KIND))
    kinds = [kind for kind in group for _ in range(OF_EACH_KIND)]

    photos = [
        photograph(image.reshape(28, 28), kind, seed)
        for seed, (image, kind) in enumerate(zip(test.images, kinds, strict=True))
    ]
    said = [read(net, photo) for photo in photos]

    direct = net.probabilities(test.images).argmax(1)
    right = [digit == label for digit, label in zip(said, test.labels.tolist(), strict=True)]
    misread = {
        kind: OF_EACH_KIND - sum(right[place * OF_EACH_KIND :][:OF_EACH_KIND])
        for place, kind in enumerate(group)
    }
    assert np.mean(right) >= least, misread
    assert np.mean(right) >= (direct == test.labels).mean() - difference, misread
