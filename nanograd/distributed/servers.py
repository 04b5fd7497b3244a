"""The parameter servers of a group, one on each host with workers, all with the same state."""

import os
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from nanograd.distributed import formation, members
from nanograd.distributed.actors import CONCURRENT, ActorIdentity, ServerActor, Wait, this_process
from nanograd.distributed.all_reduce import MeshPlan
from nanograd.distributed.formation import MeshError
from nanograd.distributed.members import (
    Member,
    actor_options,
    await_transfers,
    end_actor,
    on_host,
)
from nanograd.errors import ClusterError
from nanograd.runtime import events
from nanograd.runtime.events import FailureKind, Listener
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.recipe import Recipe
from nanograd.training.server import Snapshot
from nanograd.training.tree import cover

START_S = members.START_TIMEOUT_S
# Seconds to wait for a reply between two segments; a server with a large state may need longer.
REPLY_S = 10.0
# Seconds after which the transfer of a whole state counts as failed.
_TRANSFER_S = 600.0
# Seconds to wait for a server to say what it waits for.
_STATUS_S = 1.0

Hosts = Mapping[str, Sequence[Member]]


@dataclass
class Server:
    """A parameter server actor that has started."""

    actor: Any
    identity: ActorIdentity
    token: int = 0


class Servers:
    """Parameter server actors by host; see `RayGroup`."""

    def __init__(self, recipe: Recipe, listener: Listener, spec: TrainSpec) -> None:
        self._recipe, self._listener, self._spec = recipe, listener, spec
        self._here = this_process()
        # Hosts of which some cannot be connected; empty if there are none. While all of them are in
        # use, their workers call the server of this host, which all hosts can reach.
        self._unconnected = frozenset[str]()
        self.present: dict[str, Server] = {}

    def prepare(self, hosts: Hosts, generation: int, state: Callable[[], Snapshot]) -> None:
        """Provide a server on each host, its memory, and the connections between the servers.

        Args:
            hosts: the present workers by host.
            generation: number of this set of workers and servers, increased by every change of it.
            state: returns the state from which new servers start.
        """
        while True:
            groups = hosts  # the workers by the host of their server
            if self._unconnected and self._unconnected <= hosts.keys():
                groups = {self._here.host: [each for workers in hosts.values() for each in workers]}
            if new := [host for host in groups if host not in self.present]:
                self._start(new, state())
            for host in [host for host in self.present if host not in groups]:
                self.drop(host)
            self.present = {host: self.present[host] for host in groups}
            self._open(groups)
            try:
                if len(groups) > 1:
                    self._connect(groups, generation)
                return
            except MeshError as error:
                self.centralise(str(error))

    def _start(self, hosts: Sequence[str], snapshot: Snapshot) -> None:
        """Start servers on hosts; raise RayError if one of them does not start in time."""
        remote: Any = ray.remote  # its type annotations lack concurrency groups
        options = {
            **actor_options(self._spec),
            "num_cpus": 0,
            # One thread for each worker that calls, one for `stop` and one for `waiting`.
            "concurrency_groups": {CONCURRENT: (self._spec.workers or 1) + 2},
        }
        actors = {
            host: remote(**options, label_selector=on_host(host))(ServerActor).remote(
                self._recipe, snapshot
            )
            for host in hosts
        }
        replies = {host: actor.identify.remote() for host, actor in actors.items()}
        _, late = ray.wait(list(replies.values()), num_returns=len(replies), timeout=START_S)
        error: RayError | None = None
        for host, reply in replies.items():
            try:
                if reply in late:
                    raise GetTimeoutError(f"no reply within {START_S} s")
                self.present[host] = Server(actors[host], ray.get(reply))
            except RayError as failure:
                error = failure
                ray.kill(actors[host])
        if error is not None:
            raise error

    def _open(self, groups: Hosts) -> None:
        """Create memory on each host for the tree nodes of its workers; the workers open it."""
        nodes = {host: tuple(n for m in each for n in m.nodes) for host, each in groups.items()}
        is_alone = len(groups) == 1
        addresses = self._call("open", {host: (each, is_alone) for host, each in nodes.items()})
        for host, address in addresses.items():
            self.present[host].token = address.token
        calls = {
            each.actor.attach.remote(addresses[host]): each.identity
            for host, workers in groups.items()
            for each in workers
        }
        for ref in ray.wait(list(calls), num_returns=len(calls), timeout=REPLY_S)[0]:
            with suppress(RayError):  # the next segment finds the failure
                worker = calls[ref]
                if not ray.get(ref) and worker.host in groups:
                    text = (
                        f"process {worker.pid} on {worker} cannot open the memory of the parameter "
                        "server of its own host: its vectors travel in calls, which are slower"
                    )
                    self._listener(events.warning(text))

    def _connect(self, groups: Hosts, generation: int) -> None:
        """Form a mesh between all hosts; raise MeshError if two cannot be connected."""
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            raise MeshError("RAY_USE_TLS demands encryption, which these connections lack")
        endpoints = _results(
            self._call("listen", dict.fromkeys(groups, (self._spec.port_range(),)))
        )
        key = secrets.token_bytes(formation.KEY_BYTES)
        root = (0, self._recipe.plan.num_shards)
        # A host sends a sum for each of the largest tree nodes that its workers' shards cover.
        held = [
            frozenset(shard for each in workers for node in each.nodes for shard in range(*node))
            for workers in groups.values()
        ]
        joined = {}
        for index, host in enumerate(groups):
            plan = MeshPlan(
                generation=generation,
                me=index,
                hosts=[each.name for each in endpoints],
                nodes=tuple(tuple(cover(root, shards)) for shards in held),
                root=root,
                num_parameters=self._recipe.architecture.num_parameters,
            )
            joined[host] = plan, key, endpoints
        outcomes = self._call("join", joined, formation.FORMATION_S + REPLY_S)
        if refused := sum(_results(outcomes)):
            text = f"refused {events.count(refused, 'connection')} to the parameter servers"
            self._listener(events.warning(text))

    def centralise(self, reason: str) -> None:
        """Let all workers call the server of this host, because not all hosts can be connected."""
        self._unconnected = frozenset(self.present)
        others = (server for host, server in self.present.items() if host != self._here.host)
        names = ", ".join(str(server.identity) for server in others)
        text = f"vectors of {names} travel in calls, which are slower: {reason}"
        self._listener(events.warning(text))

    def of(self, host: str) -> Server:
        """Return the server for the workers of a host."""
        return self.present.get(host) or self.present[self._here.host]

    def drop(self, host: str, how: FailureKind | None = None) -> None:
        """Remove a server, ending it if it still runs; `how` is its failure, if any."""
        server = self.present.pop(host)
        # Use the identity stored at its start, because a call fails if its host is gone.
        end_actor(server.actor, server.identity, how)

    def close(self) -> None:
        """End all servers."""
        for host in list(self.present):
            self.drop(host)

    def level(self, reply_s: float) -> int:
        """Bring all servers to the round of the server that is furthest, and return this round."""
        reached = self._call("reached")
        ahead = max(reached, key=reached.__getitem__)
        if behind := [host for host, round_ in reached.items() if round_ < reached[ahead]]:
            # Send the state through this process, because servers may not reach each other.
            state = ray.put(self._transfer("snapshot", [ahead], reply_s)[0])
            self._transfer("restore", behind, reply_s, state)
        return int(reached[ahead])

    def snapshot(self, reply_s: float) -> Snapshot:
        """Check that the servers have one state; return a copy, from this host if possible.

        Raises:
            ClusterError: the servers have different states.
            RayError: a server fails meanwhile, or no server replies.
        """
        if len(self.present) > 1:
            self._compare(self._call("digest"))
        error: RayError = GetTimeoutError("no server")
        for host in sorted(self.present, key=lambda host: host != self._here.host):
            try:
                snapshot: Snapshot = self._transfer("snapshot", [host], reply_s)[0]
                return snapshot
            except RayError as failure:
                error = failure
        raise error

    def _compare(self, digests: Mapping[str, str]) -> None:
        """Raise ClusterError unless all servers have one state, because it would be saved."""
        digest, count = Counter(digests.values()).most_common(1)[0]
        is_majority = 2 * count > len(digests)
        faulty = [host for host, each in digests.items() if each != digest or not is_majority]
        if faulty:
            names = sorted(str(self.present[host].identity) for host in faulty)
            raise ClusterError(
                f"the parameters of {' and '.join(names)} differ from those of other hosts: a "
                "memory or processor is faulty; leave that host out"
            )

    def _transfer(
        self, method: str, hosts: Sequence[str], reply_s: float, *arguments: Any
    ) -> list[Any]:
        """Call a method that sends a whole state; raise RayError if a server does not reply."""
        actors = {host: self.present[host].actor for host in hosts}
        calls = {
            host: (getattr(actor, method).remote(*arguments), actor)
            for host, actor in actors.items()
        }
        if await_transfers(
            calls,
            check_s=REPLY_S,
            reply_s=reply_s,
            longest_s=_TRANSFER_S,
            concurrency_group=CONCURRENT,
        ):
            raise GetTimeoutError("a parameter server does not reply")
        return list(ray.get([call for call, _ in calls.values()]))

    def stop(self) -> None:
        """End the segment of rounds on all servers."""
        for server in self.present.values():
            server.actor.stop.options(concurrency_group=CONCURRENT).remote()

    def wait(self) -> Wait | None:
        """Return what the current round waits for; None between two segments.

        It waits for the hosts whose servers do not reply. If all reply, the reply of the server
        that is furthest behind is returned, because the other servers may only be waiting for it.
        """
        calls = {
            server.actor.waiting.options(concurrency_group=CONCURRENT).remote(): server
            for server in self.present.values()
        }
        done, silent = ray.wait(list(calls), num_returns=len(calls), timeout=_STATUS_S)
        waits: list[Wait] = []
        for ref in done:
            try:
                waits += filter(None, [ray.get(ref)])
            except RayError:
                silent.append(ref)
        if not waits:
            return None
        slowest = min(waits, key=lambda each: (each.round, each.is_remote))
        names = tuple(f"host {calls[ref].identity}" for ref in silent) or slowest.waits_for
        seconds = max(each.seconds for each in waits)
        return slowest._replace(seconds=seconds, waits_for=names)

    def _call(
        self,
        method: str,
        arguments: Mapping[str, tuple[Any, ...]] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Call a method of all servers in parallel; errors of the servers' code are raised here.

        All replies are awaited, because a server whose peer has died may still wait for it.
        """
        refs = {
            host: getattr(server.actor, method).remote(*(arguments or {}).get(host, ()))
            for host, server in self.present.items()
        }
        try:
            waiting, longest_s = list(refs.values()), timeout_s or REPLY_S
            if ray.wait(waiting, num_returns=len(waiting), timeout=longest_s)[1]:
                raise GetTimeoutError(f"no reply within {longest_s:.0f} s")
            return dict(zip(refs, ray.get(waiting), strict=True))
        except RayTaskError as error:
            if isinstance(error.cause, RayError):
                raise
            raise error.cause from error


def _results(results: Mapping[str, Any]) -> list[Any]:
    """Return the results of all servers in order; raise the first MeshError among them."""
    for each in results.values():
        if isinstance(each, MeshError):
            raise each
    return list(results.values())
