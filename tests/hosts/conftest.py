"""Hosts, a cluster and an object store that the tests of a module share."""

from collections.abc import Iterator

import pytest

from tests.hosts.cluster import Cluster, start_store
from tests.hosts.world import World, unavailable

HOSTS = (("head", 11), ("north", 12), ("south", 13))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, where there can be no machines."""
    ours = [item for item in items if item.get_closest_marker("hosts")]
    if ours and (reason := unavailable()):
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A desk and three hosts."""
    made = World()
    try:
        for name, number in HOSTS:
            made.add(name, number)
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def store(world: World) -> str:
    """A bucket that all can reach, at the head's address."""
    hosts = list(world.hosts.values())
    return start_store(hosts[0], [world.desk, *hosts])


@pytest.fixture(scope="module")
def cluster(world: World, store: str) -> Cluster:
    """The cluster of the on-premise file, up."""
    made = Cluster(world)
    made.edit()
    made.up()
    return made
