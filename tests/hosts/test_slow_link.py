"""Three hosts, one of which sends slowly and late, whose servers are killed: the same bits."""

import sys
from collections.abc import Iterator
from time import monotonic, sleep

import pytest

from simulators.clusters import running, start_ray
from simulators.machines import Network
from tests.hosts.conftest import Checksum
from tests.hosts.test_faults_between_hosts import HOSTS, kinds, start

pytestmark = pytest.mark.hosts

MBIT_S, DELAY_S = 20, 0.05
# A server is killed so often; none of them three times in a minute.
KILL_EVERY_S, LONGEST_S = 20.0, 400.0
# Epochs for each number of hidden units: runs of a minute or so.
EPOCHS = {32: 24, 200: 10, 800: 4, 1200: 2}
NUM_RUNS = 30


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Three hosts with Ray, two CPUs each; the third sends slowly."""
    with running(HOSTS, "nanograd") as made:
        start_ray(made, 2)
        made.slow_down("third", MBIT_S, DELAY_S)
        yield made


@pytest.mark.parametrize(
    "number", [1, *(pytest.param(each, marks=pytest.mark.soak) for each in range(2, NUM_RUNS + 1))]
)
def test_servers_killed_beside_a_slow_link_change_no_bit(
    network: Network, checksum: Checksum, number: int
) -> None:
    hidden = list(EPOCHS)[number % len(EPOCHS)]
    flags = f"--workers 3 --batch-size 480 --epochs {EPOCHS[hidden]} --hidden {hidden}"
    same = {"batch_size": 480, "shards": 6, "hidden": hidden, "epochs": EPOCHS[hidden]}
    golden, began, kills = checksum(**same), monotonic(), 0
    run = start(network, f"slow{number}", flags)

    while run.process.poll() is None:
        assert monotonic() - began < LONGEST_S, run.events()
        if monotonic() - began > KILL_EVERY_S * (kills + 1):
            host = network.hosts[HOSTS[(number + kills) % len(HOSTS)][0]]
            host.run("pkill -KILL -f '^ray::ServerActor'", user=0)
            kills += 1
        sleep(0.1)
    found, _ = run.end(30)

    losses = kinds(run).count("host_lost")
    sys.stderr.write(
        f"run {number}: hidden {hidden}, {monotonic() - began:.0f} s, {kills} kills, "
        f"{losses} hosts lost, same bits: {found == golden}\n"
    )
    assert found == golden
