"""All-reduce between the parameter servers of several hosts.

Every host runs a parameter server with all parameters. In a round, each server adds the gradients
of its own host's shards, which gives a sum for each tree node. Then the servers exchange these
sums, so that all of them have the total and apply the same update:

    reduce-scatter  host j receives slice j of every sum and adds these slices along the tree
    all-gather      each host sends its summed slice to all other hosts

If a gradient has n bytes, each of K hosts sends 2 n (K-1)/K bytes and receives as many, the minimum
for any method. The exchange takes two steps; a ring would take 2 (K-1). The tree fixes the order of
the additions, so the bits do not depend on K.

Hosts are at most one round apart, because a total needs a slice from every host. So two inboxes
suffice, one for even and one for odd rounds. The plan of the exchange determines the order of the
messages ("frames") of a host: in each round, its sums and then its total. So the memory for the
next frame is known before the frame arrives, and numbers are received directly into it. If the
header is not the planned one, the exchange ends. Then the host closes its connections, which ends
the exchange of the other hosts, too.

References:
    Thakur, Rabenseifner & Gropp (2005), "Optimization of collective communication operations in
    MPICH", section 4; Jiang et al. (2020), "A unified architecture for accelerating distributed DNN
    training in heterogeneous GPU/CPU clusters" (the bound).
"""

import os
import selectors
import socket
import struct
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from itertools import count
from time import monotonic
from typing import NamedTuple

import numpy as np

from nanograd.nn.optimizers import Vector
from nanograd.training.tree import TreeNode, tree_sum
from nanograd.training.worker import Contribution, add

MAGIC = b"ngr4"
# magic, sender, generation, round, tree node (first, end), offset and length of the slice, loss,
# number of images; little endian. The plan determines all but the last two.
_HEADER, _NUMBERS = struct.Struct("<4sHIqiiIIdq"), struct.Struct("<dq")
_PLANNED_BYTES = _HEADER.size - _NUMBERS.size
# Maximum bytes to wait for. A slow link delivers a slice in a hundred pieces, and a wake-up for
# each piece costs more than the transfer.
_WAKE_BYTES = 2**18
# Bytes to send at once, as a packet of its own (MSG_EOR). Linux cuts larger packets into Ethernet
# frames where a rate is limited by a token bucket of 64 KB, which costs more than all else in a
# round: with 200 hidden units at 1 Gbit/s, 1.7 times the CPU time.
_PACKET_BYTES = 56 * 1024


class Header(NamedTuple):
    """The fixed part of a frame."""

    sender: int  # index of the host
    generation: int  # number of the membership; a frame of another generation is refused
    round: int  # counted over all epochs
    node: TreeNode  # tree node of a sum; the root for a total, because no host has all shards
    offset: int  # first parameter of the slice
    length: int  # parameters in the slice
    loss: float = 0.0  # of a sum: summed over the images of the node
    number: int = 0  # of a sum: number of images of the node

    def pack(self) -> bytes:
        """Return the bytes of the header."""
        sender, generation, round_, node, *rest = self
        return _HEADER.pack(MAGIC, sender, generation, round_, *node, *rest)


class FailureCause(StrEnum):
    """Why an exchange ended."""

    STOPPED = "stopped"
    LATE = "late"
    CONNECTION_LOST = "connection lost"
    ABORTED = "aborted"
    BAD_FRAME = "bad frame"


@dataclass(frozen=True)
class ExchangeFailed:
    """The exchange of sums failed, so its connections cannot be used any more."""

    cause: FailureCause
    hosts: Sequence[str]  # names of all hosts
    waiting_for: frozenset[int] = frozenset()  # indices of hosts whose frames are missing
    peer: int | None = None  # index of the host that caused the failure

    def __str__(self) -> str:
        by = "" if self.peer is None else f" (host {self.hosts[self.peer]})"
        waiting_for = " and ".join(self.hosts[host] for host in sorted(self.waiting_for))
        return f"{self.cause}{by}, waiting for {waiting_for or 'no host'}"

    @property
    def suspects(self) -> frozenset[int]:
        """Indices of hosts from which frames are missing, or whose connection was lost."""
        if self.peer is None or self.cause is FailureCause.ABORTED:
            return self.waiting_for
        return self.waiting_for | {self.peer}


@dataclass(frozen=True, kw_only=True)
class MeshPlan:
    """Hosts and the tree nodes of their sums in a generation, while the membership is fixed."""

    generation: int
    me: int
    hosts: Sequence[str]  # names
    nodes: tuple[tuple[TreeNode, ...], ...]  # tree nodes of each host's sums
    root: TreeNode
    num_parameters: int

    @cached_property
    def peers(self) -> tuple[int, ...]:
        """The other hosts, the next one first, so that not all send to the same host at once."""
        size = len(self.nodes)
        return tuple((self.me + step) % size for step in range(1, size))

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """The parameters whose gradients each host adds."""
        size, whole = len(self.nodes), self.num_parameters
        return tuple(slice(whole * j // size, whole * (j + 1) // size) for j in range(size))


class _Inbox:
    """The received frames of one round."""

    def __init__(self, plan: MeshPlan) -> None:
        self.total: Vector = np.empty(plan.num_parameters, np.float32)
        nodes = [node for peer in plan.peers for node in plan.nodes[peer]]
        self.sums = {node: np.empty_like(self.total[plan.slices[plan.me]]) for node in nodes}
        self.reset()

    def reset(self) -> None:
        """Prepare for the frames of another round."""
        self.counts: dict[TreeNode, Contribution] = {}
        self.totals = set[int]()  # hosts whose slice of the total has arrived


class _Connection:
    """A socket to a peer, with the bytes to send and the frames to receive.

    `planned` yields the planned header of each frame of the peer, and memory for its payload.
    Frames have at least `usual` bytes.
    """

    def __init__(
        self, sock: socket.socket, planned: Iterator[tuple[Header, Vector]], usual: int
    ) -> None:
        self.sock, self._planned = sock, planned
        self.is_watched = False  # whether the selector reports when the socket is writable
        self.outgoing: deque[memoryview] = deque()
        self._head = memoryview(bytearray(_HEADER.size))
        self._usual, self._awaited = min(usual, _WAKE_BYTES), 0
        self._expect()

    def _expect(self) -> None:
        """Prepare for the next frame."""
        self._header, payload = next(self._planned)
        self._payload, self._filled = payload.data.cast("B"), 0  # bytes that have arrived
        self._await(self._usual)

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

    def receive(self, last_round: int) -> Header | None:
        """Read bytes that have arrived; return the header once the whole frame has arrived.

        Raises:
            ValueError: the frame is not the planned one, or its round is above `last_round`.
            EOFError: the peer has ended the exchange.
            OSError: the connection is lost.
        """
        head, header = self._head, self._header
        if header.round > last_round:
            raise ValueError("the peer is too far ahead")
        rest = self._payload[max(0, self._filled - len(head)) :]
        try:
            received, *_ = self.sock.recvmsg_into([head[self._filled :], rest])
        except BlockingIOError:
            return None
        if not received:
            raise EOFError
        self._filled += received
        if self._filled >= len(head) and head[:_PLANNED_BYTES] != header.pack()[:_PLANNED_BYTES]:
            raise ValueError("the frame is not the planned one")
        if (left := len(head) + len(self._payload) - self._filled) > 0:
            self._await(left)
            return None
        self._expect()
        loss, number = _NUMBERS.unpack_from(head, _PLANNED_BYTES)
        return header._replace(loss=loss, number=number)

    def _await(self, size: int) -> None:
        """Let the selector report when this many bytes can be read, or a usual frame if less."""
        awaited = min(size, self._usual)
        if awaited != self._awaited:
            self._awaited = awaited
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, awaited)


class AllReduce:
    """The exchange of sums from the view of one host, over a socket to each other host.

    The same hosts take part from the beginning to the end (a generation). `bell` becomes readable
    when sums of this host arrive.

    Attributes:
        deadline: monotonic time when the round fails; set when it begins, None after it.
        ready: total of the round over all hosts; None until it is complete.
        failure: why the exchange failed; None if it has not failed.
    """

    def __init__(
        self, plan: MeshPlan, sockets: Mapping[int, socket.socket], first_round: int, bell: int
    ) -> None:
        self.plan, self.round, self._bell = plan, first_round, bell
        self._mine = plan.slices[plan.me]
        self._inboxes = (_Inbox(plan), _Inbox(plan))
        self._own: Mapping[TreeNode, Contribution] | None = None
        self._total: Contribution | None = None
        self.deadline: float | None = None
        self.ready: Contribution | None = None
        self.failure: ExchangeFailed | None = None
        usual = _HEADER.size + 4 * (plan.num_parameters // len(plan.nodes))
        self._connections = {
            peer: _Connection(sock, self._planned(peer), usual) for peer, sock in sockets.items()
        }
        self._selector = selectors.DefaultSelector()
        self._selector.register(bell, selectors.EVENT_READ)
        for peer, sock in sockets.items():
            self._selector.register(sock, selectors.EVENT_READ, peer)

    def _planned(self, peer: int) -> Iterator[tuple[Header, Vector]]:
        root, part = self.plan.root, self.plan.slices[peer]
        for round_ in count(self.round):
            inbox = self._inbox(round_)
            for node in self.plan.nodes[peer]:
                yield self._header(peer, round_, node, self._mine), inbox.sums[node]
            yield self._header(peer, round_, root, part), inbox.total[part]

    def _header(self, sender: int, round_: int, node: TreeNode, part: slice) -> Header:
        return Header(
            sender, self.plan.generation, round_, node, part.start, part.stop - part.start
        )

    def _inbox(self, round_: int) -> _Inbox:
        return self._inboxes[round_ % 2]

    def add_local(self, sums: Sequence[Contribution]) -> None:
        """Send each host its slice of this host's sums; they must not change before `applied`."""
        self._own = {each.node: each for each in sums}
        for peer in self.plan.peers:
            part = self.plan.slices[peer]
            for each in sums:
                header = self._header(self.plan.me, self.round, each.node, part)
                header = header._replace(loss=each.loss, number=each.num_images)
                self._send(peer, header, each.gradient[part])
        self._advance()

    def applied(self) -> None:
        """Continue with the next round; to call after the update of this round."""
        self._inbox(self.round).reset()
        self.round += 1
        self._own = self._total = self.deadline = self.ready = None

    def fail(self, cause: FailureCause, peer: int | None = None) -> None:
        """End the exchange, unless it has failed already; to inform peers, close it."""
        if self.failure is None:
            self.failure = ExchangeFailed(cause, self.plan.hosts, self.waiting_for(), peer)

    def waiting_for(self) -> frozenset[int]:
        """Return the hosts whose frames of this round are missing; none between two rounds."""
        if self.deadline is None:
            return frozenset()
        inbox, nodes, peers = self._inbox(self.round), self.plan.nodes, self.plan.peers
        if self._total is None:
            return frozenset(peer for peer in peers if not inbox.counts.keys() >= set(nodes[peer]))
        return frozenset(peers) - inbox.totals

    @property
    def is_sending(self) -> bool:
        """Whether bytes wait to be sent to some peer."""
        return any(each.outgoing for each in self._connections.values())

    def poll(self, timeout: float) -> None:
        """Wait for bytes or for the bell, and process them; fail if the deadline has passed."""
        for key, events in self._selector.select(timeout):
            if key.data is None:
                os.read(self._bell, 4096)
                continue
            peer, connection = key.data, self._connections[key.data]
            try:
                if events & selectors.EVENT_WRITE and self.failure is None:
                    connection.flush()
                    self._watch(peer)
                if events & selectors.EVENT_READ and self.failure is None:
                    header = connection.receive(self.round + 1)
                    if header is not None:
                        self._take(header)
            except ValueError:
                self.fail(FailureCause.BAD_FRAME, peer)
            except EOFError:
                self.fail(FailureCause.ABORTED, peer)
            except OSError:
                self.fail(FailureCause.CONNECTION_LOST, peer)
        if self.deadline is not None and monotonic() >= self.deadline:
            self.fail(FailureCause.LATE)

    def close(self) -> None:
        """Close all connections."""
        self._selector.close()
        for connection in self._connections.values():
            connection.sock.close()

    def _take(self, header: Header) -> None:
        """Process a frame that has arrived."""
        node, inbox = header.node, self._inbox(header.round)
        if node == self.plan.root:
            inbox.totals.add(header.sender)
        else:
            facts = header.loss, header.number
            inbox.counts[node] = Contribution(header.round, node, inbox.sums[node], *facts)
        self._advance()

    def _advance(self) -> None:
        """Add this host's slice when all sums have arrived; set `ready` when all totals have."""
        plan, inbox, mine = self.plan, self._inbox(self.round), self._mine
        if self._own is None or len(inbox.counts) < len(inbox.sums):
            return
        if self._total is None:
            known = dict(inbox.counts)
            for node, own in self._own.items():
                known[node] = replace(own, gradient=own.gradient[mine])
            total = tree_sum(plan.root, known.get, add)
            inbox.total[mine] = total.gradient
            self._total = replace(total, gradient=inbox.total)
            header = self._header(plan.me, self.round, plan.root, mine)
            for peer in plan.peers:
                self._send(peer, header, inbox.total[mine])
        if len(inbox.totals) == len(plan.peers) and self.failure is None:
            self.ready = self._total

    def _send(self, peer: int, header: Header, payload: Vector) -> None:
        if self.failure is None:
            try:
                self._connections[peer].send(header, payload)
                self._watch(peer)
            except OSError:
                self.fail(FailureCause.CONNECTION_LOST, peer)

    def _watch(self, peer: int) -> None:
        """Let the selector report a writable socket only while bytes wait to be sent."""
        connection = self._connections[peer]
        if (is_sending := bool(connection.outgoing)) is not connection.is_watched:
            connection.is_watched = is_sending
            write = selectors.EVENT_WRITE if is_sending else 0
            self._selector.modify(connection.sock, selectors.EVENT_READ | write, peer)
