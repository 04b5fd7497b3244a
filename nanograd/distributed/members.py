"""The workers of a group: how they start, get shards and are replaced after a failure.

The functions at the beginning are for calls of actors by the driver: where an actor is placed, how
long a call may take, and whether an actor still replies.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from signal import SIGKILL
from threading import Event as StopSignal
from time import monotonic
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nanograd.digits.dataset import Dataset
from nanograd.distributed.actors import ActorIdentity, WorkerActor
from nanograd.distributed.cluster import first_line
from nanograd.errors import ClusterError, DivergedError, Stopped
from nanograd.runtime import events, kernel, machine
from nanograd.runtime.events import FailureKind, Listener
from nanograd.training.local import assign_shards
from nanograd.training.recipe import Recipe
from nanograd.training.tree import TreeNode

START_TIMEOUT_S = 60
# Maximum failures in a row that a group survives.
MAX_FAILURES = 5
# A worker that has not confirmed its shards after this time is probed.
CHECK_S = 5.0
# A worker that has not received its shards after this time is replaced, even if it replies.
MAX_TAKE_S = 120.0
# Minimum seconds to wait for a worker's reply: it needs less time for shards that have arrived.
_BUSY_S = 10.0
_STOP_CHECK_S = 0.5
# A host that fails this many times within this many seconds gets no more work.
_MAX_LOSSES, _LOSSES_S = 3, 60.0

_Key = TypeVar("_Key")


def on_host(node: str) -> dict[str, str]:
    """Return the label selector that makes Ray start an actor on a certain node (host).

    Ray waits for a node that has just joined and that its scheduler does not know yet. With a
    `NodeAffinitySchedulingStrategy`, the actor would start on another host, or fail if it is hard.
    """
    return {"ray.io/node-id": node}


def outcome_of(ref: Any, raised: type[Exception]) -> Any:
    """Return the result of a finished call, or why it failed in one line; raise errors `raised`."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, raised):
            raise error.cause from error
        return first_line(error.cause)
    except RayError as error:
        return first_line(error)


def probe(
    actors: Mapping[_Key, Any], reply_s: float, concurrency_group: str | None = None
) -> dict[_Key, FailureKind]:
    """Ask workers or servers for a reply; return those that fail or are too late.

    A task in another process asks them, because Ray sends the calls of one process in order: a
    call from this process could wait behind an earlier one for an actor that is gone. A worker or
    server replies after its current work, or at once if the call is in a concurrency group.
    """
    options = {} if concurrency_group is None else {"concurrency_group": concurrency_group}

    def ask(handles: list[Any]) -> list[FailureKind | None]:
        replies = [handle.identify.options(**options).remote() for handle in handles]
        _, late = ray.wait(replies, num_returns=len(replies), timeout=reply_s)
        states: list[FailureKind | None] = [FailureKind.UNRESPONSIVE] * len(replies)
        for index, reply in enumerate(replies):
            if reply not in late:
                is_lost = isinstance(outcome_of(reply, DivergedError), str)
                states[index] = FailureKind.KILLED if is_lost else None
        return states

    if not actors:
        return {}
    here = on_host(ray.get_runtime_context().get_node_id())
    task: Any = ray.remote(num_cpus=0, label_selector=here)(ask)
    asked = task.remote([each.actor for each in actors.values()])
    states: list[FailureKind | None] = ray.get(asked, timeout=reply_s + START_TIMEOUT_S)
    return {key: how for key, how in zip(actors, states, strict=True) if how is not None}


def await_transfers(
    calls: Mapping[_Key, tuple[Any, Any]],
    *,
    check_s: float,
    reply_s: float,
    longest_s: float,
    concurrency_group: str | None = None,
    stop: StopSignal | None = None,
    on_wait: Callable[[_Key, float], None] = lambda key, seconds: None,
) -> dict[_Key, FailureKind]:
    """Wait for calls that may send data over a slow link; return the calls whose actors failed.

    `calls` has each call with its worker or server. Only a probe, every `check_s` seconds, tells a
    frozen actor from an actor whose data is in transit; it has `reply_s` seconds to reply. If no
    call ends for `longest_s` seconds, all actors count as unresponsive. `on_wait` gets each
    unfinished call whose actor replies, and the seconds waited. A set `stop` raises Stopped.
    """
    failed: dict[_Key, FailureKind] = {}
    began, num_late = monotonic(), len(calls)
    while True:
        keys = {ref: key for key, (ref, _) in calls.items() if key not in failed}
        late = ray.wait(list(keys), num_returns=len(keys), timeout=check_s)[1] if keys else []
        if not late:
            return failed
        if len(late) < num_late:
            began, num_late = monotonic(), len(late)
        if stop is not None and stop.is_set():
            raise Stopped("stopped while data were sent to the workers")
        waiting, waited_s = [keys[ref] for ref in late], monotonic() - began
        if waited_s > longest_s:
            return failed | dict.fromkeys(waiting, FailureKind.UNRESPONSIVE)
        failed |= probe({key: calls[key][1] for key in waiting}, reply_s, concurrency_group)
        for key in waiting:
            if key not in failed:
                on_wait(key, waited_s)


def end_actor(actor: Any, identity: ActorIdentity | None, how: FailureKind | None) -> None:
    """End an actor; kill its process if it is unresponsive, because Ray cannot end a frozen one."""

    def kill(there: ActorIdentity) -> None:
        if machine.is_alive(there.process):
            with suppress(ProcessLookupError):
                os.kill(there.pid, SIGKILL)

    if how is FailureKind.UNRESPONSIVE and identity is not None:
        remote: Any = ray.remote
        host = NodeAffinitySchedulingStrategy(identity.host, soft=False)
        remote(num_cpus=0, max_retries=0, scheduling_strategy=host)(kill).remote(identity)
    ray.kill(actor)


def start_actor(kind: type, recipe: Recipe, *rest: object, **options: Any) -> tuple[Any, Any]:
    """Start a worker or server with the kernel of the run; return it and its first call."""
    if recipe.spec.kernel == kernel.PORTABLE:
        options["runtime_env"] = {"env_vars": kernel.variables()}
    remote: Any = ray.remote  # its type annotations lack concurrency groups
    actor = remote(**options)(kind).remote(recipe, *rest)
    return actor, actor.identify.remote()


@dataclass
class Member:
    """A worker that has joined the group."""

    actor: Any
    identity: ActorIdentity
    nodes: tuple[TreeNode, ...] = ()


class Members:
    """Worker actors of one CPU that own contiguous shards; see `RayGroup`."""

    def __init__(self, recipe: Recipe, listener: Listener, stop: StopSignal) -> None:
        self._recipe, self._listener, self._stop = recipe, listener, stop
        self.world_size = recipe.spec.workers or 1
        self._shards: list[Any] = []
        self.present: dict[int, Member] = {}
        self.starting: dict[int, tuple[Any, Any]] = {}  # actor and its first call, by rank
        self._failed_starts = Counter[int]()  # failed starts in a row, by rank
        self._replaced = set[int]()  # ranks whose replacement has not joined
        self._losses: dict[str, list[float]] = {}  # times of each host's failures, by address
        self._excluded: list[str] = []  # IDs of Ray's nodes that get no more workers
        self._excluded_addresses = set[str]()  # of these nodes: a host returns as a new node
        # Position of each rank in the order of the shards; the ranks of a host are contiguous.
        self._places = list(range(self.world_size))
        # Distinct fingerprints of all workers so far, the first worker's first: it may have ended.
        self.fingerprints: list[str] = []
        self.generation = 0  # counts how often the shards were assigned

    def start(self, dataset: Dataset) -> None:
        """Store the shards of the images in Ray, and start all workers without waiting for them."""
        slices = map(self._recipe.plan.shard_slice, range(self._recipe.plan.num_shards))
        self._shards = [ray.put(dataset.take(part)) for part in slices]
        for rank in range(self.world_size):
            self._start(rank)

    def hosts(self) -> dict[str, list[Member]]:
        """Return the present workers by host, in the order of their shards."""
        found: dict[str, list[Member]] = {}
        for rank in sorted(self.present, key=self._places.__getitem__):
            member = self.present[rank]
            found.setdefault(member.identity.host, []).append(member)
        return found

    def _start(self, rank: int) -> None:
        options: dict[str, Any] = {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
        if self._excluded:
            options["label_selector"] = on_host(f"!in({','.join(self._excluded)})")
        self.starting[rank] = start_actor(WorkerActor, self._recipe, **options)

    def collect(self, round_: int, *, wait: bool) -> bool:
        """Add workers that have started, without shards; return whether any were added.

        With `wait`, wait for all of them, for at most a minute.
        """
        refs = [ready for _, ready in self.starting.values()]
        end, late = monotonic() + START_TIMEOUT_S * wait, refs
        while late:
            done, late = ray.wait(refs, num_returns=len(refs), timeout=_STOP_CHECK_S * wait)
            if self._stop.is_set() or monotonic() > end:
                break
        if wait and refs and not done and not self._stop.is_set():
            raise ClusterError(
                f"{events.count(len(late), 'worker')} did not start within {START_TIMEOUT_S} s; "
                "see `ray status`, or ask for fewer with --workers"
            )
        has_joined = False
        for rank in [rank for rank, (_, ready) in self.starting.items() if ready not in late]:
            actor, ready = self.starting.pop(rank)
            try:
                identity: ActorIdentity = ray.get(ready)
            except RayError as error:  # for example an environment that cannot be built
                of_code = isinstance(error, RayActorError) and error.actor_init_failed
                reason = str(error).strip().splitlines()[-1] if of_code else first_line(error)
                self._failed_starts[rank] += 1
                times = self._failed_starts[rank]
                if times > MAX_FAILURES:
                    text = f"worker {rank} did not start {times} times in a row: {reason}"
                    raise ClusterError(text) from error
                self._listener(events.warning(f"worker {rank} did not start: {reason}"))
                self._start(rank)
                continue
            self._failed_starts[rank] = 0
            if identity.address in self._excluded_addresses:
                ray.kill(actor)
                self._excluded.append(identity.host)
                self._start(rank)
                continue
            self.present[rank] = Member(actor, identity)
            if (ours := identity.fingerprint) not in self.fingerprints:
                self.fingerprints.append(ours)
            if ours != (first := self.fingerprints[0]):
                event = events.changed("mixed", rank=rank, worker=ours, first=first)
                if self._recipe.spec.is_strict:
                    raise ClusterError(f"{event}; --strict and --kernel portable refuse that")
                self._listener(event)
            if rank in self._replaced:
                self._replaced.remove(rank)
                self._listener(events.changed("joined", rank=rank, round=round_))
            has_joined = True
        return has_joined

    def assign(self, reply_s: float) -> dict[int, FailureKind]:
        """Send all present workers their shards in parallel; return the workers that failed."""
        self.generation += 1
        if len(self.present) == self.world_size:
            hosts = self.hosts().values()
            ranks = [rank for host in hosts for rank, each in self.present.items() if each in host]
            for place, rank in enumerate(ranks):
                self._places[rank] = place
        calls: dict[int, tuple[Any, Any]] = {}
        for rank, shards in self._assignment(list(self.present)).items():
            member, data = self.present[rank], (self._shards[shard] for shard in shards)
            calls[rank] = member.actor.take.remote(shards, *data), member

        def report(rank: int, seconds: float) -> None:
            text = f"worker {rank} on host {self.present[rank].identity} waits for its shards"
            help_ = "is a firewall in the way? docs/cluster.md lists the ports"
            self._listener(events.warning(f"{text} ({seconds:.0f} s); {help_}"))

        failed = await_transfers(
            calls,
            check_s=CHECK_S,
            reply_s=max(_BUSY_S, reply_s),
            longest_s=MAX_TAKE_S,
            stop=self._stop,
            on_wait=report,
        )
        for rank in calls.keys() - failed.keys():
            try:
                self.present[rank].nodes = tuple(ray.get(calls[rank][0]))
            except RayActorError:
                failed[rank] = FailureKind.KILLED
        return failed

    def replace(self, rank: int, how: FailureKind | None = None) -> None:
        """Remove a worker, ending it if it still runs, and start another in its place."""
        member = self.present.pop(rank)
        end_actor(member.actor, member.identity, how)
        self._replaced.add(rank)
        self._start(rank)

    def count_loss(self, host: ActorIdentity) -> dict[int, FailureKind]:
        """Count a failure of a host; after repeated failures, exclude it and return its workers."""
        # Count by address, because a host that comes back is a new node of Ray.
        losses, now = self._losses.setdefault(host.address, []), monotonic()
        losses[:] = [*(each for each in losses if now - each < _LOSSES_S), now]
        there = [r for r, each in self.present.items() if each.identity.address == host.address]
        if len(losses) < _MAX_LOSSES or len(there) == len(self.present):
            return {}
        self._excluded_addresses.add(host.address)
        self._excluded.append(host.host)
        for rank, (starting, _) in list(self.starting.items()):  # they may wait for a CPU there
            ray.kill(starting)
            self._start(rank)
        text = f"host {host} failed {len(losses)} times in a minute: it gets no more work"
        self._listener(events.warning(text))
        return dict.fromkeys(there, FailureKind.KILLED)

    def heirs(self, rank: int) -> Mapping[int, Sequence[int]]:
        """Return which of a missing rank's own shards each present rank holds."""
        own = set(self._assignment(range(self.world_size))[rank])
        now = self._assignment(list(self.present))
        return {heir: sorted(own & set(shards)) for heir, shards in now.items()}

    def close(self) -> None:
        """End all workers."""
        for member in self.present.values():
            ray.kill(member.actor)
        for actor, _ in self.starting.values():
            ray.kill(actor)

    def _assignment(self, ranks: Sequence[int]) -> dict[int, list[int]]:
        if not ranks:
            return {}
        places = [self._places[rank] for rank in ranks]
        held = assign_shards(len(self._shards), self.world_size, places)
        return {rank: held[place] for rank, place in zip(ranks, places, strict=True)}
