"""The group of workers and parameter servers as Ray actors, which survives failures.

Ray places, starts, watches and replaces the actors. Each host with workers has a parameter server;
all servers hold the same state. Rounds run in segments with fixed membership, without the driver:
vectors travel through shared memory inside a host and over TCP between the servers. A failure or a
deadline ends the segment; the shards of a failed worker go to the others at once, and the next
segment begins at the round after the last one applied. A replacement takes its shards back between
two segments. A failed host costs no round, because every other host has the whole state; the copy
of the driver is for the failure of all. None of this changes a bit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event as StopSignal
from time import monotonic
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayError

from nanograd.data.dataset import Dataset
from nanograd.distributed.actors import ExchangeFailed, LateShards, SegmentFailure
from nanograd.distributed.cluster import first_line
from nanograd.distributed.members import Members, error_of, probe, result_of
from nanograd.distributed.mesh import MeshError
from nanograd.distributed.servers import Servers
from nanograd.errors import ClusterError, DivergedError, Stopped
from nanograd.runtime.events import (
    BuildsDiffer,
    FailureKind,
    GroupStarted,
    HostFailed,
    Listener,
    RoundRetried,
    ServerFailed,
    WorkerFailed,
    WorkerJoined,
    WorkerState,
    ignore,
    warning,
)
from nanograd.training.recipe import Recipe
from nanograd.training.server import Refusal, RefusalReason, Snapshot
from nanograd.training.tree import cover

# A round may take this long, or five times as long as usual, whichever is more.
_MIN_DEADLINE_S = 5.0
# Before the usual time of a round is known.
_FIRST_DEADLINE_S = 60.0
_REPLY_TIMEOUT_S = 3.0
# Failures in a row without any round applied between them.
_MAX_FAILURES = 5
# The servers' state is copied to the driver this often, in case all servers fail.
_BACKUP_S = 1.0


@dataclass(frozen=True)
class CallFailed:
    """A call to an actor failed."""

    detail: str

    def __str__(self) -> str:
        return self.detail


Failure = SegmentFailure | CallFailed
_T = TypeVar("_T")


def deadline_s(round_s: float, num_failures: int) -> float:
    """Return the seconds to wait for the contributions of a round.

    Args:
        round_s: usual seconds of a round; 0 if unknown.
        num_failures: failures since a round was applied: each may have been a slow round.

    >>> deadline_s(0.02, 0), deadline_s(0.02, 1), deadline_s(7, 0), deadline_s(0, 0)
    (5.0, 10.0, 35.0, 60.0)
    """
    usual = max(_MIN_DEADLINE_S, 5 * round_s) if round_s else _FIRST_DEADLINE_S
    return usual * 2.0**num_failures


class RayGroup:
    """Worker actors, one CPU each, that own neighbouring shards; and a server actor on each host.

    Args:
        recipe: the computation.
        dataset: the training images; each shard is shipped once to its holder.
        snapshot: the state to start from.
        listener: receives group events.
        stop: set when the run should end; then failures are no longer repaired.
        num_workers: W, 1 to S.
        strict: refuse workers whose BLAS or numpy differ, instead of reporting them.
        shared_memory: use it where possible; without it all vectors travel through calls.
        ports: TCP ports for the connections between hosts; 0 for any.

    Raises:
        ClusterError: the actors do not start.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        snapshot: Snapshot,
        listener: Listener = ignore,
        stop: StopSignal | None = None,
        *,
        num_workers: int,
        strict: bool = False,
        shared_memory: bool = True,
        ports: Sequence[int] = (0,),
    ) -> None:
        self._recipe, self._listener, self._stop = recipe, listener, stop or StopSignal()
        self._strict, self._shared_memory = strict, shared_memory
        self._uses_mesh = True
        self._backup, self._backup_time = snapshot, monotonic()
        self._round, self._round_s = snapshot.round, 0.0
        self._num_failures, self._retried_round = 0, -1
        self._failed_ranks = set[int]()
        self._prepared = -1
        self._servers = Servers(recipe, num_workers, ports)
        self._members = Members(recipe, dataset, num_workers)
        try:
            self._await_workers()
            self._prepare()
        except RayError as error:  # nothing is trained yet: a report is better than a retry
            raise ClusterError(
                f"the parameter server did not start ({first_line(error)}); look at `ray status`"
            ) from error
        hosts = self._members.hosts()
        listener(GroupStarted(num_workers=len(self._members.present), num_hosts=len(hosts)))

    def advance(self, until: int) -> None:
        """Apply all rounds below `until` through any failures, unless `stop` is set.

        Raises:
            DivergedError: a gradient, loss or parameter is not finite.
            ClusterError: failures repeat without any round applied.
            Stopped: `stop` is set and the group has failed.
        """
        failures: dict[str, Failure] = {}
        while self._round < until:
            try:
                if failures:
                    self._recover(failures)
                self._await_workers()
                self._prepare()
                began = monotonic()
                failures = self._run_segment(until)
                if not failures:
                    self._round_s = (monotonic() - began) / (until - self._round)
                    self._num_failures, self._round = 0, until
            except RayError as error:
                # A server failed between two segments: the probe of the recovery finds it.
                failures = {"": CallFailed(first_line(error))}
        if monotonic() - self._backup_time > _BACKUP_S:
            self.snapshot()

    def snapshot(self) -> Snapshot:
        """Return a copy of the whole state of training."""
        while self._servers.present:
            try:
                self._backup = self._servers.snapshot(self._reply_s())
                self._backup_time = monotonic()
                break
            except RayError as error:
                until = self._round
                self._recover({"": CallFailed(first_line(error))})
                self.advance(until)
        return self._backup

    def workers(self) -> dict[int, WorkerState]:
        """Return the state of each rank."""
        return self._members.states()

    def settle(self) -> None:
        """Wait until every replacement has joined."""
        while self._members.are_starting:
            self._collect_workers(wait=True)
        self._prepare()

    def pids(self) -> dict[str, int]:
        """Return the process ids of `server` (the first one) and of the ranks of the workers."""
        host = next(iter(self._servers.present))
        return {"server": self._servers.identity(host).pid} | {
            str(rank): each.identity.pid for rank, each in self._members.present.items()
        }

    def close(self) -> None:
        """End the actors, so that their CPUs are free."""
        self._members.close()
        self._servers.close()

    # Membership

    def _await_workers(self) -> None:
        """Take in workers that have started; wait as long as there are none."""
        if self._members.present:
            self._collect_workers(wait=False)
        while not self._members.present:
            self._end_if_stopped()
            self._collect_workers(wait=True)

    def _collect_workers(self, *, wait: bool) -> None:
        if not self._members.are_starting:
            return
        arrivals = self._members.collect(self._stop if wait else None)
        for rank, reason in arrivals.failed.items():
            self._count_failure(f"worker {rank} did not start: {reason}")
            self._members.start(rank)
        for rank in arrivals.joined:
            self._compare_builds(rank)
            if rank in self._failed_ranks:
                self._failed_ranks.remove(rank)
                self._listener(WorkerJoined(rank=rank, round=self._round))
        if arrivals.joined:
            self._assign_shards()

    def _compare_builds(self, rank: int) -> None:
        """Compare a worker with the first one: servers run where workers do."""
        ours = next(iter(self._members.present.values())).identity.fingerprint
        worker = self._members.present[rank].identity.fingerprint
        if worker == ours:
            return
        event = BuildsDiffer(rank=rank, worker=worker, server=ours)
        if self._strict:
            raise ClusterError(f"{event}; leave out --strict to continue all the same")
        self._listener(event)

    def _assign_shards(self) -> None:
        if failed := self._members.assign(self._reply_s()):
            self._replace_workers(failed)

    def _replace_workers(self, failed: Mapping[int, FailureKind]) -> None:
        """Give the shards of failed workers to the others and start replacements."""
        for rank, how in failed.items():
            self._members.replace(rank, how)
        self._failed_ranks |= failed.keys()
        self._assign_shards()
        for rank, how in failed.items():
            self._listener(
                WorkerFailed(rank=rank, round=self._round, how=how, heirs=self._members.heirs(rank))
            )

    # Servers

    def _prepare(self) -> None:
        """Provide a server on each host, its memory and the connections, after any change."""
        if self._prepared == self._members.generation:
            return
        hosts = self._members.hosts()
        if not self._uses_mesh:
            hosts = {next(iter(hosts)): [each for members in hosts.values() for each in members]}
        new = [host for host in hosts if host not in self._servers.present]
        old = [host for host in self._servers.present if host not in hosts]
        if new or old:
            self._move_state()
        for host in old:
            self._servers.drop(host)
        for host in new:
            self._servers.start(host, self._backup)
        for host in hosts:
            self._servers.identity(host)
        self._servers.present = {host: self._servers.present[host] for host in hosts}
        nodes = {
            host: tuple(n for m in members for n in m.nodes) for host, members in hosts.items()
        }
        addresses = self._servers.open(nodes)
        attached = {
            each.actor.attach.remote(addresses[host]): (host, each)
            for host, members in hosts.items()
            for each in members
            if self._shared_memory
        }
        self._await_attached(attached)
        if len(hosts) > 1:
            self._connect()
        self._prepared = self._members.generation

    def _await_attached(self, attached: Mapping[Any, Any]) -> None:
        done, _ = (
            ray.wait(list(attached), num_returns=len(attached), timeout=_REPLY_TIMEOUT_S)
            if attached
            else ([], [])
        )
        for ref in done:
            host, member = attached[ref]
            try:
                reached = ray.get(ref)
            except RayError:
                continue  # the segment that follows finds the failure
            if not reached and member.identity.host == host:
                self._listener(
                    warning(
                        f"process {member.identity.pid} cannot open the memory of the parameter "
                        "server on its own host; its vectors travel in calls, which are slower"
                    )
                )

    def _connect(self) -> None:
        hosts = self._members.hosts()
        nodes = {
            host: tuple(cover_of(members, self._recipe.plan.num_shards))
            for host, members in hosts.items()
        }
        try:
            refused = self._servers.connect(self._members.generation, nodes)
        except MeshError as error:
            self._uses_mesh = False
            self._listener(
                warning(f"no connections between the hosts ({error}); vectors travel in calls")
            )
            self._prepare()
            return
        if refused:
            self._listener(warning(f"{refused} connections to the parameter servers were refused"))

    def _move_state(self) -> None:
        """Copy the state to the driver, to start servers from."""
        if self._servers.present and self._backup.round < self._round:
            self._backup = self._servers.snapshot(self._reply_s())
            self._backup_time = monotonic()

    # Segments of rounds

    def _run_segment(self, until: int) -> dict[str, Failure]:
        """Run rounds to `until` or to the first failure; return the failures by host."""
        num_rounds, deadline_s = until - self._round, self._deadline_s()
        runs = []
        for host, members in self._members.hosts().items():
            server = self._servers.present.get(host) or next(iter(self._servers.present.values()))
            runs += [
                each.actor.run.remote(self._round, until, server.actor, server.token)
                for each in members
            ]
        served = self._servers.run(until, deadline_s)
        whole_s = deadline_s + 1 + 3 * num_rounds * self._round_s
        return self._watch(served, runs, monotonic() + whole_s)

    def _watch(
        self, served: Mapping[str, Any], runs: Sequence[Any], end_time: float
    ) -> dict[str, Failure]:
        """Wait until all servers have ended a segment; any failure ends it."""
        hosts = {ref: host for host, ref in served.items()}
        waiting = [*hosts, *runs]
        failures: dict[str, Failure] = {}
        while any(ref in hosts for ref in waiting):
            done, waiting = ray.wait(waiting, timeout=max(0.0, end_time - monotonic()))
            if not done:
                raise GetTimeoutError("a segment of rounds did not end in time")
            failure = self._failure_of(done[0], done[0] in hosts)
            if failure is not None:
                failures.setdefault(hosts.get(done[0], ""), failure)
                self._servers.stop()
        return failures

    def _failure_of(self, ref: Any, is_server: bool) -> Failure | None:
        if not is_server:
            error = error_of(ref)
            return CallFailed(error) if error else None
        try:
            failure: Failure | None = result_of(ref)
        except RayError as error:
            return CallFailed(first_line(error))
        return failure

    def _deadline_s(self) -> float:
        return deadline_s(self._round_s, self._num_failures)

    def _reply_s(self) -> float:
        """Return the seconds without a reply before an actor counts as unresponsive."""
        return max(_REPLY_TIMEOUT_S, self._deadline_s() / 2)

    # Failures

    def _recover(self, failures: Mapping[str, Failure]) -> None:
        """Find the failed actors, give their shards to the others, start replacements."""
        self._end_if_stopped()
        cause = _first_cause(failures)
        self._count_failure(str(cause))  # first: the steps below may fail, too, but not forever
        self._servers.await_started()
        servers = [each.actor for each in self._servers.present.values()]
        states = probe([*servers, *self._members.actors()], self._reply_s())
        failed_servers = _failed(self._servers.present, states[: len(servers)])
        failed = _failed(self._members.present, states[len(servers) :])
        for host, how in failed_servers.items():
            self._servers.drop(host, how)
        if self._servers.present:
            for host, how in failed_servers.items():
                self._listener(HostFailed(host=host[:8], round=self._round, how=how))
            reached = self._servers.level()
            self._num_failures = 0 if reached > self._round else self._num_failures
            self._round = reached
        elif failed_servers:
            self._listener(
                ServerFailed(round=self._round, reason=str(cause), copy=self._backup.round)
            )
            self._round = self._backup.round
        is_not_finite = isinstance(cause, Refusal) and cause.reason is RefusalReason.NOT_FINITE
        if is_not_finite and not failed and not failed_servers:
            self._retry_round(cause)
        self._replace_workers(failed)

    def _retry_round(self, cause: Failure) -> None:
        """Let new workers repeat a round that was not finite: once may be a fault of a worker."""
        if self._retried_round == self._round:
            raise DivergedError(
                f"round {self._round}: {cause}, computed twice: lower --learning-rate"
            )
        self._retried_round = self._round
        for rank in list(self._members.present):
            self._members.replace(rank)
            self._failed_ranks.add(rank)
        self._listener(RoundRetried(round=self._round, reason=str(cause)))

    def _end_if_stopped(self) -> None:
        """End the run: a service manager ends Ray's processes together with the driver."""
        if self._stop.is_set():
            raise Stopped(
                f"stopped; {self._round} rounds applied, those of the last seconds not saved"
            )

    def _count_failure(self, detail: str) -> None:
        self._num_failures += 1
        if self._num_failures > _MAX_FAILURES:
            raise ClusterError(
                f"round {self._round} failed {self._num_failures} times, most recently because "
                f"{detail}; look at the logs of Ray's actors"
            )


def _first_cause(failures: Mapping[str, Failure]) -> Failure:
    """Return the most telling failure: one that is not the effect of another."""
    order: list[type] = [Refusal, LateShards, CallFailed, ExchangeFailed]
    return min(failures.values(), key=lambda each: order.index(type(each)))


def _failed(names: Iterable[_T], states: Sequence[FailureKind | None]) -> dict[_T, FailureKind]:
    return {name: how for name, how in zip(names, states, strict=True) if how is not None}


def cover_of(members: Sequence[Any], num_shards: int) -> list[tuple[int, int]]:
    """Return the tree nodes of a host's sums, the largest over the shards of its workers."""
    shards = frozenset(s for each in members for node in each.nodes for s in range(*node))
    return cover((0, num_shards), shards)
