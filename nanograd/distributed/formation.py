"""Authenticated connections between the parameter servers of all hosts, together called a mesh.

Each server listens on its host's address only while the mesh is formed. Of two hosts, the one with
the higher index connects to the other. Both sides prove that they know the key of this mesh, by an
HMAC-SHA256 of their role, the indices of both hosts and two random numbers, one from each side. A
connection without this proof is closed without a reply. Nothing is unpickled, and all messages have
fixed lengths. Each connection has its own deadline, so a slow connection does not delay other
connections.
"""

import asyncio
import hmac
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

KEY_BYTES = 32
# Seconds for the whole mesh, for one connection, and between two attempts to connect.
FORMATION_S, _TRY_S, _WAIT_S = 15.0, 3.0, 0.25
# Maximum unfinished handshakes of one address, so that it cannot keep out others; listen backlog.
_MAX_CALLERS, _BACKLOG = 64, 1024
# sender, receiver
_HOSTS = struct.Struct("<HH")
_NONCE_BYTES, _PROOF_BYTES = 16, 32
# With these options, a dead peer is detected after 5 + 3 x 2 s without a reply.
_OPTIONS = {
    socket.TCP_NODELAY: 1,
    socket.TCP_KEEPIDLE: 5,
    socket.TCP_KEEPINTVL: 2,
    socket.TCP_KEEPCNT: 3,
    socket.TCP_USER_TIMEOUT: 11_000,
}


class Endpoint(NamedTuple):
    """The name of a host, and the address and TCP port where its server listens."""

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
    """No mesh can be formed; `pairs` has the indices of the hosts of each missing connection."""

    def __init__(self, reason: str, pairs: frozenset[tuple[int, int]] = frozenset()) -> None:
        super().__init__(reason, pairs)
        self.reason, self.pairs = reason, pairs

    def __str__(self) -> str:
        return self.reason


def listen(address: str, ports: Sequence[int]) -> socket.socket:
    """Listen at an address of this host, on the first free port; port 0 stands for any.

    Raises:
        MeshError: no port is free.
    """
    reason: OSError | None = None
    for port in ports:
        try:
            return socket.create_server((address, port), family=_family(address), backlog=_BACKLOG)
        except OSError as error:
            reason = error
    which = f"ports {ports[0]}-{ports[-1]}" if ports[0] else "any port"
    raise MeshError(f"{address} cannot listen on {which}: {reason}")


class Formation:
    """The handshakes of host `me` with all others; the key of KEY_BYTES is for this mesh only."""

    def __init__(self, me: int, key: bytes, endpoints: Sequence[Endpoint]) -> None:
        self._me, self._key, self._endpoints = me, key, endpoints
        self._num_callers = 0
        self._reasons: dict[int, str] = {}
        # Connections with an unfinished handshake, and the address of the other side.
        self._handshakes: dict[socket.socket, str] = {}
        self._tasks = set[asyncio.Task[None]]()
        self._is_complete = asyncio.Event()
        self.sockets: dict[int, socket.socket] = {}

    @property
    def num_refused(self) -> int:
        """Number of incoming connections that were not kept."""
        return self._num_callers - sum(peer > self._me for peer in self.sockets)

    def run(self, listener: socket.socket) -> dict[int, socket.socket]:
        """Connect to all other hosts; return a socket for each, or raise MeshError."""
        try:
            with listener:
                asyncio.run(self._form(listener))
        except TimeoutError:
            for sock in self.sockets.values():
                sock.close()
            missing = sorted({*range(len(self._endpoints))} - {self._me, *self.sockets})
            pairs = [(min(self._me, peer), max(self._me, peer)) for peer in missing]
            lower, higher = pairs[0]
            reason = self._reasons.get(lower, "it did not connect")
            raise MeshError(
                f"host {self._endpoints[higher].host} cannot reach host {self._endpoints[lower]} "
                f"({reason}); is a firewall in the way? --ports chooses the ports",
                frozenset(pairs),
            ) from None
        finally:
            for sock in self._handshakes:
                sock.close()
        return self.sockets

    async def _form(self, listener: socket.socket) -> None:
        """Wait for all connections; asyncio.run then cancels unfinished handshakes."""
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.add_reader(listener, self._accept, listener)
        for peer in range(self._me):
            self._start(self._call(peer))
        try:
            async with asyncio.timeout(FORMATION_S):
                await self._is_complete.wait()
        finally:
            loop.remove_reader(listener)

    def _start(self, handshake: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(handshake)
        self._tasks.add(task)  # the event loop has only weak references
        task.add_done_callback(self._tasks.discard)

    async def _call(self, peer: int) -> None:
        """Connect to a peer; repeat this until it succeeds."""
        while peer not in self.sockets:
            try:
                address = self._endpoints[peer].address
                sock = socket.socket(_family(address))
                self._handshakes[sock] = address
                await self._keep_if_proved(sock, partial(self._introduce, peer))
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else str(error)
                self._reasons[peer] = reason or f"no reply in {_TRY_S:.0f} s"
                await asyncio.sleep(_WAIT_S)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # the caller has already gone
            caller, (address, *_) = listener.accept()
            self._num_callers += 1
            if list(self._handshakes.values()).count(address) < _MAX_CALLERS:
                self._handshakes[caller] = address
                self._start(self._hear(caller))
            else:
                caller.close()

    async def _hear(self, caller: socket.socket) -> None:
        with suppress(OSError):
            await self._keep_if_proved(caller, self._answer)

    async def _keep_if_proved(
        self, sock: socket.socket, handshake: Callable[[socket.socket], Awaitable[int]]
    ) -> None:
        """Keep a connection if the peer proves the key in time, else close it; raise OSError."""
        sock.setblocking(False)
        try:
            async with asyncio.timeout(_TRY_S):
                peer = await handshake(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _OPTIONS.items():
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        except OSError:
            del self._handshakes[sock]
            sock.close()
            raise
        del self._handshakes[sock]
        if before := self.sockets.pop(peer, None):  # the peer has closed the earlier connection
            before.close()
        self.sockets[peer] = sock
        if len(self.sockets) == len(self._endpoints) - 1:
            self._is_complete.set()

    async def _introduce(self, peer: int, sock: socket.socket) -> int:
        """Connect to a listening peer; both sides prove that they know the key."""
        loop, endpoint = asyncio.get_running_loop(), self._endpoints[peer]
        await loop.sock_connect(sock, (endpoint.address, endpoint.port))
        theirs = await _read(sock, _NONCE_BYTES)
        hosts, mine = _HOSTS.pack(self._me, peer), os.urandom(_NONCE_BYTES)
        proof = self._proof(b"connect", hosts, theirs, mine)
        await loop.sock_sendall(sock, hosts + mine + proof)
        proof = self._proof(b"accept", hosts, theirs, mine)
        if not hmac.compare_digest(await _read(sock, _PROOF_BYTES), proof):
            raise ConnectionError("the peer does not know the key")
        return peer

    async def _answer(self, sock: socket.socket) -> int:
        """Answer a caller; both sides prove that they know the key. Return the caller's index."""
        loop, mine = asyncio.get_running_loop(), os.urandom(_NONCE_BYTES)
        await loop.sock_sendall(sock, mine)
        hosts = await _read(sock, _HOSTS.size)
        theirs = await _read(sock, _NONCE_BYTES)
        proof = self._proof(b"connect", hosts, mine, theirs)
        if not hmac.compare_digest(await _read(sock, _PROOF_BYTES), proof):
            raise ConnectionError("the caller does not know the key")
        sender, receiver = _HOSTS.unpack(hosts)
        if receiver != self._me or not self._me < sender < len(self._endpoints):
            raise ConnectionError("the caller means another host")
        await loop.sock_sendall(sock, self._proof(b"accept", hosts, mine, theirs))
        return int(sender)

    def _proof(self, role: bytes, hosts: bytes, acceptor: bytes, connector: bytes) -> bytes:
        return hmac.digest(self._key, role + hosts + acceptor + connector, "sha256")


async def _read(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        if not (more := await asyncio.get_running_loop().sock_recv(sock, count - len(data))):
            raise ConnectionError("the connection was closed")
        data += more
    return data


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
