"""Connections between the parameter servers of several hosts: who may form a mesh.

Each server listens on its host's address while the mesh is formed, and no longer. The host with the
higher index connects. Both sides prove that they know the generation's key by HMAC-SHA256 over all
fields and two nonces; a connection that fails is closed without a reply. Nothing is unpickled, and
no length is taken from a peer.
"""

import hmac
import os
import random
import selectors
import socket
import struct
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from hashlib import sha256
from time import monotonic
from typing import NamedTuple, TypeAlias

KEY_BYTES = 32
FORMATION_S = 15.0
_TRY_S, _FIRST_WAIT_S, _HANDSHAKE_S = 2.0, 0.25, 3.0
# Handshakes at a time. A caller that floods the listener drops its own: the oldest goes first.
_MAX_PENDING, _BACKLOG = 32, 1024
# magic, generation, sender, receiver
_HELLO = struct.Struct("<4sqHH")
_MAGIC, _NONCE_BYTES, _PROOF_BYTES = b"ngh1", 16, 32
_HELLO_BYTES = _HELLO.size + _NONCE_BYTES + _PROOF_BYTES
# A dead peer is found after 5 + 3 x 2 s without an acknowledgement, where the system has options.
_OPTIONS = {
    "TCP_NODELAY": 1,
    "TCP_KEEPIDLE": 5,
    "TCP_KEEPINTVL": 2,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 11_000,
}

_Handshake: TypeAlias = Generator[int, bytes, int]


class Endpoint(NamedTuple):
    """Where a server listens.

    Args:
        host: name of the host, for messages.
        address: IPv4 or IPv6 address.
        port: TCP port.
    """

    host: str
    address: str
    port: int

    @property
    def name(self) -> str:
        """Host and address, for messages."""
        return f"{self.host} at {self.address}"

    def __str__(self) -> str:
        return f"{self.name} port {self.port}"


class MeshError(Exception):
    """No mesh can be formed.

    Args:
        reason: names both ends of a connection that is missing.
        pairs: the hosts, by index, of each missing connection.
    """

    def __init__(self, reason: str, pairs: frozenset[tuple[int, int]] = frozenset()) -> None:
        super().__init__(reason, pairs)
        self.reason, self.pairs = reason, pairs

    def __str__(self) -> str:
        return self.reason


class _HandshakeError(Exception):
    """A peer that does not prove the key, or that is not expected."""


def listen(address: str, ports: Sequence[int]) -> socket.socket:
    """Listen on the first free port.

    Args:
        address: of this host, as its peers know it.
        ports: to try, in this order; 0 for any.

    Raises:
        MeshError: none is free, or the address is not this host's.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    reason: OSError | None = None
    for port in ports:
        try:
            listener = socket.create_server((address, port), family=family, backlog=_BACKLOG)
            listener.setblocking(False)
            return listener
        except OSError as error:
            reason = error
    which = f"ports {ports[0]}-{ports[-1]}" if ports[0] else "any port"
    raise MeshError(f"{address} cannot listen on {which}: {reason}")


class _Pending:
    """A connection whose handshake has not ended."""

    def __init__(self, handshake: _Handshake, peer: int | None) -> None:
        self.peer = peer  # the one that was called; None for a caller
        self._handshake, self._data, self._wanted = handshake, bytearray(), next(handshake)
        self.deadline = monotonic() + _HANDSHAKE_S

    def step(self, sock: socket.socket) -> int | None:
        """Read bytes that have arrived; return the peer when the handshake is complete."""
        data = sock.recv(self._wanted - len(self._data))
        if not data:
            raise _HandshakeError("the connection was closed")
        self._data.extend(data)
        if len(self._data) < self._wanted:
            return None
        received = bytes(self._data)
        self._data.clear()
        try:
            self._wanted = self._handshake.send(received)
        except StopIteration as done:
            return int(done.value)
        return None


class Formation:
    """The formation of a mesh: handshakes with all other hosts.

    Args:
        me: index of this host.
        generation: number of the membership.
        key: KEY_BYTES random bytes of the generation.
        endpoints: of all hosts.
    """

    def __init__(self, me: int, generation: int, key: bytes, endpoints: Sequence[Endpoint]) -> None:
        self._me, self._generation, self._key, self._endpoints = me, generation, key, endpoints
        self._pending: dict[socket.socket, _Pending] = {}
        self._reasons: dict[int, str] = {}
        # Time of the next try and the wait after it, for each peer that this host connects to.
        self._tries = {peer: (monotonic(), _FIRST_WAIT_S) for peer in range(me)}
        self.sockets: dict[int, socket.socket] = {}
        self.num_refused = 0

    def run(self, listener: socket.socket) -> dict[int, socket.socket]:
        """Connect to all other hosts and return a socket for each.

        Args:
            listener: of this host; closed afterwards.

        Raises:
            MeshError: a peer cannot be reached, or does not connect.
        """
        deadline = monotonic() + FORMATION_S
        with selectors.DefaultSelector() as self._selector, listener:
            self._selector.register(listener, selectors.EVENT_READ)
            try:
                while len(self.sockets) < len(self._endpoints) - 1:
                    if monotonic() > deadline:
                        raise self._error()
                    self._call_peers()
                    self._drop_late()
                    for key, _ in self._selector.select(0.05):
                        if key.fileobj is listener:
                            self._accept(listener)
                        elif isinstance(key.fileobj, socket.socket):
                            self._step(key.fileobj)
            except BaseException:
                for sock in self.sockets.values():
                    sock.close()
                raise
            finally:
                for sock in list(self._pending):
                    self._drop(sock)
        return self.sockets

    def _call_peers(self) -> None:
        for peer, (when, wait_s) in self._tries.items():
            if monotonic() < when or peer in self.sockets:
                continue
            jitter = random.uniform(0.75, 1.25)  # noqa: S311 - nothing secret
            self._tries[peer] = (monotonic() + wait_s * jitter, 2 * wait_s)
            endpoint = self._endpoints[peer]
            try:
                sock = socket.create_connection((endpoint.address, endpoint.port), timeout=_TRY_S)
            except OSError as error:
                self._reasons[peer] = str(error)
            else:
                who = (self._me, peer, self._generation)
                self._start(sock, _introduce(sock, *who, self._key), peer)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # no more callers, or one that has left already
            while True:
                caller, _ = listener.accept()
                if len(self._pending) >= _MAX_PENDING:
                    self._refuse(next(iter(self._pending)))
                try:
                    answer = _answer(caller, self._me, self._generation, self._key, self._awaits)
                    self._start(caller, answer)
                except OSError:
                    caller.close()
                    self.num_refused += 1

    def _awaits(self, peer: int) -> bool:
        """Return whether a host should connect to this one."""
        return self._me < peer < len(self._endpoints) and peer not in self.sockets

    def _start(self, sock: socket.socket, handshake: _Handshake, peer: int | None = None) -> None:
        sock.setblocking(False)
        self._pending[sock] = _Pending(handshake, peer)
        self._selector.register(sock, selectors.EVENT_READ)

    def _step(self, sock: socket.socket) -> None:
        try:
            peer = self._pending[sock].step(sock)
        except BlockingIOError:
            return
        except (OSError, _HandshakeError) as error:
            if (called := self._pending[sock].peer) is not None:
                self._reasons[called] = str(error)
            self._refuse(sock)
            return
        if peer is not None:
            self._selector.unregister(sock)
            del self._pending[sock]
            _tune(sock)
            self.sockets[peer] = sock

    def _drop_late(self) -> None:
        now = monotonic()
        for sock in [each for each, state in self._pending.items() if now > state.deadline]:
            self._refuse(sock)

    def _refuse(self, sock: socket.socket) -> None:
        self.num_refused += 1
        self._drop(sock)

    def _drop(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        del self._pending[sock]
        sock.close()

    def _error(self) -> MeshError:
        """Return an error that names both ends of a missing connection."""
        peers = (peer for peer in range(len(self._endpoints)) if peer != self._me)
        missing = [peer for peer in peers if peer not in self.sockets]
        pairs = [(min(self._me, peer), max(self._me, peer)) for peer in missing]
        (lower, higher), reason = pairs[0], self._reasons.get(missing[0], "it did not connect")
        return MeshError(
            f"host {self._endpoints[higher].host} cannot reach host {self._endpoints[lower]} "
            f"({reason}); is a firewall in the way? --ports chooses the ports",
            frozenset(pairs),
        )


def _introduce(sock: socket.socket, me: int, peer: int, generation: int, key: bytes) -> _Handshake:
    """Prove the key to a listening peer, and let it prove the key."""
    theirs = yield _NONCE_BYTES
    fields, mine = _HELLO.pack(_MAGIC, generation, me, peer), os.urandom(_NONCE_BYTES)
    sock.sendall(fields + mine + _proof(key, b"connect", fields, theirs, mine))
    if not hmac.compare_digest((yield _PROOF_BYTES), _proof(key, b"accept", fields, theirs, mine)):
        raise _HandshakeError("the peer does not know the key")
    return peer


def _answer(
    sock: socket.socket, me: int, generation: int, key: bytes, awaits: Callable[[int], bool]
) -> _Handshake:
    """Let a calling peer prove the key, and prove it."""
    mine = os.urandom(_NONCE_BYTES)
    sock.sendall(mine)
    hello = yield _HELLO_BYTES
    fields, rest = hello[: _HELLO.size], hello[_HELLO.size :]
    theirs, proof = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:]
    if not hmac.compare_digest(proof, _proof(key, b"connect", fields, mine, theirs)):
        raise _HandshakeError("the caller does not know the key")
    magic, their_generation, sender, receiver = _HELLO.unpack(fields)
    expected = magic == _MAGIC and their_generation == generation and receiver == me
    if not expected or not awaits(sender):
        raise _HandshakeError("a caller of another generation or host")
    sock.sendall(_proof(key, b"accept", fields, mine, theirs))
    return int(sender)


def _proof(key: bytes, role: bytes, fields: bytes, acceptor: bytes, connector: bytes) -> bytes:
    return hmac.new(key, b"|".join((role, fields, acceptor, connector)), sha256).digest()


def _tune(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS.items():
        if option := getattr(socket, name, None):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
