"""One private Ray for all of this folder: late threads of a first one can end a second."""

from collections.abc import Iterator

import pytest

from nanograd.data.dataset import Dataset
from nanograd.data.mnist import Mnist
from nanograd.distributed.cluster import session


@pytest.fixture(scope="package")
def ray_cpus() -> Iterator[int]:
    """A private Ray; how many CPUs it offers."""
    with session("local", num_cpus=4):
        yield 4


@pytest.fixture(scope="package")
def digits(sample: Mnist) -> Dataset:
    """What is trained on here."""
    return sample.train.take(slice(0, 1931))
