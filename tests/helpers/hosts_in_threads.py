"""Hosts with a server and a worker each, as threads of this process, on sockets of a test."""

import socket
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from nanograd.digits.dataset import Dataset
from nanograd.distributed.actors import ServerActor, WorkerActor
from nanograd.distributed.all_reduce import HEADER_BYTES, FrameType, Header, MeshPlan
from nanograd.training.local import assign_shards
from nanograd.training.recipe import Recipe
from nanograd.training.server import first_snapshot
from nanograd.training.tree import cover
from simulators.waiting import wait_for


class Hosts:
    """Hosts that compute rounds.

    Args:
        recipe: the computation.
        digits: the training images.
        num_hosts: K.
    """

    def __init__(self, recipe: Recipe, digits: Dataset, num_hosts: int) -> None:
        plan, start = recipe.plan, first_snapshot(recipe)
        held = assign_shards(plan.num_shards, num_hosts, range(num_hosts))
        self._recipe, self._root = recipe, (0, plan.num_shards)
        self._nodes = tuple(tuple(cover(self._root, frozenset(each))) for each in held.values())
        self.servers = [ServerActor(recipe, start) for _ in range(num_hosts)]
        self._workers = [WorkerActor(recipe) for _ in range(num_hosts)]
        for server, worker, shards in zip(self.servers, self._workers, held.values(), strict=True):
            taken = [digits.take(plan.shard_slice(shard)) for shard in shards]
            assert worker.attach(server.open(tuple(worker.take(shards, *taken)), is_alone=False))
        self._pool = ThreadPoolExecutor(4 * num_hosts)
        self._ended = False

    def connect(self, sockets: Mapping[int, Mapping[int, socket.socket]]) -> None:
        """Form a mesh.

        Args:
            sockets: of each host, by peer.
        """
        names = [f"h{host}" for host in range(len(self.servers))]
        for me, server in enumerate(self.servers):
            for each in sockets[me].values():
                each.setblocking(False)
            plan = MeshPlan(
                generation=1, me=me, nodes=self._nodes, root=self._root,
                num_parameters=self._recipe.architecture.num_parameters,
            )  # fmt: skip
            server.connect(plan, sockets[me], names)

    def run(self, until: int, deadline_s: float) -> list["Future[Any]"]:
        """Start a segment of rounds; return what each server will return."""
        first = self.servers[0].round
        for worker in self._workers:
            self.start(worker.run, first, until, None, 0)
        return [self.start(server.run, until, deadline_s) for server in self.servers]

    def start(self, call: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Call something in a thread."""
        return self._pool.submit(call, *arguments)

    def hold_totals(self, source: int, incoming: socket.socket, outgoing: socket.socket) -> None:
        """Forward the frames of a host, each TOTAL only when that host has applied its round."""
        server = self.servers[source]
        while head := incoming.recv(HEADER_BYTES, socket.MSG_WAITALL):
            header = Header.unpack(head)
            if header.type is FrameType.TOTAL:
                late = f"the first host has not applied round {header.round}"
                wait_for(lambda r=header.round: self._ended or server.round > r, late, every_s=1e-3)
            outgoing.sendall(head)
            if header.length:
                outgoing.sendall(incoming.recv(4 * header.length, socket.MSG_WAITALL))
        outgoing.close()

    def close(self) -> None:
        """End all threads."""
        self._ended = True
        for server, nodes in zip(self.servers, self._nodes, strict=True):
            server.open(nodes, is_alone=True)  # leaves the mesh
        self._pool.shutdown(wait=False, cancel_futures=True)
