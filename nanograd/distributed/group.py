"""The group of workers and the parameter server as Ray actors, alive through failures.

Ray places, starts, watches and replaces the actors. Rounds run in stretches with a fixed
membership, without the driver: vectors travel through memory where a worker shares the server's
host, else as arguments of calls to it. A loss or a deadline ends the stretch; the shards of whoever
is lost go to the others at once, and the next stretch begins at the round after the last one
applied. A replacement takes its share back between two stretches. None of this changes a bit.
"""

from dataclasses import dataclass
from time import monotonic
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from nanograd.data.dataset import Dataset
from nanograd.distributed import events
from nanograd.distributed.actors import BESIDE, Identity, ServerActor, WorkerActor
from nanograd.distributed.calls import end, examine, first_line, here, result_of, trouble_of
from nanograd.distributed.events import Tell
from nanograd.distributed.transport import Address
from nanograd.errors import ClusterError, DivergedError
from nanograd.training.group import share_out
from nanograd.training.recipe import Recipe
from nanograd.training.reduce import Node
from nanograd.training.server import Snapshot

_START_TIMEOUT_S = 60
# A round may take this long, or five times as long as they take, whichever is more.
_LEAST_DEADLINE_S = 5.0
_ANSWER_TIMEOUT_S = 3.0
# Copying its state is the longest that a server does between two stretches.
_SERVER_TIMEOUT_S = 10.0
# Failures one after the other without any round applied between them.
_MOST_FAILURES = 5
# The server's state is copied here this often, for the case that the server is lost.
_BACKUP_S = 1.0


@dataclass
class _Member:
    """A worker that is there."""

    actor: Any
    identity: Identity
    nodes: tuple[Node, ...] = ()


class RayGroup:
    """Worker actors, one CPU each, that own neighbouring shards; and a server actor.

    Args:
        recipe: what to compute.
        dataset: the training images; each shard is shipped once to whoever holds it.
        snapshot: where to begin.
        num_workers: W, 1 to S.
        tell: told what happens to the members, as rows of events.jsonl.
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
        strict: bool = False,
        shared_memory: bool = True,
    ) -> None:
        plan = recipe.plan
        self._recipe, self._tell, self._strict = recipe, tell, strict
        self._shared_memory = shared_memory
        self._address: Address | None = None
        self._world_size = num_workers
        self._shards = [
            ray.put(dataset.take(plan.shard_slice(shard))) for shard in range(plan.num_shards)
        ]
        self._backup, self._backup_time = snapshot, monotonic()
        self._round, self._round_s = snapshot.round, 0.0
        self._failures, self._lost = 0, set[int]()
        self._refused_round = -1
        self._joining: dict[int, tuple[Any, Any]] = {}
        self._members: dict[int, _Member] = {}
        self._start_server(snapshot)
        for rank in range(num_workers):
            self._start_worker(rank)
        self._welcome(wait=True)

    def advance(self, until: int) -> None:
        """Apply all rounds below `until`, whoever is lost meanwhile."""
        trouble: str | None = None
        while self._round < until:
            try:
                if trouble is not None:
                    self._recover(trouble)
                self._welcome(wait=not self._members)
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

    def settle(self) -> None:
        """Wait until every replacement has joined."""
        while self._joining:
            self._welcome(wait=True)

    def pids(self) -> dict[str, int]:
        """The processes of the members: `server` and the ranks of the workers."""
        return {"server": self._server_identity().pid} | {
            str(rank): each.identity.pid for rank, each in self._members.items()
        }

    def close(self) -> None:
        """End the actors, so that their CPUs are free for others."""
        joining = [actor for actor, _ in self._joining.values()]
        for actor in [*(each.actor for each in self._members.values()), *joining, self._server]:
            ray.kill(actor)

    # Membership

    def _start_server(self, snapshot: Snapshot) -> None:
        remote: Any = ray.remote  # its types do not know concurrency groups
        actor = remote(
            num_cpus=0,
            concurrency_groups={BESIDE: self._world_size + 1},
            scheduling_strategy=here(),
        )(ServerActor)
        self._server = actor.remote(self._recipe, snapshot)
        self._server_ready = self._server.whoami.remote()
        self._address = None

    def _server_identity(self) -> Identity:
        identity: Identity = ray.get(self._server_ready, timeout=_START_TIMEOUT_S)
        return identity

    def _start_worker(self, rank: int) -> None:
        actor: Any = ray.remote(num_cpus=1)(WorkerActor)
        started = actor.remote(self._recipe)
        self._joining[rank] = (started, started.whoami.remote())

    def _welcome(self, wait: bool) -> None:
        """Take in the workers that have started; with `wait`, until all have."""
        if not self._joining:
            return
        waiting = [ready for _, ready in self._joining.values()]
        timeout = _START_TIMEOUT_S if wait else 0
        done, late = ray.wait(waiting, num_returns=len(waiting), timeout=timeout)
        if wait and not done:
            raise ClusterError(
                f"{len(late)} workers did not start within {_START_TIMEOUT_S} s; "
                "look at `ray status`, or ask for fewer with --workers"
            )
        ours = self._server_identity().fingerprint
        newcomers = [rank for rank, (_, ready) in self._joining.items() if ready in done]
        for rank in newcomers:
            self._take_in(rank, *self._joining.pop(rank), ours)
        if newcomers:
            self._share_out()

    def _take_in(self, rank: int, actor: Any, ready: Any, ours: str) -> None:
        try:
            identity = ray.get(ready)
        except RayActorError as error:
            self._fail(f"worker {rank} did not start: {first_line(error)}")
            self._start_worker(rank)
            return
        if identity.fingerprint != ours:
            event = events.mixed(rank, identity.fingerprint, ours)
            if self._strict:
                raise ClusterError(f"{event['sentence']}; leave out --strict to go on all the same")
            self._tell(event)
        self._members[rank] = _Member(actor, identity)
        if rank in self._lost:
            self._lost.remove(rank)
            self._tell(events.joined(rank, self._round))

    def _share_out(self) -> None:
        """Give every member its shards; the next stretch begins with new memory."""
        self._address = None
        held = share_out(len(self._shards), self._world_size, list(self._members))
        for rank, shards in held.items():
            member = self._members[rank]
            datasets = [self._shards[shard] for shard in shards]
            try:
                member.nodes = tuple(ray.get(member.actor.take.remote(shards, *datasets)))
            except RayActorError:
                self._lose(rank)
                if self._members:
                    self._share_out()
                return

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
        if self._address is None:
            self._address = self._open()
        members, token = self._members.values(), self._address.token
        runs = [each.actor.run.remote(self._round, until, self._server, token) for each in members]
        deadline_s = self._deadline_s()
        served = self._server.run.remote(until, deadline_s)
        whole_s = deadline_s + 1 + 3 * (until - self._round) * self._round_s
        return self._watch(served, runs, monotonic() + whole_s)

    def _open(self) -> Address:
        """New memory, and whoever can reach it attached."""
        nodes = tuple(node for each in self._members.values() for node in each.nodes)
        address: Address = ray.get(self._server.open.remote(nodes), timeout=_SERVER_TIMEOUT_S)
        if self._shared_memory:
            attached = [each.actor.attach.remote(address) for each in self._members.values()]
            ray.wait(attached, num_returns=len(attached), timeout=_ANSWER_TIMEOUT_S)
        return address

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
        return max(_LEAST_DEADLINE_S, 5 * self._round_s)

    # Failures

    def _recover(self, trouble: str) -> None:
        """Find out who is lost, give their shards to the others, start replacements."""
        self._fail(trouble)  # first: what follows may fail, too, and shall not go on for ever
        actors = [self._server, *(each.actor for each in self._members.values())]
        server, *states = examine(actors, _ANSWER_TIMEOUT_S, _START_TIMEOUT_S)
        if server:
            raise GetTimeoutError(server)
        lost = {rank: how for rank, how in zip(self._members, states, strict=True) if how}
        for rank, how in lost.items():
            if how == "hung":
                end(self._members[rank].identity)
            self._lose(rank)
        reached = ray.get(self._server.forget.remote(), timeout=_SERVER_TIMEOUT_S)
        self._failures = 0 if reached > self._round else self._failures
        self._round = reached
        if not lost and "finite" in trouble:
            self._refuse(trouble)
        if self._members:
            self._share_out()
        for rank, how in lost.items():
            self._tell(events.lost(rank, self._round, how, self._heirs(rank)))

    def _lose(self, rank: int) -> None:
        """Remove a worker, by force if it only hangs, and start another in its place."""
        member = self._members.pop(rank)
        self._lost.add(rank)
        ray.kill(member.actor)
        self._start_worker(rank)

    def _heirs(self, rank: int) -> dict[int, list[int]]:
        """Which of a lost worker's own shards each member holds now."""
        if not self._members:
            return {}
        own = share_out(len(self._shards), self._world_size, range(self._world_size))[rank]
        now = share_out(len(self._shards), self._world_size, list(self._members))
        return {heir: sorted(set(own) & set(shards)) for heir, shards in now.items()}

    def _refuse(self, trouble: str) -> None:
        """Somebody sent what is not finite: once may be a fault, twice is the net itself."""
        if self._refused_round == self._round:
            raise DivergedError(
                f"round {self._round}: {trouble}, computed twice: lower --learning-rate"
            )
        self._refused_round = self._round
        for rank in list(self._members):
            self._lose(rank)
        self._tell(events.refused(self._round, trouble))

    def _replace_server(self, error: RayError) -> None:
        cause = error.cause if isinstance(error, RayTaskError) else error
        if not isinstance(cause, RayError):
            raise cause from error
        if isinstance(cause, GetTimeoutError):
            end(self._server_identity())
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
