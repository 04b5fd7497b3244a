"""The group of workers and the parameter server as Ray actors, alive through failures.

Ray places, starts, watches and replaces the actors. Rounds run in stretches with a fixed
membership, without the driver: vectors travel through memory where a worker shares the server's
host, else as arguments of calls to it. A loss or a deadline ends the stretch; the shards of whoever
is lost go to the others at once, and the next stretch begins at the round after the last one
applied. A replacement takes its share back between two stretches. None of this changes a bit.
"""

from collections.abc import Callable
from time import monotonic
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from nanograd.data.dataset import Dataset
from nanograd.distributed.actors import BESIDE, Identity, ServerActor
from nanograd.distributed.cluster import first_line
from nanograd.distributed.members import (
    START_TIMEOUT_S,
    Members,
    end,
    examine,
    here,
    result_of,
    trouble_of,
)
from nanograd.distributed.shared_memory import Address
from nanograd.errors import ClusterError, DivergedError, Stopped
from nanograd.runtime import events
from nanograd.runtime.events import Tell
from nanograd.training.recipe import Recipe
from nanograd.training.server import Snapshot

# A round may take this long, or five times as long as they take, whichever is more.
_LEAST_DEADLINE_S = 5.0
# While nobody knows yet how long they take.
_FIRST_DEADLINE_S = 60.0
_ANSWER_TIMEOUT_S = 3.0
# Copying its state is the longest that a server does between two stretches.
_SERVER_TIMEOUT_S = 10.0
# Failures one after the other without any round applied between them.
_MOST_FAILURES = 5
# The server's state is copied here this often, for the case that the server is lost.
_BACKUP_S = 1.0


def deadline_s(round_s: float, failures: int) -> float:
    """How long the contributions of a round are waited for, in seconds.

    Args:
        round_s: how long a round takes, in seconds; 0 if that is not known yet.
        failures: rounds that failed since one was applied: each may have been a slow one.

    >>> deadline_s(0.02, 0), deadline_s(0.02, 1), deadline_s(7, 0), deadline_s(0, 0)
    (5.0, 10.0, 35.0, 60.0)
    """
    usual = max(_LEAST_DEADLINE_S, 5 * round_s) if round_s else _FIRST_DEADLINE_S
    return usual * 2.0**failures


class RayGroup:
    """Worker actors, one CPU each, that own neighbouring shards; and a server actor.

    Args:
        recipe: what to compute.
        dataset: the training images; each shard is shipped once to whoever holds it.
        snapshot: where to begin.
        num_workers: W, 1 to S.
        tell: told what happens to the members, as rows of events.jsonl.
        stop: whether somebody has asked for the end of the run; then nothing is mended any more.
        strict: refuse workers whose BLAS or numpy differ, instead of saying so.
        shared_memory: use it where it can be had; without it all vectors travel through calls.

    Raises:
        ClusterError: the actors do not start.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        snapshot: Snapshot,
        num_workers: int,
        *,
        tell: Tell = lambda event: None,
        stop: Callable[[], bool] = lambda: False,
        strict: bool = False,
        shared_memory: bool = True,
    ) -> None:
        self._recipe, self._tell, self._stop = recipe, tell, stop
        self._shared_memory = shared_memory
        self._num_threads = num_workers + 1
        self._backup, self._backup_time = snapshot, monotonic()
        self._round, self._round_s = snapshot.round, 0.0
        self._failures, self._refused_round = 0, -1
        self._start_server(snapshot)
        self._members = Members(
            recipe,
            dataset,
            num_workers,
            tell=tell,
            strict=strict,
            fail=self._fail,
            answer_s=self._answer_s,
        )
        self._start_together()
        tell(events.started(len(self._members.present), self._members.num_hosts))

    def advance(self, until: int) -> None:
        """Apply all rounds below `until`, whoever is lost meanwhile, unless `stop` says so."""
        trouble: str | None = None
        while self._round < until:
            try:
                if trouble is not None:
                    self._recover(trouble)
                self._gather()
                trouble = self._timed_stretch(until)
            except RayError as error:
                self._replace_server(error)
                trouble = "the parameter server was lost"
        if monotonic() - self._backup_time > _BACKUP_S:
            self.snapshot()

    def snapshot(self) -> Snapshot:
        """All that training needs to go on from here."""
        try:
            self._backup = ray.get(self._server.snapshot.remote(), timeout=_SERVER_TIMEOUT_S)
        except RayError as error:
            until = self._round
            self._replace_server(error)
            self.advance(until)
            return self.snapshot()
        self._backup_time = monotonic()
        return self._backup

    def workers(self) -> dict[int, str]:
        """What each rank does: `working` or `starting`."""
        return self._members.states()

    def settle(self) -> None:
        """Wait until every replacement has joined."""
        while self._members.joining:
            self._welcome(wait=True)

    def pids(self) -> dict[str, int]:
        """The processes of the members: `server` and the ranks of the workers."""
        return {"server": self._server_identity().pid} | {
            str(rank): each.identity.pid for rank, each in self._members.present.items()
        }

    def close(self) -> None:
        """End the actors, so that their CPUs are free for others."""
        self._members.close()
        ray.kill(self._server)

    # The server

    def _start_server(self, snapshot: Snapshot) -> None:
        remote: Any = ray.remote  # its types do not know concurrency groups
        actor = remote(
            num_cpus=0,
            concurrency_groups={BESIDE: self._num_threads},
            label_selector=here(),
        )(ServerActor)
        self._server = actor.remote(self._recipe, snapshot)
        self._server_ready = self._server.whoami.remote()
        self._identity: Identity | None = None
        self._token, self._opened = 0, -1

    def _server_identity(self) -> Identity:
        if self._identity is None:
            self._identity = ray.get(self._server_ready, timeout=START_TIMEOUT_S)
        return self._identity

    def _welcome(self, wait: bool) -> None:
        if self._members.joining:
            self._members.welcome(self._server_identity().fingerprint, self._round, wait)

    def _gather(self) -> None:
        """Take in who has started; as long as nobody is there, wait."""
        if self._members.present:
            self._welcome(wait=False)
        while not self._members.present:
            self._welcome(wait=True)

    def _start_together(self) -> None:
        try:
            self._gather()
        except RayError as error:  # nothing is trained yet: better told than tried again
            raise ClusterError(
                f"the parameter server did not start ({first_line(error)}); look at `ray status`"
            ) from error

    # Stretches

    def _timed_stretch(self, until: int) -> str | None:
        began = monotonic()
        trouble = self._stretch(until)
        if trouble is None:
            self._round_s = (monotonic() - began) / (until - self._round)
            self._failures, self._round = 0, until
        return trouble

    def _stretch(self, until: int) -> str | None:
        """Run rounds until `until` or the first trouble, which is returned."""
        if self._opened != self._members.generation:
            self._token, self._opened = self._open(), self._members.generation
        runs = [
            actor.run.remote(self._round, until, self._server, self._token)
            for actor in self._members.actors()
        ]
        deadline_s = self._deadline_s()
        served = self._server.run.remote(until, deadline_s)
        whole_s = deadline_s + 1 + 3 * (until - self._round) * self._round_s
        return self._watch(served, runs, monotonic() + whole_s)

    def _open(self) -> int:
        """New memory, whoever can reach it attached; its token."""
        opened = self._server.open.remote(self._members.nodes())
        address: Address = ray.get(opened, timeout=_SERVER_TIMEOUT_S)
        if self._shared_memory:
            attached = [actor.attach.remote(address) for actor in self._members.actors()]
            ray.wait(attached, num_returns=len(attached), timeout=_ANSWER_TIMEOUT_S)
        return address.token

    def _watch(self, served: Any, runs: list[Any], end_time: float) -> str | None:
        """Wait for the server's end of a stretch; a worker that fails brings it about."""
        waiting, first = [served, *runs], None
        while served in waiting:
            timeout = max(0.0, end_time - monotonic())
            done, waiting = ray.wait(waiting, timeout=timeout)
            if not done:
                raise GetTimeoutError("it did not end a stretch in time")
            if done[0] is not served and (trouble := trouble_of(done[0])):
                first = first or trouble
                self._server.stop.options(concurrency_group=BESIDE).remote()
        trouble = result_of(served)
        return trouble and (first or trouble)

    def _deadline_s(self) -> float:
        return deadline_s(self._round_s, self._failures)

    def _answer_s(self) -> float:
        """Who takes longer for an answer hangs: not who is busy with the slow round of another."""
        return max(_ANSWER_TIMEOUT_S, self._deadline_s() / 2)

    # Failures

    def _recover(self, trouble: str) -> None:
        """Find out who is lost, give their shards to the others, start replacements."""
        self._end_if_asked()
        self._fail(trouble)  # first: what follows may fail, too, and shall not go on for ever
        self._server_identity()  # a new one may take its time to start, and does not hang
        actors = [self._server, *self._members.actors()]
        server, *states = examine(actors, self._answer_s(), START_TIMEOUT_S)
        if server:
            raise GetTimeoutError(server)
        lost = {rank: how for rank, how in zip(self._members.present, states, strict=True) if how}
        reached = ray.get(self._server.forget.remote(), timeout=_SERVER_TIMEOUT_S)
        self._failures = 0 if reached > self._round else self._failures
        self._round = reached
        if not lost and "finite" in trouble:
            self._refuse(trouble)
        self._members.replace(lost, self._round)

    def _refuse(self, trouble: str) -> None:
        """Somebody sent what is not finite: once may be a fault, twice is the net itself."""
        if self._refused_round == self._round:
            raise DivergedError(
                f"round {self._round}: {trouble}, computed twice: lower --learning-rate"
            )
        self._refused_round = self._round
        for rank in list(self._members.present):
            self._members.lose(rank)
        self._tell(events.refused(self._round, trouble))

    def _end_if_asked(self) -> None:
        """Who stops a service ends Ray's processes with ours: there is nothing left to mend."""
        if self._stop():
            raise Stopped(
                f"stopped; {self._round} rounds made, those of the last seconds not saved"
            )

    def _replace_server(self, error: RayError) -> None:
        cause = error.cause if isinstance(error, RayTaskError) else error
        if not isinstance(cause, RayError):
            raise cause from error
        self._end_if_asked()
        # Known from when it started: if its node is gone, nobody can be asked any more.
        if isinstance(cause, GetTimeoutError) and self._identity is not None:
            end(self._identity)
        ray.kill(self._server)
        self._tell(events.server_lost(self._round, first_line(cause), self._backup.round))
        self._round = self._backup.round
        self._start_server(self._backup)

    def _fail(self, trouble: str) -> None:
        self._failures += 1
        if self._failures > _MOST_FAILURES:
            raise ClusterError(
                f"round {self._round} failed {self._failures} times, the last time because "
                f"{trouble}; look at the logs of Ray's actors"
            )
