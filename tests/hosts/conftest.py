"""Hosts, an object store, a shared folder and another user's Ray, shared by the tests."""

from collections.abc import Callable, Iterator
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from nanograd import commands
from nanograd.settings.train_spec import TrainSpec
from simulators.clusters import Cluster, OtherRay, running, start_store, write_credentials
from simulators.machines import Network, unavailable
from simulators.waiting import wait_for

Checksum = Callable[..., str]

# The runbook's three, and the one that is added.
HOSTS = (("head", 11), ("north", 12), ("south", 13), ("west", 14))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, where there can be no machines."""
    ours = [item for item in items if "network" in getattr(item, "fixturenames", ())]
    if ours and (reason := unavailable()):
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def checksum() -> Checksum:
    """Return a function of settings: the checksum of the parameters that one process computes."""

    @cache
    def train(**settings: Any) -> str:
        with TemporaryDirectory() as folder:
            given = {"data": ["sample"], "workers": 0, "output": f"{folder}/run", **settings}
            return str(commands.train(spec=TrainSpec.resolve(given)).to_json()["params_sha256"])

    return train


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """A client and the hosts."""
    with running(HOSTS, "nanograd") as made:
        yield made


@pytest.fixture(scope="module")
def store(network: Network) -> str:
    """A bucket that all can reach, at the head's address."""
    for machine in (network.client, *network.hosts.values()):
        write_credentials(machine, network.hosts["head"])
    return start_store(network.hosts["head"])


@pytest.fixture(scope="module")
def other_ray(network: Network) -> tuple[OtherRay, str]:
    """Another user's Ray on the head, and its nodes before the cluster is started."""
    made = OtherRay(network.hosts["head"])
    return made, made.nodes()


@pytest.fixture(scope="module")
def cluster(network: Network, store: str, other_ray: tuple[OtherRay, str]) -> Iterator[Cluster]:
    """The running cluster of the on-premise file."""
    made = Cluster(network)
    made.edit("s/192.0.2./10.77.0./")  # the lines marked EDIT
    section = "Hosts of your own"
    made.run_block(section, 0)
    made.run_block(section, 1)
    made.wait_for_hosts(3)
    # `ray status` prints a report that the head makes every few seconds.
    nodes = "3 local.cluster.node"
    wait_for(lambda: nodes in made.run_block(section, 2), "`ray status` never has 3 hosts")
    yield made
    made.terminal.close()
