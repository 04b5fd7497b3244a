"""The group of workers and parameter servers as Ray actors, which survives failures.

Ray places, starts, watches and replaces the actors. Each host with workers has a parameter server;
all servers hold the same state. Rounds run in segments with fixed membership, without the driver:
vectors travel through shared memory inside a host and over TCP between the servers. A failure or a
deadline ends the segment; the shards of a failed worker go to the others at once, and the next
segment begins at the round after the last one applied. A replacement takes its shards back between
two segments. A failed host costs no round, because every other host has the whole state; the copy
of the driver is for the failure of all. None of this changes a bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Event as StopSignal
from time import monotonic
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayError

from nanograd.digits.dataset import Dataset
from nanograd.distributed.actors import (
    ActorIdentity,
    ExchangeFailed,
    LateShards,
    SegmentFailure,
)
from nanograd.distributed.all_reduce import FailureCause
from nanograd.distributed.cluster import first_line
from nanograd.distributed.members import MAX_FAILURES, Members, error_of, probe, result_of
from nanograd.distributed.servers import Servers, refuse_faulty
from nanograd.errors import ClusterError, DivergedError, Stopped
from nanograd.runtime import events
from nanograd.runtime.events import FailureKind, Listener, WorkerState, ignore
from nanograd.training.recipe import Recipe
from nanograd.training.server import Refusal, RefusalReason, Snapshot

# A round may take this long, or five times as long as usual, whichever is more.
_MIN_DEADLINE_S = 5.0
# Before the usual time of a round is known.
_FIRST_DEADLINE_S = 60.0
_REPLY_TIMEOUT_S = 3.0
# A round that takes longer, and three times as long as usual, is reported: what it waits for.
_REPORT_S, _CHECK_S = 3.0, 1.0
# A host that fails so often within a minute gets no more work.
_MAX_LOSSES, _LOSSES_S = 3, 60.0
# If this many exchanges in a row fail although all actors work, hosts that wait for each other are
# separated.
_MAX_EXCHANGES = 3
# The servers' state is copied to the driver this often, in case all servers fail; or so seldom that
# it takes no more than this share of the time.
_BACKUP_S, _BACKUP_SHARE = 1.0, 0.02


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
        variables: environment variables of the actors' processes.

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
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._recipe, self._listener, self._stop = recipe, listener, stop or StopSignal()
        self._strict = strict
        self._backup, self._backup_time = snapshot, monotonic() + _BACKUP_S
        self._round, self._round_s = snapshot.round, 0.0
        self._num_failures, self._retried_round, self._reported = 0, -1, -_REPORT_S
        self._failed_ranks = set[int]()
        self._fingerprints: list[str] = []
        self._losses: dict[str, list[float]] = {}
        self._prepared = -1
        options = {"runtime_env": {"env_vars": dict(variables)}} if variables else {}
        self._servers = Servers(
            recipe,
            listener,
            num_workers=num_workers,
            ports=ports,
            shared_memory=shared_memory,
            options=options,
        )
        self._members = Members(recipe, dataset, num_workers, listener, self._stop, options=options)
        self._start()
        hosts = self._members.hosts()
        listener(events.GroupStarted(num_workers=len(self._members.present), num_hosts=len(hosts)))

    def _start(self) -> None:
        """Wait for workers and servers; replace those that are killed meanwhile."""
        while True:
            try:
                self._await_workers()
                self._prepare()
                return
            except RayError as error:
                reason = first_line(error)
                if not isinstance(error, RayActorError) or error.actor_init_failed:
                    text = f"the parameter server did not start ({reason}); see `ray status`"
                    raise ClusterError(text) from error
                self._go_on(self._round, {"": CallFailed(reason)})

    def advance(self, until: int) -> None:
        """Apply all rounds below `until` through any failures, unless `stop` is set.

        Raises:
            DivergedError: a gradient, loss or parameter is not finite.
            ClusterError: failures repeat without any round applied.
            Stopped: `stop` is set and the group has failed.
        """
        self._go_on(until, {})
        if monotonic() > self._backup_time:
            self.snapshot()

    def _go_on(self, until: int, failures: dict[str, Failure]) -> None:
        """Recover from failures, if there are any, and apply all rounds below `until`."""
        while failures or self._round < until:
            try:
                if failures:
                    self._recover(failures)
                    failures = {}
                    continue  # the servers may have applied the last round of the segment
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

    def snapshot(self) -> Snapshot:
        """Return a copy of the whole state of training."""
        while self._servers.present:
            try:
                self._copy_state()
                break
            except RayError as error:
                self._go_on(self._round, {"": CallFailed(first_line(error))})
        return self._backup

    def _copy_state(self) -> None:
        began = monotonic()
        self._backup = self._servers.snapshot(self._reply_s())
        took_s = monotonic() - began
        self._backup_time = began + max(_BACKUP_S, took_s / _BACKUP_SHARE)

    def workers(self) -> dict[int, WorkerState]:
        """Return the state of each rank."""
        return self._members.states()

    def fingerprints(self) -> Sequence[str]:
        """Describe the arithmetic of all workers so far, the first one's first."""
        return self._fingerprints

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
        arrivals = self._members.collect(wait=wait)
        for rank, reason in arrivals.failed.items():
            self._listener(events.warning(f"worker {rank} did not start: {reason}"))
            self._members.start(rank)
        for rank in arrivals.joined:
            self._compare_builds(rank)
            if rank in self._failed_ranks:
                self._failed_ranks.remove(rank)
                self._listener(events.WorkerJoined(rank=rank, round=self._round))
        if arrivals.joined:
            self._assign_shards()

    def _compare_builds(self, rank: int) -> None:
        """Compare a worker with the first one, which may be gone: servers run where workers do."""
        worker = self._members.present[rank].identity.fingerprint
        if worker not in self._fingerprints:
            self._fingerprints.append(worker)
        if worker == self._fingerprints[0]:
            return
        event = events.BuildsDiffer(rank=rank, worker=worker, first=self._fingerprints[0])
        if self._strict:
            raise ClusterError(f"{event}; --strict and --kernel portable refuse that")
        self._listener(event)

    def _assign_shards(self) -> None:
        if failed := self._members.assign(self._reply_s()):
            late = [rank for rank, how in failed.items() if how is FailureKind.UNRESPONSIVE]
            if late:
                self._count_failure(f"shards did not reach worker {late[0]}")
            self._replace_workers(failed)

    def _replace_workers(self, failed: Mapping[int, FailureKind]) -> None:
        """Give the shards of failed workers to the others and start replacements."""
        for rank, how in failed.items():
            self._members.replace(rank, how)
        self._failed_ranks |= failed.keys()
        self._assign_shards()
        for rank, how in failed.items():
            self._listener(
                events.WorkerFailed(
                    rank=rank, round=self._round, how=how, heirs=self._members.heirs(rank)
                )
            )

    def _prepare(self) -> None:
        """Provide servers, memory and connections, after any change of the workers."""
        if self._prepared != self._members.generation:
            self._servers.prepare(self._members.hosts(), self._members.generation, self._newest)
            self._prepared = self._members.generation

    def _newest(self) -> Snapshot:
        """Return the state for new servers."""
        if self._servers.present and self._backup.round < self._round:
            self._copy_state()
        return self._backup

    # Segments of rounds

    def _run_segment(self, until: int) -> dict[str, Failure]:
        """Run rounds to `until` or to the first failure; return the failures by host."""
        num_rounds, longest_s = until - self._round, deadline_s(self._round_s, self._num_failures)
        runs = []
        for member in self._members.present.values():
            server = self._servers.of(member.identity.host)
            runs.append(member.actor.run.remote(self._round, until, server.actor, server.token))
        served = self._servers.run(until, longest_s)
        whole_s = longest_s + 1 + 3 * num_rounds * self._round_s
        return self._watch(served, runs, monotonic() + whole_s)

    def _watch(
        self, served: Mapping[str, Any], runs: Sequence[Any], end_time: float
    ) -> dict[str, Failure]:
        """Wait until all servers have ended a segment; any failure ends it."""
        hosts = {ref: host for host, ref in served.items()}
        waiting = [*hosts, *runs]
        failures: dict[str, Failure] = {}
        while any(ref in hosts for ref in waiting):
            done, waiting = ray.wait(waiting, timeout=_CHECK_S)
            failure: Failure | None = None
            if done:
                failure = self._failure_of(done[0], done[0] in hosts)
            elif monotonic() <= end_time:
                self._report_wait()
            elif failures:
                break  # the probe of the recovery finds who does not even stop
            else:
                failure = CallFailed("a segment of rounds did not end in time")
            if failure is not None:
                if not failures:
                    self._servers.stop()
                    end_time = monotonic() + self._reply_s()
                failures.setdefault(hosts.get(done[0], "") if done else "", failure)
        return failures

    def _report_wait(self) -> None:
        wait = self._servers.wait()
        if wait is None or wait.seconds < max(_REPORT_S, 3 * self._round_s):
            return
        if monotonic() - self._reported < _REPORT_S:
            return
        self._reported = monotonic()
        for name in wait.waits_for:
            self._listener(
                events.RoundWaits(round=wait.round, seconds=round(wait.seconds), waits_for=name)
            )

    def _failure_of(self, ref: Any, is_server: bool) -> Failure | None:
        if not is_server:
            error = error_of(ref)
            return CallFailed(error) if error else None
        try:
            failure: Failure | None = result_of(ref)
        except RayError as error:
            return CallFailed(first_line(error))
        return failure

    def _reply_s(self) -> float:
        """Return the seconds without a reply before an actor counts as unresponsive."""
        return max(_REPLY_TIMEOUT_S, deadline_s(self._round_s, self._num_failures) / 2)

    # Failures

    def _recover(self, failures: Mapping[str, Failure]) -> None:
        """Find the failed actors, give their shards to the others, start replacements."""
        self._end_if_stopped()
        _refuse_differing_hosts(failures)
        cause = _first_cause(failures)
        self._count_failure(str(cause))  # first: the steps below may fail, too, but not forever
        self._servers.await_started()
        # The servers first: workers of a frozen one wait for it until it is gone.
        failed_servers = self._probe(
            {host: each.actor for host, each in self._servers.present.items()}
        )
        lost = {host: self._servers.present[host].neighbour for host in failed_servers}
        for host, how in failed_servers.items():
            self._servers.drop(host, how)
        failed = self._probe({rank: each.actor for rank, each in self._members.present.items()})
        if self._servers.present:
            for host, how in failed_servers.items():
                self._listener(events.HostFailed(host=str(lost[host]), round=self._round, how=how))
                failed = self._count_loss(lost[host]) | failed
            reached = self._servers.level(self._reply_s())
            self._num_failures = 0 if reached > self._round else self._num_failures
            self._round = reached
        elif failed_servers:
            self._listener(
                events.ServerFailed(round=self._round, reason=str(cause), copy=self._backup.round)
            )
            self._round = self._backup.round
        is_not_finite = isinstance(cause, Refusal) and cause.reason is RefusalReason.NOT_FINITE
        if is_not_finite and not failed and not failed_servers:
            self._retry_round(cause)
        if self._num_failures >= _MAX_EXCHANGES and not failed and not failed_servers:
            self._servers.leave_out(failures)
        self._replace_workers(failed)

    def _count_loss(self, actor: ActorIdentity) -> dict[int, FailureKind]:
        """Give no more work to a host that fails again and again; return its workers then."""
        # By address: a host that comes back is another node of Ray.
        losses, now = self._losses.setdefault(actor.address, []), monotonic()
        losses[:] = [*(each for each in losses if now - each < _LOSSES_S), now]
        there = [r for r, m in self._members.present.items() if m.identity.address == actor.address]
        if len(losses) < _MAX_LOSSES or len(there) == len(self._members.present):
            return {}
        self._members.exclude(actor)
        text = f"host {actor} failed {len(losses)} times in a minute: it gets no more work"
        self._listener(events.warning(text))
        return dict.fromkeys(there, FailureKind.KILLED)

    def _probe(self, actors: Mapping[_T, Any]) -> dict[_T, FailureKind]:
        """Return the failed ones of some actors."""
        states = probe(list(actors.values()), self._reply_s()) if actors else []
        return {name: how for name, how in zip(actors, states, strict=True) if how is not None}

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
        self._listener(events.RoundRetried(round=self._round, reason=str(cause)))

    def _end_if_stopped(self) -> None:
        """End the run: a service manager ends Ray's processes together with the driver."""
        if self._stop.is_set():
            raise Stopped(
                f"stopped; {self._round} rounds applied, those of the last seconds not saved"
            )

    def _count_failure(self, detail: str) -> None:
        self._num_failures += 1
        if self._num_failures > MAX_FAILURES:
            raise ClusterError(
                f"round {self._round} failed {self._num_failures} times, most recently because "
                f"{detail}; see the logs of Ray's actors"
            )


def _refuse_differing_hosts(failures: Mapping[str, Failure]) -> None:
    for failure in failures.values():
        if isinstance(failure, ExchangeFailed) and failure.cause is FailureCause.DIGESTS_DIFFER:
            refuse_faulty([failure.hosts[peer] for peer in failure.peers])


def _first_cause(failures: Mapping[str, Failure]) -> Failure:
    """Return the most telling failure: one that is not the effect of another."""
    order: list[type] = [Refusal, LateShards, CallFailed, ExchangeFailed]
    return min(failures.values(), key=lambda each: order.index(type(each)))
