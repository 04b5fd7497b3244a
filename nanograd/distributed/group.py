"""The group of workers and parameter servers as Ray actors, which survives failures.

Each host with workers has a parameter server; all servers hold the same state. Rounds run in
segments with fixed membership, without the driver: vectors travel through shared memory inside a
host and over TCP between the servers. A failure or a deadline ends the segment; the shards of a
failed worker go to the others at once, and the next segment begins at the round after the last one
applied. A replacement takes its shards back between two segments. A failed host costs no round,
because every other host has the whole state; the copy of the driver is for the failure of all.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import inf
from threading import Event as StopSignal
from time import monotonic
from typing import Self

import ray
from ray.exceptions import RayActorError, RayError

from nanograd.digits.dataset import Dataset
from nanograd.distributed.actors import LateShards, SegmentFailure
from nanograd.distributed.all_reduce import ExchangeFailed
from nanograd.distributed.cluster import first_line
from nanograd.distributed.members import MAX_FAILURES, GroupSpec, Members, outcome_of, probe
from nanograd.distributed.servers import Servers, refuse_faulty
from nanograd.errors import ClusterError, DivergedError, Stopped
from nanograd.runtime import events
from nanograd.runtime.events import FailureKind, Listener, WorkerState, ignore
from nanograd.training.recipe import Recipe
from nanograd.training.server import Refusal, Snapshot

# A round may take this long, or five times as long as usual, whichever is more.
_MIN_DEADLINE_S = 5.0
# Before the usual time of a round is known.
_FIRST_DEADLINE_S = 60.0
_REPLY_TIMEOUT_S = 3.0
# A round that takes longer, and three times as long as usual, is reported: what it waits for.
_REPORT_S, _CHECK_S = 3.0, 1.0
# If this many exchanges in a row fail although all actors work, hosts that wait for each other are
# separated.
_MAX_EXCHANGES = 3
# The servers' state is copied to the driver this often, in case all servers fail; or so seldom that
# it takes no more than this share of the time.
_BACKUP_S, _BACKUP_SHARE = 1.0, 0.02

# Why a segment ended: what a server returned, or the error of a call in one line.
Failure = SegmentFailure | str


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

    Each shard is shipped once to its holder. Once `stop` is set, failures are no longer repaired.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        snapshot: Snapshot,
        listener: Listener = ignore,
        stop: StopSignal | None = None,
        *,
        spec: GroupSpec,
    ) -> None:
        self._listener, self._stop = listener, stop or StopSignal()
        self._backup, self._backup_time = snapshot, inf
        self._round, self._round_s = snapshot.round, 0.0
        self._num_failures, self._retried_round, self._reported = 0, -1, -_REPORT_S
        # The membership for which servers, memory and connections are provided; -1 before.
        self._prepared = -1
        self._num_workers = spec.num_workers
        self.servers = Servers(recipe, listener, spec)
        self.members = Members(recipe, dataset, listener, self._stop, spec)

    def start(self) -> Self:
        """Start workers and servers; replace those that are killed meanwhile."""
        try:
            self.members.start()
            self.advance(self._round)
        except BaseException:
            self.close()
            raise
        self._backup_time = monotonic() + _BACKUP_S
        workers, hosts = len(self.members.present), len(self.members.hosts())
        self._listener(events.GroupStarted(num_workers=workers, num_hosts=hosts))
        return self

    def advance(self, until: int, *, is_copied: bool = False) -> None:
        """Apply all rounds below `until` through any failures, unless `stop` is set.

        Args:
            until: the round after the last one.
            is_copied: copy the state of the servers, even if that is not due yet.

        Raises:
            DivergedError: a gradient, loss or parameter is not finite.
            ClusterError: failures repeat without any round applied.
            Stopped: `stop` is set and the group has failed.
        """
        failures: dict[str, Failure] = {}
        while True:
            try:
                if failures:
                    self._recover(failures)
                    failures = {}
                # After a recovery the servers may have applied the last round of the segment.
                if self._round < until or self._prepared < 0:
                    if self.members.present:
                        self._take_in(wait=False)
                    while not self.members.present:
                        self._end_if_stopped()
                        self._take_in(wait=True)
                    self._prepare()
                    if self._round < until:
                        failures = self._run_segment(until)
                elif self._backup.round == self._round:
                    return
                elif is_copied or monotonic() > self._backup_time:
                    self._copy_state()
                else:
                    return
            except RayError as error:
                is_fatal = not isinstance(error, RayActorError) or error.actor_init_failed
                if self._prepared < 0 and is_fatal and not failures:
                    text = f"the parameter server did not start ({first_line(error)})"
                    raise ClusterError(f"{text}; see `ray status`") from error
                # A server failed between two segments: the probe of the recovery finds it.
                failures = {"": first_line(error)}

    def snapshot(self) -> Snapshot:
        """Return a copy of the whole state of training."""
        self.advance(self._round, is_copied=True)
        return self._backup

    def workers(self) -> dict[int, WorkerState]:
        """Return the state of each rank."""
        present, ranks = self.members.present, range(self._num_workers)
        states = WorkerState.WORKING, WorkerState.STARTING
        return {rank: states[rank not in present] for rank in ranks}

    def fingerprints(self) -> Sequence[str]:
        """Describe the arithmetic of all workers so far, the first one's first."""
        return self.members.fingerprints

    def settle(self) -> None:
        """Wait until every replacement has joined."""
        while self.members.starting:
            self._take_in(wait=True)
        self._prepare()

    def close(self) -> None:
        """End the actors, so that their CPUs are free."""
        self.members.close()
        self.servers.close()

    def _copy_state(self) -> None:
        began = monotonic()
        self._backup = self.servers.snapshot(self._reply_s())
        self._backup_time = began + max(_BACKUP_S, (monotonic() - began) / _BACKUP_SHARE)

    def _reply_s(self) -> float:
        """Return the seconds without a reply before an actor counts as unresponsive."""
        return max(_REPLY_TIMEOUT_S, deadline_s(self._round_s, self._num_failures) / 2)

    def _take_in(self, *, wait: bool) -> None:
        """Add workers that have started."""
        if self.members.collect(self._round, wait=wait):
            self._assign_shards({})

    def _assign_shards(self, failed: Mapping[int, FailureKind]) -> None:
        """Replace failed workers and give all shards to those that are present."""
        for rank, how in failed.items():
            self.members.replace(rank, how)
        if later := self.members.assign(self._reply_s()):
            if late := [r for r, how in later.items() if how is FailureKind.UNRESPONSIVE]:
                self._count_failure(f"shards did not reach worker {late[0]}")
            self._assign_shards(later)
        for rank, how in failed.items():
            heirs = self.members.heirs(rank)
            self._listener(events.WorkerFailed(rank=rank, round=self._round, how=how, heirs=heirs))

    def _prepare(self) -> None:
        """Provide servers, memory and connections, after any change of the workers."""

        def newest() -> Snapshot:
            if self.servers.present and self._backup.round < self._round:
                self._copy_state()
            return self._backup

        if self._prepared != self.members.generation:
            self.servers.prepare(self.members.hosts(), self.members.generation, newest)
            self._prepared = self.members.generation

    def _run_segment(self, until: int) -> dict[str, Failure]:
        """Run rounds to `until` or to the first failure; return the failures by host."""
        began, first, round_s = monotonic(), self._round, self._round_s
        longest_s = deadline_s(round_s, self._num_failures)
        waiting = []
        for member in self.members.present.values():
            server = self.servers.of(member.identity.host)
            waiting.append(member.actor.run.remote(first, until, server.actor, server.token))
        hosts = {
            server.actor.run.remote(until, longest_s): host
            for host, server in self.servers.present.items()
        }
        waiting = [*hosts, *waiting]
        end_time = monotonic() + longest_s + 1 + 3 * (until - first) * round_s
        failures: dict[str, Failure] = {}
        # All servers have ended a segment when it is over; any failure ends it.
        while any(ref in hosts for ref in waiting):
            done, waiting = ray.wait(waiting, timeout=_CHECK_S)
            failure: Failure | None = None
            if done:
                is_server = done[0] in hosts
                failure = outcome_of(done[0], Exception if is_server else DivergedError)
            elif monotonic() <= end_time:
                self._report_wait()
            elif failures:
                break  # the probe of the recovery finds who does not even stop
            else:
                failure = "a segment of rounds did not end in time"
            if failure is not None:
                if not failures:
                    self.servers.stop()
                    end_time = monotonic() + self._reply_s()
                failures.setdefault(hosts.get(done[0], "") if done else "", failure)
        if not failures:
            self._round_s = (monotonic() - began) / (until - first)
            self._num_failures, self._round = 0, until
        return failures

    def _report_wait(self) -> None:
        wait = self.servers.wait()
        is_long = wait is not None and wait.seconds >= max(_REPORT_S, 3 * self._round_s)
        if wait is not None and is_long and monotonic() - self._reported >= _REPORT_S:
            self._reported, seconds = monotonic(), round(wait.seconds)
            for name in wait.waits_for:
                event = events.RoundWaits(round=wait.round, seconds=seconds, waits_for=name)
                self._listener(event)

    def _recover(self, failures: Mapping[str, Failure]) -> None:
        """Find the failed actors, give their shards to the others, start replacements."""
        self._end_if_stopped()
        for failure in failures.values():
            if isinstance(failure, ExchangeFailed):
                refuse_faulty(failure.faulty)
        # The most telling failure: one that is not the effect of another.
        order: list[type] = [Refusal, LateShards, str, ExchangeFailed]
        cause = min(failures.values(), key=lambda each: order.index(type(each)))
        self._count_failure(str(cause))  # first: the steps below may fail, too, but not forever
        for host in self.servers.present:  # those that are starting do not reply to a probe yet
            with suppress(RayError):  # the probe finds the failure
                self.servers.identity(host)
        # The servers first: workers of a frozen one wait for it until it is gone.
        servers = {host: each.actor for host, each in self.servers.present.items()}
        failed_servers = probe(servers, self._reply_s())
        lost = {host: self.servers.present[host].neighbour for host in failed_servers}
        for host, how in failed_servers.items():
            self.servers.drop(host, how)
        if failed_servers and not self.servers.present:
            copy, reason = self._backup.round, str(cause)
            self._listener(events.ServerFailed(round=self._round, reason=reason, copy=copy))
            self._round = copy
        workers = {rank: each.actor for rank, each in self.members.present.items()}
        failed = probe(workers, self._reply_s())
        is_healthy = not failed and not failed_servers
        if self.servers.present:
            for host, how in failed_servers.items():
                self._listener(events.HostFailed(host=str(lost[host]), round=self._round, how=how))
                failed = self.members.count_loss(lost[host]) | failed
            reached = self.servers.level(self._reply_s())
            self._num_failures = 0 if reached > self._round else self._num_failures
            self._round = reached
        if is_healthy and cause is Refusal.NOT_FINITE:
            # Once may be a fault of a worker, so new ones repeat the round.
            if self._retried_round == self._round:
                text = f"round {self._round}: {cause}, computed twice: lower --learning-rate"
                raise DivergedError(text)
            self._retried_round = self._round
            for rank in list(self.members.present):
                self.members.replace(rank)
            self._listener(events.RoundRetried(round=self._round, reason=str(cause)))
        if is_healthy and self._num_failures >= _MAX_EXCHANGES:
            self.servers.leave_out(failures)
        self._assign_shards(failed)

    def _end_if_stopped(self) -> None:
        """End the run: a service manager ends Ray's processes together with the driver."""
        if self._stop.is_set():
            text = f"stopped; {self._round} rounds applied, those of the last seconds not saved"
            raise Stopped(text)

    def _count_failure(self, detail: str) -> None:
        self._num_failures += 1
        if self._num_failures > MAX_FAILURES:
            raise ClusterError(
                f"round {self._round} failed {self._num_failures} times, most recently because "
                f"{detail}; see the logs of Ray's actors"
            )
