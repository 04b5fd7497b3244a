"""Three hosts, one of which sends slowly and late, whose servers are killed: the same bits."""

import sys
from collections.abc import Iterator
from time import monotonic, sleep

import pytest

from simulators.clusters import running, start_ray
from simulators.machines import Network
from tests.hosts.test_by_hand import DELAY_S, HOSTS, MBIT_S, Run

pytestmark = [pytest.mark.hosts, pytest.mark.soak]

# A server is killed so often; none of them three times in a minute.
KILL_EVERY_S, RUN_S = 20.0, 70.0


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with running(HOSTS, "nanograd") as made:
        start_ray(made, 2)
        made.slow_down("third", MBIT_S, DELAY_S)
        yield made


@pytest.mark.parametrize("number", range(30))
def test_servers_killed_beside_a_slow_link_change_no_bit(network, number):
    hidden, began, kills = (32, 200, 800, 1200)[number % 4], monotonic(), 0
    run = Run(network, f"slow{number}", "--workers 3", batch_size=480, hidden=hidden)

    while monotonic() - began < RUN_S:
        if monotonic() - began > KILL_EVERY_S * (kills + 1):
            host = network.hosts[HOSTS[(number + kills) % len(HOSTS)][0]]
            host.run("pkill -KILL -f '^ray::ServerActor'", user=0)
            kills += 1
        sleep(0.1)
    run.wait_for_epochs(1)
    run.stop()

    sys.stderr.write(
        f"run {number}: hidden {hidden}, {kills} kills, {run.count('host_lost')} hosts lost\n"
    )
