"""Meshes between servers on loopback, and callers and listeners that do not belong there."""

import hmac
import os
import pickle
import random
import socket
import struct
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cache
from threading import Event, Thread
from time import monotonic
from typing import Any

import pytest

from nanograd.distributed import mesh as formation
from nanograd.distributed.mesh import Endpoint, Formation, MeshError

KEY = b"k" * formation.KEY_BYTES
Caller = Callable[[Endpoint, ExitStack], int]


class Hosts:
    def __init__(self, number: int, address: str = "127.0.0.1") -> None:
        self.listeners = [formation.open_listener(address, [0]) for _ in range(number)]
        ports = [each.getsockname()[1] for each in self.listeners]
        self.endpoints = [Endpoint(f"h{host}", address, port) for host, port in enumerate(ports)]
        self.formations = [Formation(host, KEY, self.endpoints) for host in range(number)]
        self._pool = ThreadPoolExecutor(number)

    def form(self, *hosts: int) -> list["Future[dict[int, socket.socket]]"]:
        return [
            self._pool.submit(self.formations[host].run, self.listeners[host])
            for host in hosts or range(len(self.endpoints))
        ]


def assert_connected(formed: "list[Future[dict[int, socket.socket]]]") -> None:
    meshes = [each.result(30) for each in formed]
    for me, sockets in enumerate(meshes):
        assert sorted([me, *sockets]) == list(range(len(meshes)))
        for peer, sock in sockets.items():
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            name = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            assert name.rstrip(b"\0") in (b"cubic", b"reno")
            assert not sock.getblocking()
            sock.settimeout(9)
            sock.sendall(struct.pack("<II", me, peer))
    for me, sockets in enumerate(meshes):
        for peer, sock in sockets.items():
            assert sock.recv(8, socket.MSG_WAITALL) == struct.pack("<II", peer, me)
            assert peer > me or sock.recv(1) == b""  # the other end has been closed
            sock.close()


def pairs_of(formed: "Future[Any]") -> frozenset[tuple[int, int]]:
    error = formed.exception()
    assert isinstance(error, MeshError)
    return error.pairs


@pytest.mark.parametrize(("address", "number"), [("127.0.0.1", 2), ("127.0.0.1", 7), ("::1", 3)])
def test_every_pair_of_hosts_has_one_connection(number, address):
    hosts = Hosts(number, address)

    assert_connected(hosts.form())

    assert [each.num_refused for each in hosts.formations] == [0] * number
    assert all(each.fileno() == -1 for each in hosts.listeners)


def connect(endpoint: Endpoint, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((endpoint.address, endpoint.port), 8, (source, 0))


def introduce(
    endpoint: Endpoint,
    sender: int,
    receiver: int = 0,
    key: bytes = KEY,
    meanwhile: Callable[[], None] = lambda: None,
) -> socket.socket:
    """Connect and prove a key, as the protocol says."""
    sock = connect(endpoint)
    theirs, mine = sock.recv(16, socket.MSG_WAITALL), os.urandom(16)
    meanwhile()
    hosts = struct.pack("<HH", sender, receiver)
    proof = hmac.digest(key, b"connect" + hosts + theirs + mine, "sha256")
    with suppress(ConnectionError):
        sock.sendall(hosts + mine + proof)
    return sock


def says_no_more_than(count: int, sock: socket.socket) -> bool:
    data = b""
    with sock, suppress(ConnectionError):
        while more := sock.recv(4096):
            data += more
    return len(data) <= count


@cache
def recorded() -> tuple[bytes, bytes, bytes]:
    """Pass on a handshake between two hosts; return its nonce, hello and proof."""
    hosts = Hosts(2)
    with socket.create_server(("127.0.0.1", 0)) as between:
        there, hosts.endpoints[0] = hosts.endpoints[0], Endpoint("", *between.getsockname())
        formed = hosts.form()
        caller, _ = between.accept()
        with caller, connect(there) as listener:
            caller.sendall(nonce := listener.recv(16, socket.MSG_WAITALL))
            listener.sendall(hello := caller.recv(52, socket.MSG_WAITALL))
            caller.sendall(proof := listener.recv(32, socket.MSG_WAITALL))
            for mesh in formed:
                for sock in mesh.result().values():
                    sock.close()
    return nonce, hello, proof


# Callers that do not belong to the mesh; each returns how many they are.


def send(data: bytes) -> Caller:
    def call(endpoint: Endpoint, stack: ExitStack) -> int:
        sock = connect(endpoint)
        with suppress(ConnectionError):
            sock.sendall(data)
        assert says_no_more_than(16, sock)
        return 1

    return call


def prove(sender: int, receiver: int = 0, key: bytes = KEY, times: int = 1) -> Caller:
    def call(endpoint: Endpoint, stack: ExitStack) -> int:
        for _ in range(times):
            assert says_no_more_than(0, introduce(endpoint, sender, receiver, key))
        return times

    return call


def leave_half_open(endpoint: Endpoint, stack: ExitStack) -> int:
    """Only connect, from an address where no host is; those beyond a limit are turned away."""
    opened = [stack.enter_context(connect(endpoint, "127.0.0.2")) for _ in range(300)]
    said = [sock.recv(16, socket.MSG_WAITALL) for sock in opened]
    assert said.index(b"") == 64
    return len(opened)


def send_drop_by_drop(endpoint: Endpoint, stack: ExitStack) -> int:
    """Send a byte each time before it may count as silent."""
    sock, closed = connect(endpoint), Event()

    def drip() -> None:
        with suppress(OSError):  # the other end, or the test, has closed the socket
            while not closed.wait(0.2):
                sock.sendall(b"x")

    thread = Thread(target=drip)
    thread.start()
    began = monotonic()
    try:
        assert says_no_more_than(16, sock)
        assert 2 < monotonic() - began < 5
    finally:
        closed.set()
        thread.join()
    return 1


def send_again(endpoint: Endpoint, stack: ExitStack) -> int:
    return send(recorded()[1])(endpoint, stack)


CALLERS: dict[str, Caller] = {
    "a few bytes": send(b"x" * 60),
    "garbage": send(random.Random(193).randbytes(100_000)),  # noqa: S311
    "HTTP": send(b"GET / HTTP/1.1\r\nHost: " + b"x" * 4000 + b"\r\n\r\n"),
    "wrong key, more often than callers may wait": prove(2, key=b"w" * 32, times=65),
    "no key": prove(2, key=b""),
    "a host that does not exist": prove(3),
    "a host that is called": prove(0),
    "a call for another host": prove(2, receiver=1),
    "300 half-open connections": leave_half_open,
    "drop by drop": send_drop_by_drop,
    "a recorded handshake": send_again,
}


@pytest.mark.parametrize("caller", CALLERS)
def test_stranger_is_refused_and_the_mesh_forms(caller):
    hosts, began = Hosts(3), monotonic()
    with ExitStack() as stack:
        # Two hosts wait for the third, which joins when the stranger has tried.
        first = hosts.form(0, 1)
        number = CALLERS[caller](hosts.endpoints[0], stack)
        assert_connected([*first, *hosts.form(2)])

    assert hosts.formations[0].num_refused == number
    assert monotonic() - began < formation.FORMATION_S


@pytest.mark.parametrize("answer", ["zeros", "the caller's own", "recorded"])
def test_listener_without_the_key_is_no_host(answer, monkeypatch):
    nonce, _, proof = recorded()
    monkeypatch.setattr(formation, "FORMATION_S", 0.5)
    hosts = Hosts(2)
    [formed] = hosts.form(1)

    with hosts.listeners[0] as listener:
        listener.settimeout(5)
        caller, _ = listener.accept()
    with caller:
        caller.sendall(nonce)
        hello = caller.recv(52, socket.MSG_WAITALL)
        proofs = {"zeros": bytes(32), "the caller's own": hello[-32:], "recorded": proof}
        caller.sendall(proofs[answer])

        assert pairs_of(formed) == {(0, 1)}
        assert says_no_more_than(0, caller)


def test_host_that_connects_again_has_given_up_its_first_connection():
    hosts = Hosts(3)
    [formed] = hosts.form(0)

    first, second = (introduce(hosts.endpoints[0], 1) for _ in range(2))
    assert len(second.recv(32, socket.MSG_WAITALL)) == 32
    assert says_no_more_than(32, first)
    with second, introduce(hosts.endpoints[0], 2) as other:
        mesh = formed.result()

        peers = [mesh[1].getpeername(), mesh[2].getpeername()]
        assert peers == [second.getsockname(), other.getsockname()]
        for sock in mesh.values():
            sock.close()
    assert hosts.formations[0].num_refused == 1


def test_strangers_push_no_host_out():
    hosts = Hosts(2)
    [formed] = hosts.form(0)

    with ExitStack() as stack:

        def come() -> None:
            for _ in range(193):
                stack.enter_context(connect(hosts.endpoints[0])).recv(16)

        host = introduce(hosts.endpoints[0], 1, meanwhile=come)
        assert len(host.recv(32, socket.MSG_WAITALL)) == 32
        host.close()

    assert formed.result()[1].recv(1) == b""


def test_refused_host_tries_again():
    hosts = Hosts(2)
    formed = hosts.form(1)

    hosts.listeners[0].settimeout(5)
    hosts.listeners[0].accept()[0].close()

    assert_connected([*hosts.form(0), *formed])


def test_many_peers_that_drop_packets_delay_nobody(monkeypatch):
    monkeypatch.setattr(formation, "FORMATION_S", 1.0)
    hosts, began = Hosts(17), monotonic()
    with ExitStack() as stack:
        for peer in range(1, 16):  # listeners that answer no more calls: their queues are full
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            hosts.endpoints[peer] = Endpoint("silent", *listener.getsockname())
            for _ in range(2):
                caller = stack.enter_context(socket.socket())
                caller.setblocking(False)
                caller.connect_ex(listener.getsockname())

        healthy, alone = map(pairs_of, hosts.form(0, 16))

    assert monotonic() - began < 2
    assert alone == {(peer, 16) for peer in range(1, 16)}
    assert healthy == {(0, peer) for peer in range(1, 16)}


def test_host_that_does_not_come_is_named_and_connections_are_closed(monkeypatch):
    monkeypatch.setattr(formation, "FORMATION_S", 1.0)
    hosts = Hosts(4)
    hosts.listeners[1].close()
    formed = hosts.form(0, 2)

    proved, silent = introduce(hosts.endpoints[0], 3), connect(hosts.endpoints[0])

    assert [pairs_of(each) for each in formed] == [{(0, 1)}, {(1, 2), (2, 3)}]
    assert "h1 cannot reach host h0" in str(formed[0].exception())
    refused = f"port {hosts.endpoints[1].port} (Connection refused)"
    assert refused in str(formed[1].exception())
    assert says_no_more_than(48, proved)
    assert says_no_more_than(16, silent)


def test_taken_ports_are_passed_over_and_all_taken_ones_are_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(MeshError, match=f"ports {port}-{port}"):
            formation.open_listener("127.0.0.1", [port])
        with formation.open_listener("127.0.0.1", [port, 0]) as free:
            assert free.getsockname()[1] != port


def test_error_of_a_mesh_survives_the_way_between_processes():
    error: Any = pickle.loads(pickle.dumps(MeshError("no route", frozenset({(0, 2)}))))  # noqa: S301

    assert (str(error), error.pairs) == ("no route", {(0, 2)})
