"""One private Ray for all of this folder: late threads of a first one can end a second."""

from collections.abc import Iterator

import pytest

from nanograd.distributed.session import session


@pytest.fixture(scope="package")
def ray_cpus() -> Iterator[int]:
    """A private Ray; how many CPUs it offers."""
    with session("local", num_cpus=4):
        yield 4
