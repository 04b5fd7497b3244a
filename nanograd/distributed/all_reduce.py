"""All-reduce between the parameter servers of several hosts, as a state machine without I/O.

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
next frame is known before the frame arrives. If the header is not the planned one, the exchange
ends. Then the host closes its connections, which ends the exchange of the other hosts, too.

References:
    Thakur, Rabenseifner & Gropp (2005), "Optimization of collective communication operations in
    MPICH", section 4; Jiang et al. (2020), "A unified architecture for accelerating distributed DNN
    training in heterogeneous GPU/CPU clusters" (the bound).
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

import numpy as np

from nanograd.nn.optimizers import Vector
from nanograd.training.tree import TreeNode, tree_sum
from nanograd.training.worker import Contribution, add

MAGIC = b"ngr4"
# magic, sender, generation, round, tree node (first, end), offset and length of the slice, loss,
# number of images; little endian. The plan determines all but the last two.
_HEADER, _NUMBERS = struct.Struct("<4sHIqiiIIdq"), struct.Struct("<dq")
HEADER_BYTES = _HEADER.size
_PLANNED_BYTES = HEADER_BYTES - _NUMBERS.size


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

    def read(self, data: bytes) -> "Header":
        """Return this planned header with the numbers in `data`; FrameError: it is another one."""
        if not data.startswith(self.pack()[:_PLANNED_BYTES]):
            raise FrameError(f"{data.hex()}, expected {self}")
        loss, number = _NUMBERS.unpack_from(data, _PLANNED_BYTES)
        return self._replace(loss=loss, number=number)


class FrameError(Exception):
    """A frame that does not follow the protocol; its connection must be closed."""


# Sends a frame to a peer. The payload must not change before it is sent.
Send = Callable[[int, Header, Vector], None]


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

    def slice_of(self, host: int) -> slice:
        """Return the parameters whose gradients a host adds."""
        size = len(self.nodes)
        return slice(self.num_parameters * host // size, self.num_parameters * (host + 1) // size)


class _Inbox:
    """The received frames of one round."""

    def __init__(self, plan: MeshPlan, mine: slice) -> None:
        self.total: Vector = np.empty(plan.num_parameters, np.float32)
        nodes = [node for peer in plan.peers for node in plan.nodes[peer]]
        self.sums = {node: np.empty_like(self.total[mine]) for node in nodes}
        self.reset()

    def reset(self) -> None:
        """Prepare for the frames of another round."""
        self.counts: dict[TreeNode, Contribution] = {}
        self.totals = set[int]()  # hosts whose slice of the total has arrived


class AllReduce:
    """The exchange of sums from the view of one host, as a state machine.

    The same hosts take part from the beginning to the end (a generation).

    Attributes:
        deadline: monotonic time when the round fails; set when it begins, None after it.
        ready: total of the round over all hosts; None until it is complete.
        failure: why the exchange failed; None if it has not failed.
    """

    def __init__(self, plan: MeshPlan, first_round: int, send: Send) -> None:
        self.plan, self.round, self._send = plan, first_round, send
        self._slices = [plan.slice_of(host) for host in range(len(plan.nodes))]
        self._mine = self._slices[plan.me]
        self._inboxes = (_Inbox(plan, self._mine), _Inbox(plan, self._mine))
        self._first_round, self._num_frames = first_round, dict.fromkeys(plan.peers, 0)
        self._own: Mapping[TreeNode, Contribution] | None = None
        self._total: Contribution | None = None
        self.deadline: float | None = None
        self.ready: Contribution | None = None
        self.failure: ExchangeFailed | None = None

    def add_local(self, sums: Sequence[Contribution]) -> None:
        """Send each host its slice of this host's sums; they must not change before `applied`."""
        if self.failure:
            return
        self._own = {each.node: each for each in sums}
        for peer in self.plan.peers:
            part = self._slices[peer]
            for each in sums:
                header = self._header(each.node, part)
                header = header._replace(loss=each.loss, number=each.num_images)
                self._send(peer, header, each.gradient[part])
        self._advance()

    def expect(self, peer: int) -> tuple[Header, Vector]:
        """Return the planned part of the header of a peer's next frame, and memory for its payload.

        Raises:
            FrameError: the peer is too far ahead.
        """
        plan, nodes = self.plan, self.plan.nodes[peer]
        num_rounds, index = divmod(self._num_frames[peer], len(nodes) + 1)
        round_ = self._first_round + num_rounds
        if round_ > self.round + 1:
            raise FrameError(f"frame of round {round_} in round {self.round}")
        inbox = self._inbox(round_)
        if index < len(nodes):
            node, part = nodes[index], self._mine
            buffer = inbox.sums[node]
        else:
            node, part = plan.root, self._slices[peer]
            buffer = inbox.total[part]
        size = part.stop - part.start
        return Header(peer, plan.generation, round_, node, part.start, size), buffer

    def receive(self, header: Header) -> None:
        """Process an expected frame, whose payload is in the memory from `expect`."""
        sender, node, inbox = header.sender, header.node, self._inbox(header.round)
        self._num_frames[sender] += 1
        if node == self.plan.root:
            inbox.totals.add(sender)
        else:
            facts = header.loss, header.number
            inbox.counts[node] = Contribution(header.round, node, inbox.sums[node], *facts)
        self._advance()

    def applied(self) -> None:
        """Continue with the next round; to call after the update of this round."""
        self._inbox(self.round).reset()
        self.round += 1
        self._own = self._total = self.deadline = self.ready = None

    def tick(self, now: float) -> None:
        """Fail if the deadline of the round has passed."""
        if self.deadline is not None and now >= self.deadline:
            self.fail(FailureCause.LATE)

    def fail(self, cause: FailureCause, peer: int | None = None) -> None:
        """End the exchange, unless it has failed already; to inform peers, close the mesh."""
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

    def _inbox(self, round_: int) -> _Inbox:
        return self._inboxes[round_ % 2]

    def _header(self, node: TreeNode, part: slice) -> Header:
        plan, size = self.plan, part.stop - part.start
        return Header(plan.me, plan.generation, self.round, node, part.start, size)

    def _advance(self) -> None:
        """Add this host's slice when all sums have arrived; set `ready` when all totals have."""
        inbox, mine, root = self._inbox(self.round), self._mine, self.plan.root
        if self._own is None or len(inbox.counts) < len(inbox.sums):
            return
        if self._total is None:
            known = dict(inbox.counts)
            for node, own in self._own.items():
                known[node] = replace(own, gradient=own.gradient[mine])
            total = tree_sum(root, known.get, add)
            inbox.total[mine] = total.gradient
            self._total = replace(total, gradient=inbox.total)
            header = self._header(root, mine)
            for peer in self.plan.peers:
                self._send(peer, header, inbox.total[mine])
        if len(inbox.totals) == len(self.plan.peers) and self.failure is None:
            self.ready = self._total
