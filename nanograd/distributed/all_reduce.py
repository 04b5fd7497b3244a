"""All-reduce between the parameter servers of several hosts, as a state machine without I/O.

Every host runs a parameter server with the whole state. In a round, each host sums the gradients of
its own shards; then the servers add these sums so that all of them apply the same update:

    reduce-scatter  slice j of each of a host's sums goes to host j, which adds it along the tree
    all-gather      the summed slice of each host goes to all others

A link carries 2 (K-1)/K vectors each way, as little as any method can, in two steps (a ring needs
2 (K-1)). The order of the additions is that of the tree, so the bits do not depend on K.

The machine receives events (local sums, frames, lost connections, time) and returns actions (send,
apply, fail), which `mesh` carries out. Peers are at most one round apart, because the next total
needs a slice from everyone: two inboxes suffice, chosen by the parity of the round. A frame is
checked against the plan before its payload is read.

References:
    Thakur, Rabenseifner & Gropp (2005), "Optimization of collective communication operations in
    MPICH", section 4; Jiang et al. (2020), "A unified architecture for accelerating distributed DNN
    training in heterogeneous GPU/CPU clusters" (the bound).
"""

import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from hashlib import sha256
from typing import NamedTuple, TypeVar

import numpy as np

from nanograd.nn.optimizers import Vector
from nanograd.training.tree import TreeNode, tree_sum

MAGIC = b"ngr1"
# magic, type, sender, generation, round, tree node (first, end), offset and length of the slice,
# loss, number of images or digest; little endian.
_HEADER = struct.Struct("<4sBxHI4xqiiIIdq8x")
HEADER_BYTES = _HEADER.size
_NOTHING = slice(0, 0)
# A digest of the parameters is compared after this many rounds.
DIGEST_ROUNDS = 256
_Host = TypeVar("_Host")


class FrameType(IntEnum):
    """Type of a frame."""

    SUM = 1
    TOTAL = 2
    DIGEST = 3
    ABORT = 4


_TYPES = dict(enumerate(FrameType, 1))


class Header(NamedTuple):
    """The fixed part of a frame.

    Args:
        type: of the frame.
        sender: index of the host.
        generation: of the group; frames of another one are refused.
        round: counted over all epochs.
        node: tree node of a sum; the root for a total.
        offset: first parameter of the slice.
        length: of the slice; 0 without payload.
        loss: summed over the images of the node.
        number: images of the node; the digest in a DIGEST frame.
    """

    type: FrameType
    sender: int
    generation: int
    round: int
    node: TreeNode
    offset: int = 0
    length: int = 0
    loss: float = 0.0
    number: int = 0

    def pack(self) -> bytes:
        """Return the bytes of the header."""
        kind, sender, generation, round_, node, *rest = self
        return _HEADER.pack(MAGIC, kind, sender, generation, round_, *node, *rest)

    @classmethod
    def unpack(cls, data: bytes) -> "Header":
        """Parse a header.

        Raises:
            FrameError: it is not one.
        """
        magic, kind, sender, generation, round_, first, end, *rest = _HEADER.unpack(data)
        if magic != MAGIC or kind not in _TYPES:
            raise FrameError("not a frame of this protocol")
        return cls(_TYPES[kind], sender, generation, round_, (first, end), *rest)


class FrameError(Exception):
    """A frame that does not follow the protocol; its connection must be closed."""


class FailureCause(Enum):
    """Why an all-reduce ended."""

    STOPPED = auto()
    LATE = auto()
    CONNECTION_LOST = auto()
    ABORTED = auto()
    BAD_FRAME = auto()
    DIGESTS_DIFFER = auto()


class Send(NamedTuple):
    """Send a frame; the payload must not change before it is sent."""

    peer: int
    header: Header
    payload: Vector | None = None


class Apply(NamedTuple):
    """Apply the update of a round, then call `applied`."""

    round: int
    total: Vector
    loss: float
    num_images: int


@dataclass(frozen=True)
class Fail:
    """Close the connections and end the segment of rounds.

    Args:
        cause: of the failure.
        round: the round that was not applied.
        waiting_for: hosts whose frames are missing; empty if only the own sums are.
        peers: the hosts that caused it, if some did.
    """

    cause: FailureCause
    round: int
    waiting_for: frozenset[int] = frozenset()
    peers: frozenset[int] = frozenset()


Action = Send | Apply | Fail


class NodeSum(NamedTuple):
    """The sum over one tree node: gradient (P,) float32, loss and number of images."""

    gradient: Vector
    loss: float
    num_images: int


@dataclass(frozen=True, kw_only=True)
class MeshPlan:
    """Who sends what in each round of a generation.

    Args:
        generation: number of the membership.
        me: index of this host.
        nodes: the tree nodes of each host's sums; together they cover the root once.
        root: the tree node of all shards.
        num_parameters: P.
    """

    generation: int
    me: int
    nodes: tuple[tuple[TreeNode, ...], ...]
    root: TreeNode
    num_parameters: int

    @property
    def peers(self) -> tuple[int, ...]:
        """The other hosts, the next one first: so not all send to the same host at once."""
        size = len(self.nodes)
        return tuple((self.me + step) % size for step in range(1, size))

    def slice_of(self, host: int) -> slice:
        """Return the parameters whose gradients a host adds."""
        size = len(self.nodes)
        return slice(self.num_parameters * host // size, self.num_parameters * (host + 1) // size)


class _Inbox:
    """What has arrived for one round."""

    def __init__(self, plan: MeshPlan, mine: slice) -> None:
        self.sums: dict[TreeNode, Vector] = {
            node: np.empty(mine.stop - mine.start, np.float32)
            for peer in plan.peers
            for node in plan.nodes[peer]
        }
        self.total: Vector = np.empty(plan.num_parameters, np.float32)
        self.reset(-1)

    def reset(self, round_: int) -> None:
        """Expect the frames of a round."""
        self.round = round_
        self.counts: dict[TreeNode, tuple[float, int]] = {}
        self.totals: dict[int, tuple[float, int]] = {}
        self.digests: dict[int, int] = {}


class AllReduce:
    """The state machine of one host for one generation.

    Args:
        plan: who sends what.
        first_round: the first round to exchange.
    """

    def __init__(self, plan: MeshPlan, first_round: int) -> None:
        self.plan, self.round = plan, first_round
        self._peers = plan.peers
        self._slices = [plan.slice_of(host) for host in range(len(plan.nodes))]
        self._mine = self._slices[plan.me]
        self._inboxes = (_Inbox(plan, self._mine), _Inbox(plan, self._mine))
        for round_ in (first_round, first_round + 1):
            self._inbox(round_).reset(round_)
        self._own: Mapping[TreeNode, NodeSum] | None = None
        self._total: tuple[float, int] | None = None
        self._digest: int | None = None
        self._deadline: float | None = None
        self.failure: Fail | None = None

    def start_round(self, deadline: float, digest: int | None = None) -> list[Action]:
        """Start a round: set its deadline and, now and then, compare the parameters.

        Args:
            deadline: the time at which a missing frame is a failure.
            digest: 63 bits of a checksum of the parameters; None if they are not compared.
        """
        self._deadline, self._digest = deadline, digest
        if digest is None or self.failure:
            return []
        return self._send_all(FrameType.DIGEST, number=digest) + self._compare_digests()

    def add_local(self, sums: Mapping[TreeNode, NodeSum]) -> list[Action]:
        """Send this host's sums of the round to the owners of their slices.

        Args:
            sums: of all its tree nodes; unchanged until `applied`.
        """
        if self.failure:
            return []
        self._own = sums
        actions: list[Action] = []
        for peer in self._peers:
            part = self._slices[peer]
            for node, (gradient, loss, num_images) in sums.items():
                header = self._header(FrameType.SUM, node, part, loss, num_images)
                actions.append(Send(peer, header, gradient[part]))
        return actions + self._advance()

    def buffer_for(self, header: Header, peer: int) -> Vector | None:
        """Check a frame and return the memory for its payload; None if it has none.

        Args:
            header: of the frame.
            peer: the host from whose connection it comes.

        Raises:
            FrameError: another generation, sender or round, a repeated frame, or not the plan's
                slice.
        """
        plan, sender, kind = self.plan, header.sender, header.type
        if header.generation != plan.generation or sender != peer:
            raise FrameError(f"frame of generation {header.generation} from host {sender}")
        if kind is not FrameType.ABORT and header.round not in (self.round, self.round + 1):
            raise FrameError(f"frame of round {header.round} in round {self.round}")
        if kind is FrameType.ABORT or kind is FrameType.DIGEST:
            if header.length:
                raise FrameError(f"{kind.name} frame with a payload")
            return None
        inbox = self._inbox(header.round)
        owner = plan.me if kind is FrameType.SUM else sender
        part = self._slices[owner]
        if header.offset != part.start or header.length != part.stop - part.start:
            raise FrameError(f"slice {header.offset} + {header.length} is not that of host {owner}")
        if kind is FrameType.SUM:
            if header.node not in plan.nodes[sender] or header.node in inbox.counts:
                raise FrameError(f"sum of {header.node} is repeated or not host {sender}'s")
            return inbox.sums[header.node]
        if header.node != plan.root or sender in inbox.totals:
            raise FrameError(f"total of host {sender} is repeated or not of the root")
        return inbox.total[part]

    def receive(self, header: Header) -> list[Action]:
        """Take a frame whose payload is in the memory of `buffer_for`."""
        if self.failure:
            return []
        if header.type is FrameType.ABORT:
            return self._fail(FailureCause.ABORTED, {header.sender})
        inbox = self._inbox(header.round)
        if header.type is FrameType.SUM:
            inbox.counts[header.node] = (header.loss, header.number)
        elif header.type is FrameType.TOTAL:
            inbox.totals[header.sender] = (header.loss, header.number)
        else:
            inbox.digests[header.sender] = header.number
            return self._compare_digests()
        return self._advance()

    def applied(self) -> None:
        """Go on to the next round, after the update of this one."""
        self._inbox(self.round).reset(self.round + 2)
        self.round += 1
        self._own = self._total = self._deadline = self._digest = None

    def tick(self, now: float) -> list[Action]:
        """Fail if the round is late."""
        late = self._deadline is not None and now >= self._deadline
        return self._fail(FailureCause.LATE) if late else []

    def lose(self, peer: int, cause: FailureCause = FailureCause.CONNECTION_LOST) -> list[Action]:
        """Fail because a connection was lost, or has to be closed after a BAD_FRAME."""
        return self._fail(cause, {peer})

    def stop(self) -> list[Action]:
        """Fail because the segment of rounds should end."""
        return self._fail(FailureCause.STOPPED)

    def waiting_for(self) -> frozenset[int]:
        """Return the hosts whose frames of this round are missing; none between two rounds."""
        if self._deadline is None:
            return frozenset()
        inbox, nodes = self._inbox(self.round), self.plan.nodes
        if self._total is None:
            return frozenset(p for p in self._peers if not inbox.counts.keys() >= set(nodes[p]))
        return frozenset(self._peers) - inbox.totals.keys()

    def _inbox(self, round_: int) -> _Inbox:
        return self._inboxes[round_ % 2]

    def _header(
        self,
        kind: FrameType,
        node: TreeNode,
        part: slice = _NOTHING,
        loss: float = 0.0,
        number: int = 0,
    ) -> Header:
        plan, size = self.plan, part.stop - part.start
        return Header(
            kind, plan.me, plan.generation, self.round, node, part.start, size, loss, number
        )

    def _send_all(self, kind: FrameType, number: int = 0) -> list[Action]:
        header = self._header(kind, self.plan.root, number=number)
        return [Send(peer, header) for peer in self._peers]

    def _advance(self) -> list[Action]:
        """Add the slice when all its sums have arrived; apply when all slices have."""
        inbox, actions = self._inbox(self.round), list[Action]()
        if self._own is None or len(inbox.counts) < len(inbox.sums):
            return actions
        if self._total is None:
            actions = self._reduce(self._own, inbox)
        if self._total is None or len(inbox.totals) < len(self._peers):
            return actions
        # All hosts add the same losses in the same order: a difference is a fault of a host.
        if faulty := deviating({**inbox.totals, self.plan.me: self._total}):
            return actions + self._fail(FailureCause.DIGESTS_DIFFER, faulty)
        return [*actions, Apply(self.round, inbox.total, *self._total)]

    def _reduce(self, own: Mapping[TreeNode, NodeSum], inbox: _Inbox) -> list[Action]:
        mine, root = self._mine, self.plan.root
        known = {node: NodeSum(inbox.sums[node], *count) for node, count in inbox.counts.items()}
        for node, (gradient, loss, num_images) in own.items():
            known[node] = NodeSum(gradient[mine], loss, num_images)
        gradient, loss, num_images = tree_sum(root, known.get, _add)
        inbox.total[mine] = gradient
        self._total = loss, num_images
        header = self._header(FrameType.TOTAL, root, mine, loss, num_images)
        return [Send(peer, header, inbox.total[mine]) for peer in self._peers]

    def _compare_digests(self) -> list[Action]:
        """Compare when all have arrived; a host sends its digest before its sums."""
        digests = self._inbox(self.round).digests
        if self._digest is None or len(digests) < len(self._peers):
            return []
        faulty = deviating({**digests, self.plan.me: self._digest})
        return self._fail(FailureCause.DIGESTS_DIFFER, faulty) if faulty else []

    def _fail(self, cause: FailureCause, peers: Iterable[int] = ()) -> list[Action]:
        if self.failure:
            return []
        self.failure = Fail(cause, self.round, self.waiting_for(), frozenset(peers))
        return [*self._send_all(FrameType.ABORT), self.failure]


def _add(left: NodeSum, right: NodeSum) -> NodeSum:
    return NodeSum(left[0] + right[0], left[1] + right[1], left[2] + right[2])


def deviating(values: Mapping[_Host, object]) -> frozenset[_Host]:
    """Return the hosts whose value is not that of the majority; all where there is none.

    >>> deviating({"a": 1, "b": 1, "c": 2}), sorted(deviating({"a": 1, "b": 2}))
    (frozenset({'c'}), ['a', 'b'])
    """
    common, count = Counter(values.values()).most_common(1)[0]
    is_majority = 2 * count > len(values)
    return frozenset(h for h, value in values.items() if value != common or not is_majority)


def digest_of(vector: Vector) -> int:
    """Return 63 bits of a checksum of parameters."""
    return int.from_bytes(sha256(vector.data).digest()[:8], "little") >> 1
