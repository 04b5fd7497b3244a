"""TCP connections between the parameter servers of several hosts.

Formation: each server listens on its host's address while the mesh is formed, and no longer. The
host with the higher index connects. Both sides prove that they know the generation's key by
HMAC-SHA256 over all fields and two nonces; a connection that fails is closed without a reply. After
that, frames of `all_reduce` travel over non-blocking sockets: payloads are received into their
final memory and sent from it. Nothing is unpickled, and no length is taken from a peer.
"""

import hmac
import os
import random
import selectors
import socket
import struct
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from time import monotonic
from typing import NamedTuple, TypeAlias

from nanograd.distributed.all_reduce import (
    HEADER_BYTES,
    Action,
    AllReduce,
    Apply,
    FrameError,
    Header,
    MeshPlan,
    NodeSum,
    Send,
)
from nanograd.nn.optimizers import Vector
from nanograd.training.tree import TreeNode

KEY_BYTES = 32
FORMATION_S = 15.0
_TRY_S, _FIRST_WAIT_S, _HANDSHAKE_S = 2.0, 0.25, 3.0
_MAX_PENDING = 32
# magic, generation, sender, receiver
_HELLO = struct.Struct("<4sqHH")
_MAGIC, _NONCE_BYTES, _PROOF_BYTES = b"ngh1", 16, 32
_HELLO_BYTES = _HELLO.size + _NONCE_BYTES + _PROOF_BYTES
# Linux finds a dead peer after 5 + 3 x 2 s without an acknowledgement.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3))
_USER_TIMEOUT_MS = 11_000

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

    def __str__(self) -> str:
        return f"{self.host} at {self.address} port {self.port}"


class MeshError(Exception):
    """No mesh can be formed; the message names both ends."""


class _HandshakeError(Exception):
    """A peer that does not prove the key, or that is not expected."""


def listen(address: str, ports: Sequence[int] = (0,)) -> socket.socket:
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
            listener = socket.create_server((address, port), family=family, backlog=_MAX_PENDING)
            listener.setblocking(False)
            return listener
        except OSError as error:
            reason = error
    raise MeshError(f"{address} cannot listen on ports {ports[0]}-{ports[-1]}: {reason}")


class _Pending:
    """A connection whose handshake has not ended."""

    def __init__(self, handshake: _Handshake) -> None:
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
                        raise MeshError(self._explain())
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
                self._start(sock, _introduce(sock, *who, self._key))

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            caller, _ = listener.accept()
            if len(self._pending) < _MAX_PENDING:
                answer = _answer(caller, self._me, self._generation, self._key, self.sockets)
                self._start(caller, answer)
            else:
                caller.close()
                self.num_refused += 1

    def _start(self, sock: socket.socket, handshake: _Handshake) -> None:
        sock.setblocking(False)
        self._pending[sock] = _Pending(handshake)
        self._selector.register(sock, selectors.EVENT_READ)

    def _step(self, sock: socket.socket) -> None:
        try:
            peer = self._pending[sock].step(sock)
        except BlockingIOError:
            return
        except (OSError, _HandshakeError) as error:
            for each in self._tries:
                self._reasons.setdefault(each, str(error))
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

    def _explain(self) -> str:
        """Return a message that names both ends of a missing connection."""
        peers = (peer for peer in range(len(self._endpoints)) if peer != self._me)
        missing = next(peer for peer in peers if peer not in self.sockets)
        lower, higher = sorted(
            (self._endpoints[self._me], self._endpoints[missing]), key=self._endpoints.index
        )
        reason = self._reasons.get(missing, "it did not connect in time")
        return (
            f"host {higher.host} cannot reach host {lower}: {reason}; "
            "is a firewall in the way? --ports chooses the ports"
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
    sock: socket.socket, me: int, generation: int, key: bytes, connected: Mapping[int, object]
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
    if not expected or sender <= me or sender in connected:
        raise _HandshakeError("a caller of another generation or host")
    sock.sendall(_proof(key, b"accept", fields, mine, theirs))
    return int(sender)


def _proof(key: bytes, role: bytes, fields: bytes, acceptor: bytes, connector: bytes) -> bytes:
    return hmac.new(key, b"|".join((role, fields, acceptor, connector)), sha256).digest()


def _tune(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)


class _Connection:
    """A socket to a peer, with the frame that is arriving and those that wait to be sent."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._outgoing: deque[memoryview] = deque()
        self._head = memoryview(bytearray(HEADER_BYTES))
        self._header: Header | None = None
        self._target, self._filled = self._head, 0

    @property
    def is_sending(self) -> bool:
        """Whether bytes wait to be sent."""
        return bool(self._outgoing)

    def send(self, header: Header, payload: Vector | None) -> None:
        """Queue a frame and send as much as possible."""
        self._outgoing.append(memoryview(header.pack()))
        if payload is not None:
            self._outgoing.append(payload.data.cast("B"))
        self.flush()

    def flush(self) -> None:
        """Send queued bytes until the socket is full.

        Raises:
            OSError: the connection is lost.
        """
        while self._outgoing:
            try:
                sent = self.sock.sendmsg(list(self._outgoing)[:16])
            except BlockingIOError:
                return
            while self._outgoing and sent >= len(self._outgoing[0]):
                sent -= len(self._outgoing.popleft())
            if sent:
                self._outgoing[0] = self._outgoing[0][sent:]

    def receive(self, machine: AllReduce) -> Header | None:
        """Read bytes that have arrived; return the header of a complete frame.

        Raises:
            FrameError: the frame does not follow the protocol.
            OSError: the connection is lost.
        """
        while True:
            try:
                count = self.sock.recv_into(self._target[self._filled :])
            except BlockingIOError:
                return None
            if not count:
                raise ConnectionResetError("the peer closed the connection")
            self._filled += count
            if self._filled < len(self._target):
                continue
            self._filled = 0
            if self._header is None:
                header = Header.unpack(bytes(self._head))
                buffer = machine.buffer_for(header)
                if buffer is None or not len(buffer):
                    return header
                self._header, self._target = header, buffer.data.cast("B")
            else:
                header, self._header, self._target = self._header, None, self._head
                return header


class Mesh:
    """The connections of one host to all others, for one generation.

    Args:
        plan: who sends what.
        sockets: one for each peer.
        first_round: the first round to exchange.
        bell: a file descriptor that becomes readable when local sums arrive.
    """

    def __init__(
        self, plan: MeshPlan, sockets: Mapping[int, socket.socket], first_round: int, bell: int
    ) -> None:
        self.machine = AllReduce(plan, first_round)
        self.ready: Apply | None = None
        self._bell = bell
        self._connections = {peer: _Connection(sock) for peer, sock in sockets.items()}
        self._selector = selectors.DefaultSelector()
        self._selector.register(bell, selectors.EVENT_READ)
        for peer, connection in self._connections.items():
            self._selector.register(connection.sock, selectors.EVENT_READ, peer)

    def start_round(self, deadline: float, digest: int | None) -> None:
        """Start a round; see `AllReduce.start_round`."""
        self._carry_out(self.machine.start_round(deadline, digest))

    def add_local(self, sums: Mapping[TreeNode, NodeSum]) -> None:
        """Exchange the sums of this host."""
        self._carry_out(self.machine.add_local(sums))

    def applied(self) -> None:
        """Go on to the next round."""
        self.ready = None
        self.machine.applied()

    def stop(self) -> None:
        """End the exchange and let the peers know."""
        self._carry_out(self.machine.stop())

    def poll(self, timeout: float) -> None:
        """Wait for bytes or for the bell, and process them."""
        for key, events in self._selector.select(timeout):
            if key.data is None:
                os.read(self._bell, 4096)
            elif self.machine.failure is None:
                self._process(key.data, events)
        self._carry_out(self.machine.tick(monotonic()))

    def close(self) -> None:
        """Send what is queued if possible, and close all connections."""
        self._selector.close()
        for connection in self._connections.values():
            with suppress(OSError):
                connection.flush()
            connection.sock.close()

    def _process(self, peer: int, events: int) -> None:
        connection = self._connections[peer]
        try:
            if events & selectors.EVENT_WRITE:
                connection.flush()
                self._watch(peer)
            while events & selectors.EVENT_READ and self.machine.failure is None:
                header = connection.receive(self.machine)
                if header is None:
                    break
                self._carry_out(self.machine.receive(header))
        except FrameError:
            self._carry_out(self.machine.refuse(peer))
        except OSError:
            self._carry_out(self.machine.lose(peer))

    def _carry_out(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Apply):
                self.ready = action
            elif isinstance(action, Send):
                try:
                    self._connections[action.peer].send(action.header, action.payload)
                    self._watch(action.peer)
                except OSError:
                    if self.machine.failure is None:
                        self._carry_out(self.machine.lose(action.peer))
                        return

    def _watch(self, peer: int) -> None:
        """Wait for a socket to become writable only while bytes wait to be sent."""
        connection = self._connections[peer]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.is_sending else 0)
        if self._selector.get_key(connection.sock).events != events:
            self._selector.modify(connection.sock, events, peer)
