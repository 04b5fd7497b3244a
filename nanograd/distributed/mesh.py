"""Connections between the parameter servers of all hosts, together called a mesh.

Each server listens on its host's address only while the mesh is formed. Of two hosts, the one with
the higher index connects to the other. Both sides prove that they know the key of this mesh, by an
HMAC-SHA256 of their role, the indices of both hosts and two random numbers, one from each side. A
connection without this proof is closed without a reply. Nothing is unpickled, and all messages have
fixed lengths. Each connection has its own deadline, so a slow connection does not delay other
connections.

Then a mesh waits for frames from the other servers, for sums of the workers of its own host, and
for the deadline of the round. It passes these to the state machine of `all_reduce`, and sends the
frames that the state machine returns. Numbers are received directly into their final memory.
"""

import asyncio
import hmac
import os
import selectors
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from time import monotonic
from typing import NamedTuple

from nanograd.distributed import all_reduce
from nanograd.distributed.all_reduce import AllReduce, FailureCause, Header, MeshPlan
from nanograd.nn.optimizers import Vector

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
# Maximum bytes to wait for. A slow link delivers a slice in a hundred pieces, and a wake-up for
# each piece costs more than the transfer.
_WAKE_BYTES = 2**18
# Bytes to send at once, as a packet of its own (MSG_EOR). Linux cuts larger packets into Ethernet
# frames where a rate is limited by a token bucket of 64 KB, which costs more than all else in a
# round: with 200 hidden units at 1 Gbit/s, 1.7 times the CPU time.
_PACKET_BYTES = 56 * 1024


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


class _Connection:
    """A socket to a peer, whose frames have at least `usual` bytes, with the frames to send."""

    def __init__(self, sock: socket.socket, usual: int) -> None:
        self.sock = sock
        self.is_watched = False  # whether the selector reports when the socket is writable
        self.outgoing: deque[memoryview] = deque()
        self._head = memoryview(bytearray(all_reduce.HEADER_BYTES))
        self._filled = 0  # bytes of the frame that have arrived
        self._usual, self._awaited = min(usual, _WAKE_BYTES), 0
        self._await(usual)

    def send(self, header: Header, payload: Vector) -> None:
        """Queue a frame and send as much as possible."""
        self.outgoing.append(memoryview(header.pack()))
        if len(payload):
            self.outgoing.append(payload.data.cast("B"))
        self.flush()

    def flush(self) -> None:
        """Send queued bytes until the socket's buffer is full; OSError: the connection is lost."""
        while self.outgoing:
            parts, room = list[memoryview](), _PACKET_BYTES
            for each in self.outgoing:
                parts.append(each[:room])
                room -= len(parts[-1])
                if not room:
                    break
            try:
                sent = self.sock.sendmsg(parts, [], socket.MSG_EOR)
            except BlockingIOError:
                return
            while self.outgoing and sent >= len(self.outgoing[0]):
                sent -= len(self.outgoing.popleft())
            if sent:
                self.outgoing[0] = self.outgoing[0][sent:]

    def receive(self, machine: AllReduce, peer: int) -> Header | None:
        """Read bytes that have arrived; return the header once the whole frame has arrived.

        Raises:
            FrameError: the frame does not follow the protocol.
            EOFError: the peer has ended the exchange.
            OSError: the connection is lost.
        """
        planned, payload = machine.expect(peer)
        size = len(self._head) + payload.nbytes
        rest = payload.data.cast("B")[max(0, self._filled - len(self._head)) :]
        try:
            count, *_ = self.sock.recvmsg_into([self._head[self._filled :], rest])
        except BlockingIOError:
            return None
        if not count:
            raise EOFError
        self._filled += count
        if self._filled >= len(self._head):
            header = planned.read(bytes(self._head))
            if self._filled == size:
                self._filled = 0
                self._await(self._usual)
                return header
        self._await(size - self._filled)
        return None

    def _await(self, count: int) -> None:
        """Let the selector report when this many bytes can be read, or a usual frame if less."""
        awaited = min(count, self._usual)
        if awaited != self._awaited:
            self._awaited = awaited
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, awaited)


class Mesh:
    """The connections of a host in a generation; `bell` becomes readable when local sums arrive."""

    def __init__(
        self, plan: MeshPlan, sockets: Mapping[int, socket.socket], first_round: int, bell: int
    ) -> None:
        self.machine = AllReduce(plan, first_round, self._send)
        self._bell = bell
        usual = all_reduce.HEADER_BYTES + 4 * (plan.num_parameters // len(plan.nodes))
        self._connections = {peer: _Connection(sock, usual) for peer, sock in sockets.items()}
        self._selector = selectors.DefaultSelector()
        self._selector.register(bell, selectors.EVENT_READ)
        for peer, connection in self._connections.items():
            self._selector.register(connection.sock, selectors.EVENT_READ, peer)

    @property
    def is_sending(self) -> bool:
        """Whether bytes wait to be sent to some peer."""
        return any(each.outgoing for each in self._connections.values())

    def poll(self, timeout: float) -> None:
        """Wait for bytes or for the bell, and process them."""
        for key, events in self._selector.select(timeout):
            if key.data is None:
                os.read(self._bell, 4096)
                continue
            peer, connection = key.data, self._connections[key.data]
            try:
                if events & selectors.EVENT_WRITE and self.machine.failure is None:
                    connection.flush()
                    self._watch(peer)
                if events & selectors.EVENT_READ and self.machine.failure is None:
                    header = connection.receive(self.machine, peer)
                    if header is not None:
                        self.machine.receive(header)
            except all_reduce.FrameError:
                self.machine.fail(FailureCause.BAD_FRAME, peer)
            except EOFError:
                self.machine.fail(FailureCause.ABORTED, peer)
            except OSError:
                self.machine.fail(FailureCause.CONNECTION_LOST, peer)
        self.machine.tick(monotonic())

    def close(self) -> None:
        """Close all connections."""
        self._selector.close()
        for connection in self._connections.values():
            connection.sock.close()

    def _send(self, peer: int, header: Header, payload: Vector) -> None:
        if self.machine.failure is None:
            try:
                self._connections[peer].send(header, payload)
                self._watch(peer)
            except OSError:
                self.machine.fail(FailureCause.CONNECTION_LOST, peer)

    def _watch(self, peer: int) -> None:
        """Let the selector report a writable socket only while bytes wait to be sent."""
        connection = self._connections[peer]
        if (is_sending := bool(connection.outgoing)) is not connection.is_watched:
            connection.is_watched = is_sending
            write = selectors.EVENT_WRITE if is_sending else 0
            self._selector.modify(connection.sock, selectors.EVENT_READ | write, peer)
