"""One private Ray for this folder: late threads of a first one can kill a second one."""

from collections.abc import Iterator

import pytest

from nanograd.digits.dataset import Dataset, Mnist
from nanograd.distributed.cluster import session


@pytest.fixture(scope="package")
def ray_cpus() -> Iterator[int]:
    """Start a private Ray and return the number of its CPUs."""
    with session("local", num_cpus=4):
        yield 4


@pytest.fixture(scope="package")
def digits(sample: Mnist) -> Dataset:
    """Return the training images of this folder."""
    return sample.train.take(slice(0, 1931))
