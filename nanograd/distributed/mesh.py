"""Connections between the parameter servers of all hosts, together called a mesh.

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
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import NamedTuple

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
# Congestion control, the first that the system allows. In a round, the peers of a slow link take
# turns. BBR, the default of some systems, measures the share of each connection for seconds, and
# leaves the link idle while the other peer is silent. With 800 hidden units at 100 Mbit/s, a round
# takes 284 ms with these, and 313 to 330 ms with BBR; with a queue of 5 ms in the router, 295 and
# 469 ms. Up to 0.1 % of lost packets, these are as fast as BBR or faster. With 1 %, a round takes
# 378 and 319 ms (2026-12-03).
_CONGESTION = (b"cubic", b"reno")


class Endpoint(NamedTuple):
    """The name of a host, and the address and TCP port where its server listens."""

    host: str
    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.host} at {self.address} port {self.port}"


class MeshError(Exception):
    """No mesh can be formed; `pairs` has the indices of the hosts of each missing connection."""

    def __init__(self, reason: str, pairs: frozenset[tuple[int, int]] = frozenset()) -> None:
        super().__init__(reason, pairs)
        self.reason, self.pairs = reason, pairs

    def __str__(self) -> str:
        return self.reason


def open_listener(address: str, ports: Sequence[int]) -> socket.socket:
    """Listen at an address of this host, on the first free port (0: any); MeshError without one."""
    reason: OSError | None = None
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in ports:
        try:
            return socket.create_server((address, port), family=family, backlog=_BACKLOG)
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
        self._handshakes = Counter[str]()  # unfinished handshakes of callers, by address
        self._is_complete = asyncio.Event()
        self.sockets: dict[int, socket.socket] = {}

    @property
    def num_refused(self) -> int:
        """Number of incoming connections that were not kept."""
        return self._num_callers - sum(peer > self._me for peer in self.sockets)

    def run(self, listener: socket.socket) -> dict[int, socket.socket]:
        """Connect to all other hosts; return a socket for each, or raise MeshError."""
        try:
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
        return self.sockets

    async def _form(self, listener: socket.socket) -> None:
        """Wait for all connections; asyncio.run then cancels unfinished handshakes."""
        server = await asyncio.start_server(self._hear, sock=listener, backlog=_BACKLOG)
        # The event loop has only weak references to tasks.
        calls = [asyncio.create_task(self._call(peer)) for peer in range(self._me)]
        try:
            async with asyncio.timeout(FORMATION_S):
                await self._is_complete.wait()
        finally:
            server.close()
            del calls

    async def _call(self, peer: int) -> None:
        """Connect to a peer; repeat this until it succeeds."""
        endpoint = self._endpoints[peer]
        while peer not in self.sockets:
            try:
                async with asyncio.timeout(_TRY_S):
                    connection = await asyncio.open_connection(endpoint.address, endpoint.port)
                    with closing(connection[1]):
                        await self._introduce(peer, *connection)
            except EOFError:
                self._reasons[peer] = "the connection was closed"
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else str(error)
                self._reasons[peer] = reason or f"no reply in {_TRY_S:.0f} s"
            await asyncio.sleep(_WAIT_S)

    async def _hear(self, reader: StreamReader, writer: StreamWriter) -> None:
        address, *_ = writer.get_extra_info("peername")
        self._num_callers += 1
        self._handshakes[address] += 1
        with closing(writer), suppress(OSError, EOFError):
            if self._handshakes[address] <= _MAX_CALLERS:
                async with asyncio.timeout(_TRY_S):
                    await self._answer(reader, writer)
        self._handshakes[address] -= 1

    async def _introduce(self, peer: int, reader: StreamReader, writer: StreamWriter) -> None:
        """Introduce this host to a peer; both sides prove that they know the key."""
        theirs, mine = await reader.readexactly(_NONCE_BYTES), os.urandom(_NONCE_BYTES)
        hosts = _HOSTS.pack(self._me, peer)
        writer.write(hosts + mine + self._proof(b"connect", hosts, theirs, mine))
        proof = self._proof(b"accept", hosts, theirs, mine)
        if not hmac.compare_digest(await reader.readexactly(_PROOF_BYTES), proof):
            raise ConnectionError("the peer does not know the key")
        self._keep(peer, writer)

    async def _answer(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Answer a caller; both sides prove that they know the key."""
        mine = os.urandom(_NONCE_BYTES)
        writer.write(mine)
        hosts = await reader.readexactly(_HOSTS.size)
        theirs = await reader.readexactly(_NONCE_BYTES)
        proof = self._proof(b"connect", hosts, mine, theirs)
        if not hmac.compare_digest(await reader.readexactly(_PROOF_BYTES), proof):
            raise ConnectionError("the caller does not know the key")
        sender, receiver = _HOSTS.unpack(hosts)
        if receiver != self._me or not self._me < sender < len(self._endpoints):
            raise ConnectionError("the caller means another host")
        writer.write(self._proof(b"accept", hosts, mine, theirs))
        self._keep(sender, writer)

    def _proof(self, role: bytes, hosts: bytes, acceptor: bytes, connector: bytes) -> bytes:
        return hmac.digest(self._key, role + hosts + acceptor + connector, "sha256")

    def _keep(self, peer: int, writer: StreamWriter) -> None:
        """Keep the connection of a peer, which sends no frame before all hosts are connected."""
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _OPTIONS.items():
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        for name in _CONGESTION:
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
                break
        if before := self.sockets.pop(peer, None):  # the peer has closed the earlier connection
            before.close()
        self.sockets[peer] = sock.dup()
        if len(self.sockets) == len(self._endpoints) - 1:
            self._is_complete.set()
