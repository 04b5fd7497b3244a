"""The group of workers and parameter servers as Ray actors, which survives failures.

Each host with workers has a parameter server, and all servers hold the same state: the parameters
and the vectors of the optimizer. Rounds run in segments. During a segment, no worker or server
joins or leaves, and the driver takes no part: parameters and gradients are exchanged in shared
memory inside a host, and over TCP between the servers. A failure or a missed deadline ends the
segment. Then other workers compute the shards of a failed worker, and the next segment continues
after the last applied round. Between two later segments, a replacement gets the shards back. If a
host fails, no round is lost, because every other host has the whole state. The driver keeps a copy
of the state in case all hosts fail.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import inf
from threading import Event as StopSignal
from time import monotonic

import ray
from ray.exceptions import RayActorError, RayError

from nanograd.digits.dataset import Dataset
from nanograd.distributed.actors import LateShards, SegmentFailure
from nanograd.distributed.all_reduce import ExchangeFailed
from nanograd.distributed.cluster import first_line
from nanograd.distributed.members import MAX_FAILURES, Members, outcome_of, probe
from nanograd.distributed.servers import Servers
from nanograd.errors import ClusterError, DivergedError, Stopped
from nanograd.runtime import events
from nanograd.runtime.events import FailureKind, Listener, WorkerState, changed, count
from nanograd.training.recipe import Recipe
from nanograd.training.server import Refusal, Snapshot

# Minimum deadline of a round; it is five times the usual time of a round if that is longer.
_MIN_DEADLINE_S = 5.0
# Deadline of a round before the usual time is known.
_FIRST_DEADLINE_S = 60.0
_REPLY_TIMEOUT_S = 3.0
# A round is reported if it takes this many seconds and three times the usual time; second value:
# seconds between two checks.
_REPORT_S, _CHECK_S = 3.0, 1.0
# If this many exchanges in a row fail although all actors reply, hosts that wait for each other are
# no longer connected; see `Servers.leave_out`.
_MAX_EXCHANGES = 3
# Seconds between two copies of the servers' state to the driver, for the case that all servers
# fail. If copying is slow, the interval grows so that copying takes at most this share of the time.
_BACKUP_S, _BACKUP_SHARE = 1.0, 0.02

# Why a segment failed: the failure that a server returned, or one line about a failed call.
Failure = SegmentFailure | str


def deadline_s(round_s: float, num_failures: int) -> float:
    """Return the seconds to wait for the contributions of a round: 5 s or five usual rounds.

    `round_s` is 0 if the usual seconds of a round are unknown. Each failure since the last applied
    round doubles the result, because the workers may not have failed but only been slow.

    >>> deadline_s(0.02, 0), deadline_s(0.02, 1), deadline_s(7, 0), deadline_s(0, 0)
    (5.0, 10.0, 35.0, 60.0)
    """
    usual = max(_MIN_DEADLINE_S, 5 * round_s) if round_s else _FIRST_DEADLINE_S
    return usual * 2.0**num_failures


class RayGroup:
    """Worker actors, each with one CPU and a range of shards, and a server actor on each host.

    The images of a shard are sent to its worker once. After `stop` is set, failed workers are no
    longer replaced.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        snapshot: Snapshot,
        listener: Listener = events.ignore,
        stop: StopSignal | None = None,
    ) -> None:
        self._listener, self._stop = listener, stop or StopSignal()
        self._backup, self._backup_time = snapshot, inf
        self._round, self._round_s = snapshot.round, 0.0
        self._num_failures, self._retried_round, self._reported = 0, -1, -_REPORT_S
        # Membership for which servers, memory and connections are ready; -1 for none.
        self._prepared = -1
        self.servers = Servers(recipe, listener)
        self.members = Members(recipe, listener, self._stop)
        try:  # replace workers and servers that are killed during the start, too
            self.members.start(dataset)
            self.advance(self._round)
        except BaseException:
            self.close()
            raise
        self._backup_time = monotonic() + _BACKUP_S
        workers = count(len(self.members.present), "worker")
        hosts = count(len(self.members.hosts()), "host")
        self._listener(changed("started", workers=workers, hosts=hosts))

    def advance(self, until: int, *, is_copied: bool = False) -> None:
        """Compute all rounds below `until`; replace workers and servers that fail.

        Then copy the servers' state to the driver, if the last copy is older than the backup
        interval, or always if `is_copied`.

        Raises:
            DivergedError: a gradient, loss or parameter is not finite.
            ClusterError: the same round failed more than `MAX_FAILURES` times in a row.
            Stopped: a worker or server failed after the command was told to stop.
        """
        failures: dict[str, Failure] = {}
        while True:
            try:
                if failures:
                    self._recover(failures)
                    failures = {}
                # After a recovery, all rounds below `until` may have been applied.
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
                # A server failed between two segments; `_recover` finds it.
                failures = {"": first_line(error)}

    def snapshot(self) -> Snapshot:
        """Return a copy of the whole state of training."""
        self.advance(self._round, is_copied=True)
        return self._backup

    def workers(self) -> dict[int, WorkerState]:
        """Return the state of each rank."""
        states = dict.fromkeys(range(self.members.world_size), WorkerState.STARTING)
        return states | dict.fromkeys(self.members.present, WorkerState.WORKING)

    def fingerprints(self) -> Sequence[str]:
        """Return the distinct fingerprints of all workers so far, the first worker's first."""
        return self.members.fingerprints

    def settle(self) -> None:
        """Wait until every replacement has joined."""
        while self.members.starting:
            self._take_in(wait=True)
        self._prepare()

    def close(self) -> None:
        """End the actors, which frees their CPUs."""
        self.members.close()
        self.servers.close()

    def _copy_state(self) -> None:
        began = monotonic()
        self._backup = self.servers.snapshot(self._reply_s())
        self._backup_time = began + max(_BACKUP_S, (monotonic() - began) / _BACKUP_SHARE)

    def _reply_s(self) -> float:
        """Return the seconds without a reply after which an actor counts as unresponsive."""
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
            heirs = self.members.heirs(rank).items()
            moved = [
                f"{events.name_shards(held)} now on worker {heir}" for heir, held in heirs if held
            ]
            shards = "; ".join(moved) or "its shards wait for a replacement"
            self._listener(changed("lost", rank=rank, round=self._round, how=how, shards=shards))

    def _prepare(self) -> None:
        """Provide servers, memory and connections, if the workers have changed."""

        def newest() -> Snapshot:
            if self.servers.present and self._backup.round < self._round:
                self._copy_state()
            return self._backup

        if self._prepared != self.members.generation:
            self.servers.prepare(self.members.hosts(), self.members.generation, newest)
            self._prepared = self.members.generation

    def _run_segment(self, until: int) -> dict[str, Failure]:
        """Run all rounds below `until`; return failures by host, and those of workers under ""."""
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
        # All servers must end the segment. After a failure, the driver tells the servers to end it.
        while any(ref in hosts for ref in waiting):
            done, waiting = ray.wait(waiting, timeout=_CHECK_S)
            failure: Failure | None = None
            if done:
                is_server = done[0] in hosts
                failure = outcome_of(done[0], Exception if is_server else DivergedError)
            elif monotonic() <= end_time:
                self._report_wait()
            elif failures:
                break  # `_recover` finds the actors that do not stop
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
                facts = {"round": wait.round, "seconds": seconds, "waits_for": name}
                self._listener(changed("waiting", **facts))

    def _recover(self, failures: Mapping[str, Failure]) -> None:
        """Find the failed actors, give their shards to the others, start replacements."""
        self._end_if_stopped()
        # Report the failure that is least likely to be the effect of another failure.
        order: list[type] = [Refusal, LateShards, str, ExchangeFailed]
        cause = min(failures.values(), key=lambda each: order.index(type(each)))
        self._count_failure(str(cause))  # now, because the steps below may fail again and again
        for host in self.servers.present:  # a server replies to no probe before it has started
            with suppress(RayError):  # the probe finds the failure
                self.servers.identity(host)
        # Probe the servers first, because workers wait for a frozen server until it is removed.
        servers = probe(self.servers.present, max(self._reply_s(), self.servers.forming_s()))
        lost = {self.servers.drop(name, how): how for name, how in servers.items()}
        if lost and not self.servers.present:
            copy = self._backup.round
            self._listener(changed("server_lost", round=self._round, reason=str(cause), copy=copy))
            self._round = copy
        failed = probe(self.members.present, self._reply_s())
        is_healthy = not failed and not lost
        if self.servers.present:
            for there, how in lost.items():
                event = changed("host_lost", host=str(there), round=self._round, how=how)
                self._listener(event)
                failed = self.members.count_loss(there) | failed
            reached = self.servers.level(self._reply_s())
            self._num_failures = 0 if reached > self._round else self._num_failures
            self._round = reached
        if is_healthy and cause is Refusal.NOT_FINITE:
            # A faulty worker may be the cause, so new workers repeat the round once.
            if self._retried_round == self._round:
                text = f"round {self._round}: {cause}, computed twice: lower --learning-rate"
                raise DivergedError(text)
            self._retried_round = self._round
            for rank in list(self.members.present):
                self.members.replace(rank)
            self._listener(changed("refused", round=self._round, reason=str(cause)))
        if is_healthy and self._num_failures >= _MAX_EXCHANGES:
            self.servers.leave_out(failures)
        self._assign_shards(failed)

    def _end_if_stopped(self) -> None:
        """Raise Stopped if the run should end: a service manager ends Ray's processes, too."""
        if self._stop.is_set():
            rounds = count(self._round, "round")
            raise Stopped(f"stopped; {rounds} applied, but the last seconds are not saved")

    def _count_failure(self, detail: str) -> None:
        self._num_failures += 1
        if self._num_failures > MAX_FAILURES:
            raise ClusterError(
                f"round {self._round} failed {self._num_failures} times, most recently because "
                f"{detail}; see the logs of Ray's actors"
            )
