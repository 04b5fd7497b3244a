"""The group of workers and the parameter server as Ray actors, which survives failures.

Ray places, starts, watches and replaces the actors. Rounds run in segments with fixed membership,
without the driver: vectors travel through memory where a worker shares the server's host, else as
arguments of calls to it. A failure or a deadline ends the segment; the shards of a failed worker go
to the others at once, and the next segment begins at the round after the last one applied. A
replacement takes its shards back between two segments. None of this changes a bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Event as StopSignal
from time import monotonic
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from nanograd.data.dataset import Dataset
from nanograd.distributed.actors import CONCURRENT, ActorIdentity, LateShards, ServerActor
from nanograd.distributed.cluster import first_line
from nanograd.distributed.members import (
    START_TIMEOUT_S,
    Members,
    error_of,
    kill_process,
    probe,
    result_of,
    this_host,
)
from nanograd.distributed.shared_memory import MemoryAddress
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
# Copying its state is the longest that a server is busy between two segments.
_SERVER_TIMEOUT_S = 10.0
# Failures in a row without any round applied between them.
_MAX_FAILURES = 5
# The server's state is copied to the driver this often, in case the server fails.
_BACKUP_S = 1.0


@dataclass(frozen=True)
class CallFailed:
    """A call to an actor failed."""

    detail: str

    def __str__(self) -> str:
        return self.detail


SegmentFailure = Refusal | LateShards | CallFailed


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
    """Worker actors, one CPU each, that own neighbouring shards; and a server actor.

    Args:
        recipe: the computation.
        dataset: the training images; each shard is shipped once to its holder.
        snapshot: the state to start from.
        listener: receives group events.
        stop: set when the run should end; then failures are no longer repaired.
        num_workers: W, 1 to S.
        strict: refuse workers whose BLAS or numpy differ, instead of reporting them.
        shared_memory: use it where possible; without it all vectors travel through calls.

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
    ) -> None:
        self._recipe, self._listener, self._stop = recipe, listener, stop or StopSignal()
        self._strict, self._shared_memory = strict, shared_memory
        self._num_threads = num_workers + 1
        self._backup, self._backup_time = snapshot, monotonic()
        self._round, self._round_s = snapshot.round, 0.0
        self._num_failures, self._retried_round = 0, -1
        self._failed_ranks = set[int]()
        self._start_server(snapshot)
        self._members = Members(recipe, dataset, num_workers)
        try:
            self._await_workers()
        except RayError as error:  # nothing is trained yet: a report is better than a retry
            raise ClusterError(
                f"the parameter server did not start ({first_line(error)}); see `ray status`"
            ) from error
        workers = self._members.present.values()
        num_hosts = len({each.identity.host for each in workers})
        listener(events.GroupStarted(num_workers=len(workers), num_hosts=num_hosts))

    def advance(self, until: int) -> None:
        """Apply all rounds below `until` through any failures, unless `stop` is set.

        Raises:
            DivergedError: a gradient, loss or parameter is not finite.
            ClusterError: failures repeat without any round applied.
            Stopped: `stop` is set and the group has failed.
        """
        failure: SegmentFailure | None = None
        while self._round < until:
            try:
                if failure is not None:
                    self._recover(failure)
                self._await_workers()
                began = monotonic()
                failure = self._run_segment(until)
                if failure is None:
                    self._round_s = (monotonic() - began) / (until - self._round)
                    self._num_failures, self._round = 0, until
            except RayError as error:
                self._replace_server(error)
                failure = CallFailed("the parameter server failed")
        if monotonic() - self._backup_time > _BACKUP_S:
            self.snapshot()

    def snapshot(self) -> Snapshot:
        """Return a copy of the whole state of training."""
        try:
            self._backup = ray.get(self._server.snapshot.remote(), timeout=_SERVER_TIMEOUT_S)
        except RayError as error:
            until = self._round
            self._replace_server(error)
            self.advance(until)
            return self.snapshot()
        self._backup_time = monotonic()
        return self._backup

    def workers(self) -> dict[int, WorkerState]:
        """Return the state of each rank."""
        return self._members.states()

    def settle(self) -> None:
        """Wait until every replacement has joined."""
        while self._members.are_starting:
            self._collect_workers(wait=True)

    def pids(self) -> dict[str, int]:
        """Return the process ids of `server` and of the ranks of the workers."""
        return {"server": self._server_identity().pid} | {
            str(rank): each.identity.pid for rank, each in self._members.present.items()
        }

    def close(self) -> None:
        """End the actors, so that their CPUs are free."""
        self._members.close()
        ray.kill(self._server)

    # The server

    def _start_server(self, snapshot: Snapshot) -> None:
        remote: Any = ray.remote  # its types do not know concurrency groups
        actor = remote(
            num_cpus=0,
            concurrency_groups={CONCURRENT: self._num_threads},
            label_selector=this_host(),
        )(ServerActor)
        self._server = actor.remote(self._recipe, snapshot)
        self._server_ready = self._server.identify.remote()
        self._identity: ActorIdentity | None = None
        self._token, self._opened = 0, -1

    def _server_identity(self) -> ActorIdentity:
        if self._identity is None:
            self._identity = ray.get(self._server_ready, timeout=START_TIMEOUT_S)
        return self._identity

    def _replace_server(self, error: RayError) -> None:
        cause = error.cause if isinstance(error, RayTaskError) else error
        if not isinstance(cause, RayError):
            raise cause from error
        self._end_if_stopped()
        # Known since its start: if its host is gone, a call cannot ask any more.
        if isinstance(cause, GetTimeoutError) and self._identity is not None:
            kill_process(self._identity)
        ray.kill(self._server)
        self._listener(
            events.ServerFailed(
                round=self._round, reason=first_line(cause), copy=self._backup.round
            )
        )
        self._round = self._backup.round
        self._start_server(self._backup)

    # Workers

    def _await_workers(self) -> None:
        """Take in workers that have started; wait as long as there are none."""
        if self._members.present:
            self._collect_workers(wait=False)
        while not self._members.present:
            self._collect_workers(wait=True)

    def _collect_workers(self, *, wait: bool) -> None:
        if not self._members.are_starting:
            return
        server = self._server_identity()
        arrivals = self._members.collect(wait=wait)
        for rank, reason in arrivals.failed.items():
            self._count_failure(f"worker {rank} did not start: {reason}")
            self._members.start(rank)
        for rank in arrivals.joined:
            self._compare_builds(rank, server)
            if rank in self._failed_ranks:
                self._failed_ranks.remove(rank)
                self._listener(events.WorkerJoined(rank=rank, round=self._round))
        if arrivals.joined:
            self._assign_shards()

    def _compare_builds(self, rank: int, server: ActorIdentity) -> None:
        worker = self._members.present[rank].identity
        if worker.fingerprint == server.fingerprint:
            return
        event = events.BuildsDiffer(rank=rank, worker=worker.fingerprint, server=server.fingerprint)
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
                events.WorkerFailed(
                    rank=rank, round=self._round, how=how, heirs=self._members.heirs(rank)
                )
            )

    # Segments of rounds

    def _run_segment(self, until: int) -> SegmentFailure | None:
        """Run rounds to `until` or to the first failure, which is returned."""
        if self._opened != self._members.generation:
            self._token, self._opened = self._open_memory(), self._members.generation
        runs = [
            actor.run.remote(self._round, until, self._server, self._token)
            for actor in self._members.actors()
        ]
        deadline_s = self._deadline_s()
        served = self._server.run.remote(until, deadline_s)
        whole_s = deadline_s + 1 + 3 * (until - self._round) * self._round_s
        return self._watch(served, runs, monotonic() + whole_s)

    def _open_memory(self) -> int:
        """Create memory, let the workers attach that can, and return its token."""
        nodes = tuple(node for each in self._members.present.values() for node in each.nodes)
        opened = self._server.open.remote(nodes)
        address: MemoryAddress = ray.get(opened, timeout=_SERVER_TIMEOUT_S)
        if self._shared_memory:
            attached = [actor.attach.remote(address) for actor in self._members.actors()]
            ray.wait(attached, num_returns=len(attached), timeout=_REPLY_TIMEOUT_S)
        return address.token

    def _watch(self, served: Any, runs: list[Any], end_time: float) -> SegmentFailure | None:
        """Wait for the server's end of a segment; the failure of a worker ends it, too."""
        waiting: list[Any] = [served, *runs]
        first: CallFailed | None = None
        while served in waiting:
            timeout = max(0.0, end_time - monotonic())
            done, waiting = ray.wait(waiting, timeout=timeout)
            if not done:
                raise GetTimeoutError("it did not end a segment of rounds in time")
            if done[0] is not served and (error := error_of(done[0])):
                first = first or CallFailed(error)
                self._server.stop.options(concurrency_group=CONCURRENT).remote()
        failure: SegmentFailure | None = result_of(served)
        return failure and (first or failure)

    def _deadline_s(self) -> float:
        return deadline_s(self._round_s, self._num_failures)

    def _reply_s(self) -> float:
        """Return the seconds without a reply before an actor counts as unresponsive."""
        return max(_REPLY_TIMEOUT_S, self._deadline_s() / 2)

    # Failures

    def _recover(self, failure: SegmentFailure) -> None:
        """Find the failed actors, give their shards to the others, start replacements."""
        self._end_if_stopped()
        self._count_failure(str(failure))  # first: the steps below may fail, too, but not forever
        self._server_identity()  # a new one may take its time to start
        server, *states = probe([self._server, *self._members.actors()], self._reply_s())
        if server:
            raise GetTimeoutError(server)
        probed = zip(self._members.present, states, strict=True)
        failed = {rank: how for rank, how in probed if how is not None}
        reached = ray.get(self._server.forget.remote(), timeout=_SERVER_TIMEOUT_S)
        self._num_failures = 0 if reached > self._round else self._num_failures
        self._round = reached
        if not failed:
            self._retry_if_not_finite(failure)
        self._replace_workers(failed)

    def _retry_if_not_finite(self, failure: SegmentFailure) -> None:
        """Let new workers repeat a round that was not finite: once may be a fault of a worker."""
        if not isinstance(failure, Refusal) or failure.reason is not RefusalReason.NOT_FINITE:
            return
        if self._retried_round == self._round:
            raise DivergedError(
                f"round {self._round}: {failure}, computed twice: lower --learning-rate"
            )
        self._retried_round = self._round
        for rank in list(self._members.present):
            self._members.replace(rank)
            self._failed_ranks.add(rank)
        self._listener(events.RoundRetried(round=self._round, reason=str(failure)))

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
                f"{detail}; see the logs of Ray's actors"
            )
