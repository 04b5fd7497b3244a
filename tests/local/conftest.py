"""One private Ray for each module of this folder."""

from collections.abc import Iterator

import pytest

from nanograd.distributed.session import session


@pytest.fixture(scope="module")
def ray_cpus() -> Iterator[int]:
    """A private Ray; how many CPUs it offers."""
    with session("local", num_cpus=4):
        yield 4
