"""Hosts with a server and a worker each, as threads of this process, on real sockets and memory."""

import socket
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

from nanograd.digits.dataset import Dataset
from nanograd.distributed.actors import ServerActor, WorkerActor
from nanograd.distributed.all_reduce import HEADER_BYTES, FrameType, Header, MeshPlan
from nanograd.distributed.formation import KEY_BYTES, MeshError
from nanograd.training.local import assign_shards
from nanograd.training.recipe import Recipe
from nanograd.training.server import first_snapshot
from nanograd.training.tree import cover
from simulators.waiting import wait_for

KEY = b"k" * KEY_BYTES
_DEADLINE_S = 20.0


class Hosts:
    """Hosts that compute rounds."""

    def __init__(self, recipe: Recipe, digits: Dataset, max_hosts: int) -> None:
        self._recipe, plan, start = recipe, recipe.plan, first_snapshot(recipe)
        self._shards = [digits.take(plan.shard_slice(shard)) for shard in range(plan.num_shards)]
        self.servers = [ServerActor(recipe, start) for _ in range(max_hosts)]
        self._workers = [WorkerActor(recipe) for _ in range(max_hosts)]
        self._pool = ThreadPoolExecutor(4 * max_hosts)
        self._working = list[Future[Any]]()
        self._ended, self._generation, self._num_hosts = Event(), 0, 0

    @property
    def round(self) -> int:
        """The newest round of a server."""
        return max(server.round for server in self.servers)

    def open(self, num_hosts: int) -> list[MeshPlan]:
        """Give the first hosts all shards, and memory; return the plans of a mesh between them."""
        self._generation, self._num_hosts = self._generation + 1, num_hosts
        for server in self.servers:
            server.stop()
        self._await_workers()
        root = (0, len(self._shards))
        held = assign_shards(len(self._shards), num_hosts, range(num_hosts))
        for server, worker, shards in zip(self.servers, self._workers, held.values(), strict=False):
            nodes = tuple(worker.take(shards, *(self._shards[shard] for shard in shards)))
            assert worker.attach(server.open(nodes, num_hosts == 1))
        return [
            MeshPlan(
                generation=self._generation, me=me, root=root,
                hosts=[f"h{host}" for host in range(num_hosts)],
                nodes=tuple(tuple(cover(root, frozenset(shards))) for shards in held.values()),
                num_parameters=self._recipe.architecture.num_parameters,
            )
            for me in range(num_hosts)
        ]  # fmt: skip

    def connect(self, sockets: Mapping[int, Mapping[int, socket.socket]]) -> None:
        """Form a mesh between all hosts, on sockets of each host by peer."""
        for plan, server in zip(self.open(len(self.servers)), self.servers, strict=True):
            for each in sockets[plan.me].values():
                each.setblocking(False)
            server.connect(plan, sockets[plan.me])

    def form(self, num_hosts: int, *, absent: int | None = None) -> None:
        """Let the first hosts form a mesh, to which a stranger connects; raise its MeshError."""
        newest = max(self.servers, key=lambda server: server.round)
        for server in self.servers:
            server.forget()
            if server.round < newest.round:
                server.restore(newest.snapshot())
        plans = self.open(num_hosts)
        if num_hosts == 1:
            return
        endpoints = [server.listen([0]) for server in self.servers[:num_hosts]]
        with socket.create_connection(endpoints[0][1:], timeout=5):
            joining = [
                self.start(self.servers[plan.me].join, plan, KEY, endpoints)
                for plan in plans
                if plan.me != absent
            ]
            joined = [each.result() for each in joining]
        if errors := [each for each in joined if isinstance(each, MeshError)]:
            raise errors[0]

    def run(
        self, until: int, deadline_s: float = _DEADLINE_S, *, silent: int | None = None
    ) -> list["Future[Any]"]:
        """Start a segment of rounds, without one host; return what each server will return."""
        first, hosts = self.round, [me for me in range(self._num_hosts) if me != silent]
        self._await_workers()
        self._working = [self.start(self._workers[me].run, first, until, None, 0) for me in hosts]
        return [self.start(self.servers[me].run, until, deadline_s) for me in hosts]

    def start(self, call: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Call something in a thread."""
        return self._pool.submit(call, *arguments)

    def hold_totals(
        self, source: int, incoming: socket.socket, outgoing: socket.socket, last: int
    ) -> None:
        """Forward the frames of a host, each TOTAL only when that host has applied its round.

        Those from round `last` on are held until the end.
        """
        server = self.servers[source]
        while head := incoming.recv(HEADER_BYTES, socket.MSG_WAITALL):
            header = Header.unpack(head)
            if header.type is FrameType.TOTAL:
                late = f"the first host has not applied round {header.round}"
                wait_for(
                    lambda r=header.round: self._ended.is_set() or server.round > r, late,
                    every_s=1e-3,
                )  # fmt: skip
                if header.round >= last:
                    self._ended.wait()
            outgoing.sendall(head)
            if header.length:
                outgoing.sendall(incoming.recv(4 * header.length, socket.MSG_WAITALL))
        outgoing.close()

    def leave(self, *hosts: int) -> None:
        """Close all connections of some hosts, or of all."""
        for me in hosts or range(len(self.servers)):
            self.servers[me].open(((0, len(self._shards)),), is_alone=True)

    def close(self) -> None:
        """End all threads."""
        self._ended.set()
        self.leave()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _await_workers(self) -> None:
        for each in self._working:
            each.result()
