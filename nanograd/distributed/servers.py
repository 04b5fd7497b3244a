"""The parameter servers of a group, one on each host with workers, all with the same state."""

import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from nanograd.distributed import mesh
from nanograd.distributed.actors import CONCURRENT, ActorIdentity, ServerActor
from nanograd.distributed.all_reduce import MeshPlan
from nanograd.distributed.members import START_TIMEOUT_S, kill_process, probe
from nanograd.distributed.mesh import MeshError
from nanograd.distributed.shared_memory import MemoryAddress
from nanograd.runtime.events import FailureKind
from nanograd.training.recipe import Recipe
from nanograd.training.server import Snapshot
from nanograd.training.tree import TreeNode

# Longer than a server is busy between two segments, unless its state is large.
_REPLY_S = 10.0


@dataclass
class Server:
    """A parameter server actor."""

    actor: Any
    ready: Any
    identity: ActorIdentity | None = None
    token: int = 0


class Servers:
    """Parameter server actors by host.

    Args:
        recipe: the computation.
        num_workers: of the whole group, each of which may call a server during a segment.
        ports: TCP ports for the connections between hosts, in the order to try; 0 for any.
    """

    def __init__(self, recipe: Recipe, num_workers: int, ports: Sequence[int]) -> None:
        self._recipe, self._num_threads, self._ports = recipe, num_workers + 1, ports
        self.present: dict[str, Server] = {}

    def start(self, host: str, snapshot: Snapshot) -> None:
        """Start a server on a host."""
        remote: Any = ray.remote  # its types do not know concurrency groups
        actor = remote(
            num_cpus=0,
            concurrency_groups={CONCURRENT: self._num_threads},
            # Node affinity does not help: a host that is asked to place an actor may have joined a
            # moment ago and not know that one yet. Soft, it then keeps the actor itself (4 of 10
            # while a host joined); hard, it fails. For a label it waits.
            label_selector={"ray.io/node-id": host},
        )(ServerActor).remote(self._recipe, snapshot)
        self.present[host] = Server(actor, actor.identify.remote())

    def identity(self, host: str) -> ActorIdentity:
        """Return the identity of a server, when it has started."""
        server = self.present[host]
        if server.identity is None:
            server.identity = ray.get(server.ready, timeout=START_TIMEOUT_S)
        return server.identity

    def await_started(self) -> None:
        """Wait for the servers that are starting: they do not reply to a probe yet."""
        for host in self.present:
            with suppress(RayError):  # a probe finds the failure
                self.identity(host)

    def drop(self, host: str, how: FailureKind | None = None) -> None:
        """Remove a server, by force if it still runs."""
        server = self.present.pop(host)
        # Its identity is known since its start: if its host is gone, a call cannot ask any more.
        if how is FailureKind.UNRESPONSIVE and server.identity is not None:
            kill_process(server.identity)
        ray.kill(server.actor)

    def level(self) -> int:
        """Bring all servers to the round of the one that is ahead, and return the round."""
        reached = self._call("forget")
        ahead = max(reached, key=reached.__getitem__)
        behind = [host for host, round_ in reached.items() if round_ < reached[ahead]]
        if behind:
            state = self.present[ahead].actor.snapshot.remote()
            ray.get([self.present[host].actor.restore.remote(state) for host in behind])
        return int(reached[ahead])

    def snapshot(self, reply_s: float) -> Snapshot:
        """Return a copy of the state of the first server that answers.

        Raises:
            RayError: none does.
        """
        error: RayError | None = None
        for server in self.present.values():
            ref = server.actor.snapshot.remote()
            try:
                while True:
                    try:
                        snapshot: Snapshot = ray.get(ref, timeout=_REPLY_S)
                        return snapshot
                    except GetTimeoutError:  # a large state over a slow link is no failure
                        if how := probe([server.actor], reply_s, CONCURRENT)[0]:
                            raise GetTimeoutError(how) from None
            except RayError as failure:
                error = failure
        raise error or GetTimeoutError("no server")

    def open(self, nodes: Mapping[str, tuple[TreeNode, ...]]) -> dict[str, MemoryAddress]:
        """Create memory on each host for the tree nodes of its workers."""
        addresses: dict[str, MemoryAddress] = self._call(
            "open", {host: (each,) for host, each in nodes.items()}
        )
        for host, address in addresses.items():
            self.present[host].token = address.token
        return addresses

    def connect(self, generation: int, nodes: Mapping[str, tuple[TreeNode, ...]]) -> int:
        """Form a mesh between all hosts; return the number of refused connections.

        Args:
            generation: number of the membership.
            nodes: the tree nodes of each host's sums.

        Raises:
            MeshError: two hosts cannot be connected.
        """
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            raise MeshError("RAY_USE_TLS demands encryption, which these connections do not have")
        hosts = list(self.present)
        endpoints = list(self._call("listen", dict.fromkeys(hosts, (self._ports,))).values())
        key = secrets.token_bytes(mesh.KEY_BYTES)
        root = (0, self._recipe.plan.num_shards)
        all_nodes = tuple(nodes[host] for host in hosts)
        plans = {
            host: MeshPlan(
                generation=generation,
                me=index,
                nodes=all_nodes,
                root=root,
                num_parameters=self._recipe.architecture.num_parameters,
            )
            for index, host in enumerate(hosts)
        }
        joined = {host: (plan, key, endpoints) for host, plan in plans.items()}
        return sum(self._call("join", joined, mesh.FORMATION_S + _REPLY_S).values())

    def run(self, until: int, deadline_s: float) -> dict[str, Any]:
        """Start a segment of rounds on all servers, and return the calls."""
        return {
            host: server.actor.run.remote(until, deadline_s)
            for host, server in self.present.items()
        }

    def stop(self) -> None:
        """End the segment of rounds on all servers."""
        for server in self.present.values():
            server.actor.stop.options(concurrency_group=CONCURRENT).remote()

    def close(self) -> None:
        """End all servers."""
        for host in list(self.present):
            self.drop(host)

    def _call(
        self,
        method: str,
        arguments: Mapping[str, tuple[Any, ...]] | None = None,
        timeout_s: float = _REPLY_S,
    ) -> dict[str, Any]:
        """Call a method of all servers at once; raise an error of their code as it was raised."""
        refs = {
            host: getattr(server.actor, method).remote(*(arguments or {}).get(host, ()))
            for host, server in self.present.items()
        }
        try:
            return dict(zip(refs, ray.get(list(refs.values()), timeout=timeout_s), strict=True))
        except RayTaskError as error:
            raise error.cause from error
