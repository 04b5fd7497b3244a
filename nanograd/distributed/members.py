"""Membership of a group: workers that start, join, hold shards and fail."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from threading import Event as StopSignal
from time import monotonic
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nanograd.digits.dataset import Dataset
from nanograd.distributed.actors import ActorIdentity, WorkerActor
from nanograd.distributed.cluster import first_line
from nanograd.errors import ClusterError, DivergedError, Stopped
from nanograd.runtime import events
from nanograd.runtime.events import FailureKind, Listener, WorkerState
from nanograd.training.local import assign_shards
from nanograd.training.recipe import Recipe
from nanograd.training.tree import TreeNode

START_TIMEOUT_S = 60
# Failures in a row that a group survives.
MAX_FAILURES = 5
# A worker that has not confirmed its shards after this time is probed.
_TAKE_S = 5.0
# Longer than a worker is busy with shards that have arrived.
_BUSY_S = 10.0
# A healthy worker that still has not received its shards is given up.
_MAX_TAKE_S = 120.0
_STOP_CHECK_S = 0.5


@dataclass
class Member:
    """A worker that is present."""

    actor: Any
    identity: ActorIdentity
    nodes: tuple[TreeNode, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """Workers whose start has ended."""

    # Ranks that are present now; they hold no shards yet.
    joined: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)  # why others did not start, by rank


class Members:
    """Worker actors, one CPU each, that own neighbouring shards.

    Args:
        recipe: the computation.
        dataset: the training images; each shard is shipped once to its holder.
        world_size: W, the number of ranks.
        listener: receives warnings.
        stop: set when the run should end; then nothing is waited for.
        options: of the actors, beside their place.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        world_size: int,
        listener: Listener,
        stop: StopSignal,
        *,
        options: Mapping[str, Any],
    ) -> None:
        plan = recipe.plan
        self._listener, self._stop, self._options = listener, stop, options
        self._recipe, self._world_size = recipe, world_size
        self._shards = [
            ray.put(dataset.take(plan.shard_slice(shard))) for shard in range(plan.num_shards)
        ]
        self._starting: dict[int, tuple[Any, Any]] = {}
        self._failed_starts: dict[int, int] = {}  # in a row, by rank
        self._excluded: list[str] = []  # nodes of Ray that get no more workers
        self._excluded_addresses = set[str]()  # their hosts, which may come back as other nodes
        # Place of each rank in the order of the shards: the ranks of a host are neighbours.
        self._places = list(range(world_size))
        self.present: dict[int, Member] = {}
        # Counts how often the shards were assigned.
        self.generation = 0
        for rank in range(world_size):
            self.start(rank)

    @property
    def are_starting(self) -> bool:
        """Whether some worker has not started yet."""
        return bool(self._starting)

    def hosts(self) -> dict[str, list[Member]]:
        """Return the present workers by host, in the order of their shards."""
        found: dict[str, list[Member]] = {}
        for rank in sorted(self.present, key=self._places.__getitem__):
            member = self.present[rank]
            found.setdefault(member.identity.host, []).append(member)
        return found

    def states(self) -> dict[int, WorkerState]:
        """Return the state of each rank."""
        return {
            rank: WorkerState.WORKING if rank in self.present else WorkerState.STARTING
            for rank in range(self._world_size)
        }

    def actors(self) -> list[Any]:
        """Return the actors of the present workers."""
        return [each.actor for each in self.present.values()]

    def start(self, rank: int) -> None:
        """Start a worker."""
        options = {**self._options, "num_cpus": 1, "scheduling_strategy": "SPREAD"}
        if self._excluded:
            others = f"!in({','.join(self._excluded)})"
            options["label_selector"] = {"ray.io/node-id": others}
        remote: Any = ray.remote
        actor = remote(**options)(WorkerActor)
        started = actor.remote(self._recipe)
        self._starting[rank] = (started, started.identify.remote())

    def exclude(self, actor: ActorIdentity) -> None:
        """Start no more workers on an actor's host, not even those that wait for a CPU now."""
        self._excluded_addresses.add(actor.address)
        self._excluded.append(actor.host)
        for rank, (starting, _) in list(self._starting.items()):
            ray.kill(starting)
            self.start(rank)

    def collect(self, *, wait: bool) -> Arrivals:
        """Collect the workers whose start has ended.

        Args:
            wait: wait for all workers, at most a minute or until the run should end.

        Raises:
            ClusterError: no worker started in that time, or one failed to start too often.
        """
        refs = [ready for _, ready in self._starting.values()]
        end = monotonic() + START_TIMEOUT_S * wait
        while True:
            timeout = _STOP_CHECK_S if wait else 0
            done, late = ray.wait(refs, num_returns=len(refs), timeout=timeout)
            if not late or self._stop.is_set() or monotonic() > end:
                break
        if wait and not done and not self._stop.is_set():
            raise ClusterError(
                f"{len(late)} workers did not start within {START_TIMEOUT_S} s; "
                "see `ray status`, or ask for fewer with --workers"
            )
        arrivals = Arrivals()
        for rank in [rank for rank, (_, ready) in self._starting.items() if ready in done]:
            actor, ready = self._starting.pop(rank)
            try:
                identity: ActorIdentity = ray.get(ready)
                self._failed_starts.pop(rank, None)
                if identity.address in self._excluded_addresses:
                    ray.kill(actor)
                    self._excluded.append(identity.host)
                    self.start(rank)
                else:
                    self.present[rank] = Member(actor, identity)
                    arrivals.joined.append(rank)
            except RayError as error:  # also an environment that cannot be built
                arrivals.failed[rank] = _cause_of(error)
                self._count_start(rank, arrivals.failed[rank])
        return arrivals

    def _count_start(self, rank: int, reason: str) -> None:
        self._failed_starts[rank] = count = self._failed_starts.get(rank, 0) + 1
        if count > MAX_FAILURES:
            raise ClusterError(f"worker {rank} did not start {count} times in a row: {reason}")

    def assign(self, reply_s: float) -> dict[int, FailureKind]:
        """Give the present workers their shards, all at once; return who failed meanwhile.

        Args:
            reply_s: seconds that a busy worker may take to reply to a probe.
        """
        self.generation += 1
        if len(self.present) == self._world_size:
            hosts = self.hosts().values()
            ranks = [rank for host in hosts for rank, each in self.present.items() if each in host]
            for place, rank in enumerate(ranks):
                self._places[rank] = place
        calls = {
            rank: self.present[rank].actor.take.remote(shards, *(self._shards[s] for s in shards))
            for rank, shards in self._assignment(list(self.present)).items()
        }
        results = {rank: self._await_take(rank, call, reply_s) for rank, call in calls.items()}
        return {rank: failure for rank, failure in results.items() if failure}

    def replace(self, rank: int, how: FailureKind | None = None) -> None:
        """Remove a worker, by force if it still runs, and start another in its place."""
        member = self.present.pop(rank)
        if how is FailureKind.UNRESPONSIVE:
            kill_process(member.identity)
        ray.kill(member.actor)
        self.start(rank)

    def heirs(self, rank: int) -> Mapping[int, Sequence[int]]:
        """Return which of a missing rank's own shards each present rank holds."""
        own = set(self._assignment(range(self._world_size))[rank])
        now = self._assignment(list(self.present))
        return {heir: sorted(own & set(shards)) for heir, shards in now.items()}

    def close(self) -> None:
        """End all workers."""
        for actor in [*self.actors(), *(actor for actor, _ in self._starting.values())]:
            ray.kill(actor)

    def _await_take(self, rank: int, call: Any, reply_s: float) -> FailureKind | None:
        member, began = self.present[rank], monotonic()
        while not ray.wait([call], timeout=_TAKE_S)[0]:
            if self._stop.is_set():
                raise Stopped(f"stopped while worker {rank} waited for its shards")
            waited_s = monotonic() - began
            if waited_s > _MAX_TAKE_S:
                return FailureKind.UNRESPONSIVE
            # Shards may still be in transit over a slow link: only a probe finds a frozen worker.
            if failure := probe([member.actor], max(_BUSY_S, reply_s))[0]:
                return failure
            self._listener(
                events.warning(
                    f"worker {rank} on host {member.identity} waits for its shards "
                    f"({waited_s:.0f} s); is a firewall in the way? docs/cluster.md lists the ports"
                )
            )
        try:
            member.nodes = tuple(ray.get(call))
        except RayActorError:
            return FailureKind.KILLED
        return None

    def _assignment(self, ranks: Sequence[int]) -> dict[int, list[int]]:
        if not ranks:
            return {}
        places = [self._places[rank] for rank in ranks]
        held = assign_shards(len(self._shards), self._world_size, places)
        return {rank: held[place] for rank, place in zip(ranks, places, strict=True)}


def this_host() -> dict[str, str]:
    """Return the label selector that places an actor on the driver's host.

    If that host fails the run ends anyway. Node affinity does not help: the host that is asked to
    place an actor may have joined a moment ago and not know ours yet. Soft, it then keeps the actor
    itself (4 of 10 while a host joined); hard, it fails. For a label it waits.
    """
    return {"ray.io/node-id": ray.get_runtime_context().get_node_id()}


def _cause_of(error: RayError) -> str:
    """Return in one line why an actor did not start: the exception of its code, if there is one."""
    failed_in_code = isinstance(error, RayActorError) and error.actor_init_failed
    return str(error).strip().splitlines()[-1] if failed_in_code else first_line(error)


def result_of(ref: Any) -> Any:
    """Return the result of a call; raise an exception of the actor's code as it was raised there.

    Raises:
        RayError: the actor failed.
    """
    try:
        return ray.get(ref)
    except RayTaskError as error:
        raise error.cause from error


def error_of(ref: Any) -> str | None:
    """Return the error of a finished call in one line; None if it succeeded.

    Raises:
        DivergedError: the net diverged, which is no failure of the actor.
    """
    try:
        ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, DivergedError):
            raise error.cause from error
        return first_line(error.cause)
    except RayError as error:
        return first_line(error)
    return None


def probe(
    actors: list[Any], reply_s: float, concurrency_group: str | None = None
) -> list[FailureKind | None]:
    """Ask actors for a reply and return how each failed; None for a healthy one.

    A process of its own asks: a call of this process waits for its earlier calls, which may wait
    for an actor that is gone.

    Args:
        actors: with a method `identify`.
        reply_s: seconds without a reply before an actor counts as unresponsive.
        concurrency_group: where to call them; None for where they do their work.
    """
    task: Any = ray.remote(num_cpus=0, label_selector=this_host())(_probe)
    states: list[FailureKind | None] = ray.get(
        task.remote(actors, reply_s, concurrency_group), timeout=reply_s + START_TIMEOUT_S
    )
    return states


def kill_process(identity: ActorIdentity) -> None:
    """Kill the process of an actor that no longer obeys Ray: a frozen one keeps its CPU."""
    there = NodeAffinitySchedulingStrategy(identity.host, soft=False)
    kill: Any = ray.remote(_kill)
    kill.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(identity.pid)


def _probe(
    actors: list[Any], reply_s: float, concurrency_group: str | None
) -> list[FailureKind | None]:
    options = {} if concurrency_group is None else {"concurrency_group": concurrency_group}
    replies = [actor.identify.options(**options).remote() for actor in actors]
    done, _ = ray.wait(replies, num_returns=len(replies), timeout=reply_s)
    return [
        (FailureKind.KILLED if error_of(each) else None)
        if each in done
        else FailureKind.UNRESPONSIVE
        for each in replies
    ]


def _kill(pid: int) -> None:
    with suppress(FileNotFoundError, ProcessLookupError):
        # The number may belong to another program by now.
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::"):
            os.kill(pid, SIGKILL)
