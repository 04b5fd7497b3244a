"""The parameter servers of a group, one on each host with workers, all with the same state."""

import os
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from nanograd.distributed import members
from nanograd.distributed.actors import CONCURRENT, ActorIdentity, ServerActor, Wait, this_process
from nanograd.distributed.all_reduce import ExchangeFailed, MeshPlan
from nanograd.distributed.members import START_TIMEOUT_S, Member
from nanograd.distributed.mesh import FORMATION_S, KEY_BYTES, MeshError
from nanograd.errors import ClusterError
from nanograd.runtime import events
from nanograd.runtime.events import FailureKind, Listener
from nanograd.training.recipe import Recipe
from nanograd.training.server import Snapshot
from nanograd.training.tree import cover

# Seconds to wait for a reply between two segments; a server with a large state may need longer.
REPLY_S = 10.0
# Seconds after which the transfer of a whole state counts as failed.
_TRANSFER_S = 600.0
# Seconds to wait for a server to say what it waits for.
_STATUS_S = 1.0

Hosts = Mapping[str, Sequence[Member]]


@dataclass
class Server:
    """A parameter server actor."""

    actor: Any
    ready: Any
    neighbour: ActorIdentity  # of a process on its host, known before the server has started
    began: float  # time when its start began
    identity: ActorIdentity | None = None
    token: int = 0


class Servers:
    """Parameter server actors by host; see `RayGroup`."""

    def __init__(self, recipe: Recipe, listener: Listener) -> None:
        self._recipe, self._listener = recipe, listener
        # Hosts that cannot be connected to the others. Their workers call the server of this host,
        # because all hosts can reach this host, but perhaps not each other.
        self._outside, self._here = set[str](), this_process()
        self.present: dict[str, Server] = {}
        self._forms_until = 0.0  # time when servers give up a mesh that does not form

    def forming_s(self) -> float:
        """Return the seconds in which servers may still wait for a mesh that does not form."""
        return max(0.0, self._forms_until - monotonic())

    def prepare(self, hosts: Hosts, generation: int, state: Callable[[], Snapshot]) -> None:
        """Provide a server on each host, its memory, and the connections between the servers.

        The generation is the number of this set of workers and servers. `state` returns the state
        from which new servers start.
        """
        while True:
            groups: dict[str, list[Member]] = {}  # the workers by the host of their server
            for host, workers in hosts.items():
                at = self._here.host if host in self._outside else host
                groups.setdefault(at, []).extend(workers)
            new = [host for host in groups if host not in self.present]
            snapshot = state() if new else None
            for host in new:
                is_here = host == self._here.host
                neighbour = self._here if is_here else hosts[host][0].identity
                actor, ready = members.start_actor(
                    ServerActor,
                    self._recipe,
                    snapshot,
                    num_cpus=0,
                    # One thread for each worker that calls, one for `stop` and one for `waiting`.
                    concurrency_groups={CONCURRENT: (self._recipe.spec.workers or 1) + 2},
                    label_selector=members.on_host(host),
                )
                self.present[host] = Server(actor, ready, neighbour, began=monotonic())
            for host in [host for host in self.present if host not in groups]:
                self.drop(host)
            self.present = {host: self.present[host] for host in groups}
            for host in groups:
                self.identity(host)
            self._open(groups)
            try:
                if len(groups) > 1:
                    self._connect(groups, generation)
                return
            except MeshError as error:
                self._leave_out(error, list(groups))

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
        ports = (self._recipe.spec.port_range(),)
        endpoints = _results(self._call("listen", dict.fromkeys(groups, ports)))
        key = secrets.token_bytes(KEY_BYTES)
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
                hosts=[str(self.identity(each)) for each in groups],
                nodes=tuple(tuple(cover(root, shards)) for shards in held),
                root=root,
                num_parameters=self._recipe.architecture.num_parameters,
            )
            joined[host] = plan, key, endpoints
        # If a server dies now, the others reply only when they stop waiting for it.
        self._forms_until = monotonic() + FORMATION_S + REPLY_S
        outcomes = self._call("join", joined, FORMATION_S + REPLY_S)
        self._forms_until = 0.0
        refused = sum(_results(outcomes))
        if refused:
            text = f"refused {events.count(refused, 'connection')} to the parameter servers"
            self._listener(events.warning(text))

    def leave_out(self, failures: Mapping[str, object]) -> None:
        """Stop using the servers of hosts that lose their connections again and again.

        `failures` has by host why its server ended a segment in which no actor failed.
        """
        hosts = list(self.present)
        ended = {index: failures.get(host) for index, host in enumerate(hosts)}
        waits = {a: each.suspects for a, each in ended.items() if isinstance(each, ExchangeFailed)}
        # Hosts a and b where a waits for b, and b waits for a or has finished.
        pairs = frozenset(
            (min(a, b), max(a, b))
            for a, others in waits.items()
            for b in others
            if ended[b] is None or a in waits.get(b, ())
        )
        if pairs:
            lower, higher = (self.present[hosts[index]].neighbour for index in min(pairs))
            reason = f"host {higher} and host {lower} do not receive what they send each other"
            self._leave_out(MeshError(reason, pairs), hosts)

    def _leave_out(self, failure: MeshError, hosts: Sequence[str]) -> None:
        """Let the workers of hosts that cannot be connected call the server of this host."""
        pairs = [(hosts[one], hosts[other]) for one, other in failure.pairs]
        out = unconnected(pairs, [host for host in hosts if host != self._here.host])
        names = ", ".join(str(self.present[host].neighbour) for host in out)
        self._outside |= set(out)
        text = f"vectors of {names} travel in calls, which are slower: {failure}"
        self._listener(events.warning(text))

    def of(self, host: str) -> Server:
        """Return the server for the workers of a host."""
        return self.present.get(host) or self.present[self._here.host]

    def identity(self, host: str) -> ActorIdentity:
        """Wait until a server has started, at most START_TIMEOUT_S; return its identity."""
        server = self.present[host]
        if server.identity is None:
            left_s = max(0.0, server.began + START_TIMEOUT_S - monotonic())
            server.identity = ray.get(server.ready, timeout=left_s)
        return server.identity

    def drop(self, host: str, how: FailureKind | None = None) -> ActorIdentity:
        """Remove a server and end it, after a failure `how`, if any; return its neighbour."""
        server = self.present.pop(host)
        if how is not None:  # a host that comes back may be reachable again
            self._outside.discard(host)
        # Use the identity stored at its start, because a call fails if its host is gone.
        members.end_actor(server.actor, server.identity, how)
        return server.neighbour

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
        """Check that all servers have the same state; return it, from this host if it has a server.

        Raises:
            ClusterError: the servers have different states.
            RayError: a server fails, or no server replies.
        """
        if len(self.present) > 1 and (faulty := deviating(self._call("digest"))):
            names = sorted(str(self.present[host].neighbour) for host in faulty)
            raise ClusterError(
                f"the parameters of {' and '.join(names)} differ from those of other hosts: a "
                "memory or processor is faulty; leave that host out"
            )
        error: RayError = GetTimeoutError("no server")
        for host in sorted(self.present, key=lambda host: host != self._here.host):
            try:
                snapshot: Snapshot = self._transfer("snapshot", [host], reply_s)[0]
                return snapshot
            except RayError as failure:
                error = failure
        raise error

    def _transfer(
        self, method: str, hosts: Sequence[str], reply_s: float, *arguments: Any
    ) -> list[Any]:
        """Call a method that sends a whole state; raise RayError if a server does not reply."""
        servers = {host: self.present[host] for host in hosts}
        calls = {
            host: (getattr(server.actor, method).remote(*arguments), server)
            for host, server in servers.items()
        }
        if members.await_transfers(
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

        It waits for the hosts whose servers do not reply. If all reply, the server that is furthest
        behind says it, because the other servers may only be waiting for that one.
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
        names = tuple(f"host {calls[ref].neighbour}" for ref in silent) or slowest.waits_for
        seconds = max(each.seconds for each in waits)
        return slowest._replace(seconds=seconds, waits_for=names)

    def _call(
        self,
        method: str,
        arguments: Mapping[str, tuple[Any, ...]] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Call a method of all servers in parallel; errors of the servers' code are raised here."""
        refs = {
            host: getattr(server.actor, method).remote(*(arguments or {}).get(host, ()))
            for host, server in self.present.items()
        }
        try:
            results = ray.get(list(refs.values()), timeout=timeout_s or REPLY_S)
            return dict(zip(refs, results, strict=True))
        except RayTaskError as error:
            if isinstance(error.cause, RayError):
                raise
            raise error.cause from error


def deviating(values: Mapping[str, object]) -> list[str]:
    """Return the hosts whose value differs from the majority; all hosts if there is no majority.

    >>> deviating({"a": 1, "b": 1, "c": 2}), deviating({"a": 1, "b": 2}), deviating({"a": 1})
    (['c'], ['a', 'b'], [])
    """
    common, count = Counter(values.values()).most_common(1)[0]
    is_majority = 2 * count > len(values)
    return [host for host, value in values.items() if value != common or not is_majority]


def unconnected(pairs: Sequence[tuple[str, str]], others: Sequence[str]) -> list[str]:
    """Choose the hosts to leave out, so that all remaining hosts are connected to each other.

    `pairs` has the two hosts of each missing connection, or the same one twice if it cannot listen.
    The host with the most missing connections is chosen first; of equal hosts, the last one. If no
    missing connection involves another host than this one, the fault is here or unknown, and all
    `others` are left out.

    >>> unconnected([("a", "d"), ("b", "d"), ("c", "d"), ("b", "c")], "bcd")
    ['d', 'c']
    >>> unconnected([("a", "a")], "bcd"), unconnected([], "bcd")
    (['b', 'c', 'd'], ['b', 'c', 'd'])
    """
    left, chosen = list(pairs), list[str]()
    while left:
        ends = [host for pair in left for host in pair]
        worst = max(others, key=lambda host: (ends.count(host), others.index(host)))
        if worst not in ends:
            return list(others)
        chosen.append(worst)
        left = [pair for pair in left if worst not in pair]
    return chosen or list(others)


def _results(results: Mapping[str, Any]) -> list[Any]:
    """Return the results of all servers in order; raise their MeshErrors as one."""
    errors = {i: each for i, each in enumerate(results.values()) if isinstance(each, MeshError)}
    if not errors:
        return list(results.values())
    pairs = frozenset[tuple[int, int]]().union(*(each.pairs for each in errors.values()))
    raise MeshError(
        str(next(iter(errors.values()))), pairs or frozenset((index, index) for index in errors)
    )
