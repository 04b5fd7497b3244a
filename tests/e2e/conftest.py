"""A model and a picture folder that several end-to-end tests share."""

from pathlib import Path

import pytest

from nanograd import commands
from nanograd.config import TrainConfig
from nanograd.data.mnist import Mnist


def quiet(sentence: str) -> None:
    """Progress is not what these tests look at."""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model directory, trained on the sample without Ray."""
    place = tmp_path_factory.mktemp("trained") / "run"
    config = TrainConfig(data="sample", output=str(place), workers=0, epochs=2, batch_size=128)
    return str(commands.train(config, quiet)["model"])


@pytest.fixture(scope="session")
def png_folder(tmp_path_factory: pytest.TempPathFactory, sample: Mnist) -> Path:
    """The sample's 1,000 test digits as PNG files, a folder a class."""
    place = tmp_path_factory.mktemp("pictures") / "png"
    commands.data_export("sample", str(place), quiet)
    return place
