"""Transport of frames between the parameter servers of several hosts.

A frame is a message with a header and some numbers. A mesh waits for frames from the other servers,
for sums of the workers of its own host, and for the deadline of the round. It passes these to the
state machine of `all_reduce`, and sends the frames that the state machine returns. Numbers are
received directly into their final memory.
"""

import os
import selectors
import socket
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic

from nanograd.distributed import all_reduce
from nanograd.distributed.all_reduce import AllReduce, FailureCause, FrameType, Header, MeshPlan
from nanograd.nn.optimizers import Vector

# Maximum bytes to wait for. A slow link delivers a slice in a hundred pieces, and a wake-up for
# each piece costs more than the transfer.
_WAKE_BYTES = 2**18
# Bytes to send at once, as a packet of its own (MSG_EOR). Linux cuts larger packets into Ethernet
# frames where a rate is limited by a token bucket of 64 KB, which costs more than all else in a
# round: with 200 hidden units at 1 Gbit/s, 1.7 times the CPU time.
_PACKET_BYTES = 56 * 1024


class _Connection:
    """A socket to a peer, with the frame that is arriving and the frames to send.

    Args:
        sock: the socket.
        usual: minimum number of bytes of the peer's frames.
    """

    def __init__(self, sock: socket.socket, usual: int) -> None:
        self.sock = sock
        self.is_watched = False  # whether the selector reports when the socket is writable
        self._outgoing: deque[memoryview] = deque()
        self._head = memoryview(bytearray(all_reduce.HEADER_BYTES))
        self._filled = 0  # bytes of the frame that have arrived
        self._usual, self._awaited = min(usual, _WAKE_BYTES), 0
        self._await(usual)

    @property
    def is_sending(self) -> bool:
        """Whether bytes wait to be sent."""
        return bool(self._outgoing)

    def send(self, header: Header, payload: Vector | None) -> None:
        """Queue a frame and send as much as possible."""
        self._outgoing.append(memoryview(header.pack()))
        if payload is not None and len(payload):
            self._outgoing.append(payload.data.cast("B"))
        self.flush()

    def flush(self) -> None:
        """Send queued bytes until the socket's buffer is full; OSError: the connection is lost."""
        while self._outgoing:
            parts, room = list[memoryview](), _PACKET_BYTES
            for each in self._outgoing:
                parts.append(each[:room])
                room -= len(parts[-1])
                if not room:
                    break
            try:
                sent = self.sock.sendmsg(parts, [], socket.MSG_EOR)
            except BlockingIOError:
                return
            while self._outgoing and sent >= len(self._outgoing[0]):
                sent -= len(self._outgoing.popleft())
            if sent:
                self._outgoing[0] = self._outgoing[0][sent:]

    def receive(self, machine: AllReduce, peer: int) -> Header | None:
        """Read bytes that have arrived; return the header once the whole frame has arrived.

        Raises:
            FrameError: the frame does not follow the protocol.
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
            raise ConnectionResetError("the peer closed the connection")
        self._filled += count
        if self._filled >= len(self._head):
            header = Header.unpack(bytes(self._head))
            header.check(planned)
            if self._filled == size or header.type is FrameType.ABORT:
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
    """The connections of one host to all others, for one generation.

    The bell is a file descriptor that becomes readable when local sums arrive.
    """

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
        return any(each.is_sending for each in self._connections.values())

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
                self.machine.fail(FailureCause.BAD_FRAME, {peer})
            except OSError:
                self.machine.fail(FailureCause.CONNECTION_LOST, {peer})
        self.machine.tick(monotonic())

    def close(self) -> None:
        """Send queued bytes if possible, and close all connections."""
        self._selector.close()
        for connection in self._connections.values():
            with suppress(OSError):
                connection.flush()
            connection.sock.close()

    def _send(self, peer: int, header: Header, payload: Vector | None) -> None:
        if self.machine.failure is not None and header.type is not FrameType.ABORT:
            return
        try:
            self._connections[peer].send(header, payload)
            self._watch(peer)
        except OSError:
            self.machine.fail(FailureCause.CONNECTION_LOST, {peer})

    def _watch(self, peer: int) -> None:
        """Let the selector report a writable socket only while bytes wait to be sent."""
        connection = self._connections[peer]
        if connection.is_sending is not connection.is_watched:
            connection.is_watched = connection.is_sending
            write = selectors.EVENT_WRITE if connection.is_sending else 0
            self._selector.modify(connection.sock, selectors.EVENT_READ | write, peer)
