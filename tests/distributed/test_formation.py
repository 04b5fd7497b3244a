"""Meshes between servers on loopback, and callers that do not belong there."""

import pickle
import random
import socket
import struct
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from time import monotonic
from typing import Any

import pytest

from nanograd.distributed import formation
from nanograd.distributed.formation import Endpoint, Formation, MeshError

KEY, GENERATION = b"k" * formation.KEY_BYTES, 193
Caller = Callable[[Endpoint, ExitStack], None]


class Hosts:
    """Hosts that form a mesh, each in a thread."""

    def __init__(self, number: int, address: str = "127.0.0.1") -> None:
        self._listeners = [formation.listen(address, [0]) for _ in range(number)]
        self.endpoints = [
            Endpoint(f"h{host}", address, each.getsockname()[1])
            for host, each in enumerate(self._listeners)
        ]
        self._pool = ThreadPoolExecutor(number)
        self.formations = [
            Formation(host, GENERATION, KEY, self.endpoints) for host in range(number)
        ]

    def form(self, *hosts: int) -> list["Future[dict[int, socket.socket]]"]:
        """Let some hosts, or all, form a mesh."""
        return [
            self._pool.submit(self.formations[host].run, self._listeners[host])
            for host in hosts or range(len(self.endpoints))
        ]


def assert_connected(meshes: list[dict[int, socket.socket]]) -> None:
    for me, sockets in enumerate(meshes):
        assert sorted([me, *sockets]) == list(range(len(meshes)))
        for peer, sock in sockets.items():
            sock.setblocking(True)
            sock.sendall(struct.pack("<II", me, peer))
    for me, sockets in enumerate(meshes):
        for peer, sock in sockets.items():
            assert sock.recv(8, socket.MSG_WAITALL) == struct.pack("<II", peer, me)
            sock.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("number", [2, 3, 7])
def test_every_pair_of_hosts_has_one_connection(number: int, address: str) -> None:
    meshes = [each.result() for each in Hosts(number, address).form()]

    assert_connected(meshes)


def connect(endpoint: Endpoint) -> socket.socket:
    return socket.create_connection((endpoint.address, endpoint.port), timeout=5)


def closed_without_a_word(sock: socket.socket) -> bool:
    """Return whether the listener says nothing but its nonce, then closes."""
    data = b""
    with suppress(ConnectionError):
        while more := sock.recv(4096):
            data += more
    return len(data) <= 16


def send_garbage(endpoint: Endpoint, stack: ExitStack) -> None:
    for length in (60, 193, 100_000):
        with connect(endpoint) as sock, suppress(ConnectionError):
            sock.sendall(random.Random(length).randbytes(length))  # noqa: S311
            assert closed_without_a_word(sock)


def send_a_huge_length(endpoint: Endpoint, stack: ExitStack) -> None:
    with connect(endpoint) as sock, suppress(ConnectionError):
        sock.sendall(struct.pack("<4sqHH", b"ngh1", 2**40, 2**16 - 1, 2**16 - 1) + bytes(48))
        assert closed_without_a_word(sock)


def send_a_request_of_http(endpoint: Endpoint, stack: ExitStack) -> None:
    with connect(endpoint) as sock, suppress(ConnectionError):
        sock.sendall(b"GET / HTTP/1.1\r\nHost: " + b"x" * 4000 + b"\r\n\r\n")
        assert closed_without_a_word(sock)


def prove(key: bytes, generation: int, sender: int) -> Caller:
    def call(endpoint: Endpoint, stack: ExitStack) -> None:
        with connect(endpoint) as sock:
            handshake = formation._introduce(sock, sender, 0, generation, key)
            next(handshake)
            nonce = sock.recv(16, socket.MSG_WAITALL)
            with suppress(ConnectionError):
                handshake.send(nonce)
                assert closed_without_a_word(sock)

    return call


def replay(endpoint: Endpoint, stack: ExitStack) -> None:
    """Say what a host said in an earlier handshake, with the nonce of that one."""
    listener, other = socket.create_server(("127.0.0.1", 0)), b"n" * 16
    with listener, connect(Endpoint("", *listener.getsockname())) as sock:
        handshake = formation._introduce(sock, 2, 0, GENERATION, KEY)
        next(handshake)
        handshake.send(other)
        heard, _ = listener.accept()
        recorded = heard.recv(4096)
        heard.close()
    with connect(endpoint) as sock, suppress(ConnectionError):
        sock.sendall(recorded)
        assert closed_without_a_word(sock)


def leave_half_open(endpoint: Endpoint, stack: ExitStack) -> None:
    for _ in range(500):
        stack.enter_context(connect(endpoint))


CALLERS: dict[str, Caller] = {
    "garbage": send_garbage,
    "a length of 2^40": send_a_huge_length,
    "HTTP": send_a_request_of_http,
    "wrong key": prove(b"w" * 32, GENERATION, 2),
    "no key": prove(b"", GENERATION, 2),
    "stale generation": prove(KEY, GENERATION - 1, 2),
    "a host that does not exist": prove(KEY, GENERATION, 9),
    "replayed handshake": replay,
    "500 half-open connections": leave_half_open,
}


@pytest.mark.parametrize("caller", CALLERS)
def test_stranger_is_refused_and_the_mesh_forms(caller: str) -> None:
    hosts, began = Hosts(3), monotonic()
    with ExitStack() as stack:
        # Two hosts wait for the third, which joins when the stranger has tried.
        first = hosts.form(0, 1)
        CALLERS[caller](hosts.endpoints[0], stack)
        meshes = [each.result(30) for each in [*first, *hosts.form(2)]]

    assert_connected(meshes)
    assert hosts.formations[0].num_refused >= 1
    assert monotonic() - began < formation.FORMATION_S


def test_host_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formation, "FORMATION_S", 1.0)
    hosts = Hosts(3)
    port = hosts.endpoints[1].port

    errors = [each.exception() for each in hosts.form(0, 2)]

    assert [getattr(each, "pairs", None) for each in errors] == [{(0, 1)}, {(1, 2)}]
    assert str(errors[0]).startswith("host h1 cannot reach host h0 at 127.0.0.1 port ")
    assert str(errors[1]).startswith(f"host h2 cannot reach host h1 at 127.0.0.1 port {port} (")
    assert str(errors[1]).endswith("is a firewall in the way? --ports chooses the ports")


def test_taken_ports_are_passed_over_and_all_taken_ones_are_named() -> None:
    with ExitStack() as stack:
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = taken.getsockname()[1]

        with pytest.raises(MeshError, match=f"127.0.0.1 cannot listen on ports {port}-{port}: "):
            formation.listen("127.0.0.1", [port])
        free = stack.enter_context(formation.listen("127.0.0.1", [port, 0]))

        assert free.getsockname()[1] != port


def test_error_of_a_mesh_survives_the_way_between_processes() -> None:
    error: Any = pickle.loads(pickle.dumps(MeshError("no route", frozenset({(0, 2)}))))  # noqa: S301

    assert (str(error), error.pairs) == ("no route", {(0, 2)})
