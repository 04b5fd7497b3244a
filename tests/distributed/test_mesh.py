"""Meshes on socket pairs with small buffers: whole rounds, and frames that must be refused."""

import os
import random
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import combinations
from time import monotonic
from typing import Any

import numpy as np
import pytest

from nanograd.distributed.all_reduce import AllReduce, FailureCause, Header, MeshPlan
from nanograd.training.local import assign_shards
from nanograd.training.tree import TreeNode, cover, tree_sum
from nanograd.training.worker import Contribution, add

GENERATION, FIRST_ROUND, NUM_SHARDS, SIZE = 193, 5, 7, 193
ROOT = (0, NUM_SHARDS)
# The kernel doubles what is asked for, and gives no less than 4,608 bytes.
SEND_BUFFER = 1
FAR = 1e9


def node_sum(round_: int, node: TreeNode, size: int) -> Contribution:
    def leaf(at: TreeNode) -> Contribution | None:
        shard, end = at
        if end - shard > 1:
            return None
        numbers = np.random.default_rng([round_, shard]).standard_normal(size).astype(np.float32)
        return Contribution(round_, at, numbers, 0.1 * shard, end)

    return tree_sum(node, leaf, add)


def plans(number: int, size: int) -> list[MeshPlan]:
    held = assign_shards(NUM_SHARDS, number, range(number))
    nodes = tuple(tuple(cover(ROOT, frozenset(shards))) for shards in held.values())
    return [
        MeshPlan(
            generation=GENERATION, me=me, hosts="abcd"[:number], nodes=nodes, root=ROOT,
            num_parameters=size,
        )
        for me in range(number)
    ]  # fmt: skip


def connect(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    pair = socket.socketpair()
    for sock in pair:
        stack.enter_context(sock)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return pair


def make_mesh(stack: ExitStack, plan: MeshPlan, sockets: dict[int, socket.socket]) -> AllReduce:
    bell = os.pipe()
    for descriptor in bell:
        stack.callback(os.close, descriptor)
    mesh = AllReduce(plan, sockets, FIRST_ROUND, bell[0])
    stack.callback(mesh.close)
    return mesh


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.mark.parametrize("number", [2, 3, 4])
@pytest.mark.parametrize("size", [1, 7, 40_001])
def test_hosts_apply_the_sum_along_the_tree(stack, number, size):
    sockets: list[dict[int, socket.socket]] = [{} for _ in range(number)]
    for first, second in combinations(range(number), 2):
        sockets[first][second], sockets[second][first] = connect(stack)
    made = zip(plans(number, size), sockets, strict=True)
    meshes = [make_mesh(stack, plan, mine) for plan, mine in made]
    order, until, end = random.Random(size), FIRST_ROUND + 4, monotonic() + 15  # noqa: S311
    started = [FIRST_ROUND - 1] * number

    while any(mesh.round < until for mesh in meshes):
        assert monotonic() < end
        me = order.randrange(number)
        mesh = meshes[me]
        round_ = mesh.round
        if started[me] < round_ < until:
            started[me] = round_
            mesh.deadline = FAR
            mesh.add_local([node_sum(round_, n, size) for n in mesh.plan.nodes[me]])
        mesh.poll(0)
        assert mesh.failure is None
        if (ready := mesh.ready) is not None:
            expected = node_sum(round_, ROOT, size)
            assert ready.gradient.tobytes() == expected.gradient.tobytes()
            assert replace(ready, gradient=expected.gradient) == expected
            mesh.applied()


class Peer:
    """A host in whose mesh the others are bare sockets."""

    def __init__(self, stack: ExitStack, number: int = 2) -> None:
        self.plan = plans(number, SIZE)[0]
        pairs = {peer: connect(stack) for peer in range(1, number)}
        self.mesh = make_mesh(stack, self.plan, {peer: pair[0] for peer, pair in pairs.items()})
        self._theirs = pairs[1][1]
        self._theirs.setblocking(True)

    def start(self, deadline: float = FAR) -> None:
        self.mesh.deadline = deadline
        self.mesh.add_local([node_sum(FIRST_ROUND, n, SIZE) for n in self.plan.nodes[0]])

    def frame(self, kind: str, **changes: Any) -> bytes:
        """Return the frame that host 1 should send in this round, or a forged one."""
        is_sum = kind == SUM
        node = self.plan.nodes[1][0] if is_sum else self.plan.root
        part = self.plan.slices[0 if is_sum else 1]
        place = part.start, part.stop - part.start
        header = Header(1, GENERATION, FIRST_ROUND, node, *place)._replace(**changes)
        return header.pack() + bytes(4 * header.length)

    def sums(self, **changes: Any) -> list[bytes]:
        """Return the sums that host 1 should send in a round, or forged ones."""
        made = [node_sum(FIRST_ROUND, node, 1) for node in self.plan.nodes[1]]
        fields = [{"node": s.node, "loss": s.loss, "number": s.num_images} | changes for s in made]
        return [self.frame(SUM, **each) for each in fields]

    def round(self, ahead: int = 0) -> list[bytes]:
        """Return all frames that host 1 should send in a round."""
        changes = {"round": FIRST_ROUND + ahead}
        return [*self.sums(**changes), self.frame(TOTAL, **changes)]

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self._theirs.sendall(frame)
            self.mesh.poll(0)

    def failure(self) -> tuple[FailureCause, int | None] | None:
        failure = self.mesh.failure
        return None if failure is None else (failure.cause, failure.peer)


@pytest.mark.parametrize("is_started", [False, True])
def test_frames_of_a_round_are_taken(stack, is_started):
    host = Peer(stack)
    if is_started:
        host.start()

    host.send(*host.round())

    assert host.failure() is None
    if not is_started:
        host.start()
    assert host.mesh.ready is not None
    assert host.failure() is None


SUM, TOTAL = "sum", "total"
# What no healthy host sends: the fields of the header.
FORGED: Mapping[str, dict[str, Any]] = {
    "an earlier generation": {"generation": GENERATION - 1},
    "a later generation": {"generation": GENERATION + 1},
    "the host itself": {"sender": 0},
    "a third host": {"sender": 2},
    "an earlier round": {"round": FIRST_ROUND - 1},
    "a round too late": {"round": FIRST_ROUND + 2},
    "an offset of another slice": {"offset": 1},
    "no payload": {"length": 0},
    "half of a slice": {"length": 48},
    "more than a slice": {"length": 2**20},
    "a tree node of another host": {"node": (0, 1)},
}


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("kind", [SUM, TOTAL])
@pytest.mark.parametrize("name", FORGED)
def test_forged_frame_is_refused(stack, name, kind, number):
    host = Peer(stack, number)
    host.start()
    if kind is TOTAL:
        host.send(*host.sums())

    host.send(host.frame(kind, **FORGED[name])[:64])

    assert host.failure() == (FailureCause.BAD_FRAME, 1)


# Frames of which only the last must be refused; a round has two sums and a total.
UNPLANNED: Mapping[str, Callable[[Peer], list[bytes]]] = {
    "of another protocol": lambda host: [b"\x09" + host.frame(SUM)[1:64]],
    **{
        f"frame {number} again": lambda host, number=number: [
            *host.round()[:number], host.round()[number - 1][:64]
        ]
        for number in (1, 2, 3)
    },
    "of a round that cannot have begun": lambda host: [
        *host.round(), *host.round(1), host.round(2)[0]
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", UNPLANNED)
def test_frame_that_is_not_the_planned_one_is_refused_before_it_is_read(stack, name):
    host = Peer(stack)
    host.start()
    *planned, other = UNPLANNED[name](host)

    host.send(*planned)
    assert host.failure() is None
    host.send(other)

    assert host.failure() == (FailureCause.BAD_FRAME, 1)


def test_round_that_is_late_ends_the_segment(stack):
    host = Peer(stack)
    host.start(deadline=monotonic())

    host.mesh.poll(0)

    assert host.failure() == (FailureCause.LATE, None)


def test_peers_learn_that_a_host_has_ended_the_exchange(stack):
    sockets = connect(stack)
    first, second = (
        make_mesh(stack, plan, {1 - me: sockets[me]}) for me, plan in enumerate(plans(2, 7))
    )

    first.close()
    second.poll(1)

    assert second.failure is not None
    assert second.failure.cause is FailureCause.ABORTED
