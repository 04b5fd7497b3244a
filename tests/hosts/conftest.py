"""Hosts, an object store, a shared folder and another user's Ray, shared by the tests."""

from collections.abc import Iterator

import pytest

from tests.helpers.hosts.cluster import SHARED, Cluster, OtherRay, give_credentials, start_store
from tests.helpers.hosts.world import World, unavailable, wait_for

# The runbook's three, and the one that is added.
HOSTS = (("head", 11), ("north", 12), ("south", 13), ("west", 14))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, where there can be no machines."""
    ours = [item for item in items if "world" in getattr(item, "fixturenames", ())]
    if ours and (reason := unavailable()):
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A desk and the hosts."""
    made = World()
    try:
        for name, number in HOSTS:
            made.add(name, number)
        made.desk.must(f"cp -r ~/nanograd/nanograd {SHARED}/")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def store(world: World) -> str:
    """A bucket that all can reach, at the head's address."""
    for machine in (world.desk, *world.hosts.values()):
        give_credentials(machine, world.hosts["head"])
    return start_store(world.hosts["head"])


@pytest.fixture(scope="module")
def other_ray(world: World) -> tuple[OtherRay, str]:
    """Another user's Ray on the head, and its nodes before the cluster came."""
    made = OtherRay(world.hosts["head"])
    return made, made.nodes()


@pytest.fixture(scope="module")
def cluster(world: World, store: str, other_ray: tuple[OtherRay, str]) -> Iterator[Cluster]:
    """The cluster of the on-premise file, up."""
    made = Cluster(world)
    made.edit("s/192.0.2./10.77.0./")  # the lines marked EDIT
    section = "Hosts of your own"
    made.give(section, 0)
    made.give(section, 1)
    made.wait_for_hosts(3)
    # What `ray status` prints is a report that the head makes every few seconds.
    shown = "3 local.cluster.node"
    wait_for(lambda: shown in made.give(section, 2), "`ray status` never shows 3 hosts", 60)
    yield made
    made.terminal.close()
