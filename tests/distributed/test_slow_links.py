"""Real servers on sockets with small buffers: what a host still has to send arrives."""

import socket
from collections.abc import Callable, Iterator
from itertools import combinations

import pytest

from nanograd.digits.dataset import Dataset
from nanograd.distributed.actors import ExchangeFailed
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.recipe import Recipe, make_recipe
from simulators.waiting import wait_for
from tests.helpers.hosts_in_threads import Hosts
from tests.helpers.runs import bits, train_locally

# Far less than a slice of the vectors.
BUFFER_BYTES = 4096
DEADLINE_S = 5.0


@pytest.fixture(scope="module")
def recipe(digits: Dataset) -> Recipe:
    return make_recipe(TrainSpec(batch_size=193, hidden=97, shards=3, epochs=2), len(digits))


@pytest.fixture
def make_hosts(recipe: Recipe, digits: Dataset) -> Iterator[Callable[..., Hosts]]:
    """Make hosts, the first of which has applied a round before its total reaches the second.

    The totals of round `last` and later ones do not reach it at all.
    """
    made: list[Hosts] = []

    def make(num_hosts: int, last: int = 100) -> Hosts:
        hosts = Hosts(recipe, digits, num_hosts)
        made.append(hosts)
        sockets: dict[int, dict[int, socket.socket]] = {host: {} for host in range(num_hosts)}
        for low, high in combinations(range(num_hosts), 2):
            sockets[low][high], sockets[high][low] = pair()
        far = sockets[1][0]
        near, sockets[1][0] = pair()
        hosts.start(hosts.hold_totals, 0, far, near, last)
        hosts.start(forward, near, far)
        hosts.connect(sockets)
        return hosts

    yield make
    for each in made:
        each.close()


def pair() -> tuple[socket.socket, socket.socket]:
    ends = socket.socketpair()
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    return ends


def forward(source: socket.socket, target: socket.socket) -> None:
    while data := source.recv(BUFFER_BYTES):
        target.sendall(data)
    target.close()


@pytest.mark.parametrize("num_hosts", [2, 3])
def test_segment_ends_when_the_others_have_what_they_need(make_hosts, recipe, digits, num_hosts):
    hosts = make_hosts(num_hosts)

    failures = [failure.result() for until in (1, 5, 6) for failure in hosts.run(until, DEADLINE_S)]

    assert failures == [None] * 3 * num_hosts
    states = {repr(bits(server.snapshot())) for server in hosts.servers}
    assert states == {repr(bits(train_locally(recipe, digits, 6)))}


def test_server_that_cannot_send_the_rest_of_a_segment_stops_when_it_is_asked(make_hosts):
    hosts = make_hosts(2, last=2)
    first, second = hosts.run(3, 60.0)
    wait_for(lambda: hosts.servers[0].round == 3, "the first host has not applied the round")
    assert not first.done()

    hosts.servers[0].stop()

    assert first.result(5) is None
    hosts.servers[1].stop()
    assert isinstance(second.result(5), ExchangeFailed)
    assert hosts.servers[1].round == 2
