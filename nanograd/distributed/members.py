"""Who is in the group: workers that start, join, hold shards and are lost."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nanograd.data.dataset import Dataset
from nanograd.distributed.actors import Identity, WorkerActor
from nanograd.distributed.cluster import first_line
from nanograd.errors import ClusterError, DivergedError
from nanograd.runtime import events
from nanograd.runtime.events import Tell
from nanograd.training.local import share_out
from nanograd.training.recipe import Recipe
from nanograd.training.tree import Node

START_TIMEOUT_S = 60
# After this long without a worker's answer to its shards it is asked how it is.
_TAKE_S = 5.0
# Longer than it is busy with shards that have arrived.
_BUSY_S = 10.0


@dataclass
class Member:
    """A worker that is there."""

    actor: Any
    identity: Identity
    nodes: tuple[Node, ...] = ()


class Members:
    """Worker actors, one CPU each, that own neighbouring shards.

    Args:
        recipe: what they compute.
        dataset: the training images; each shard is shipped once to whoever holds it.
        world_size: W, how many there should be.
        tell: told who is lost, who joins, and who computes with another numpy or BLAS.
        strict: refuse those instead.
        fail: told why a worker did not start; raises when that is too often.
        answer_s: seconds that one may take for an answer while it computes.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        world_size: int,
        *,
        tell: Tell,
        strict: bool,
        fail: Callable[[str], None],
        answer_s: Callable[[], float],
    ) -> None:
        plan = recipe.plan
        self._recipe, self._tell, self._strict, self._fail = recipe, tell, strict, fail
        self._world_size, self._answer_s = world_size, answer_s
        self._shards = [
            ray.put(dataset.take(plan.shard_slice(shard))) for shard in range(plan.num_shards)
        ]
        self._lost = set[int]()
        self._joining: dict[int, tuple[Any, Any]] = {}
        self.present: dict[int, Member] = {}
        # Counts how often the shards were shared out.
        self.generation = 0
        for rank in range(world_size):
            self._start(rank)

    @property
    def joining(self) -> bool:
        """Whether somebody is yet to come."""
        return bool(self._joining)

    @property
    def num_hosts(self) -> int:
        """How many nodes of Ray they are on."""
        return len({each.identity.node for each in self.present.values()})

    def states(self) -> dict[int, str]:
        """Whether each rank is `working` or, for the first time or anew, `starting`."""
        return {
            rank: "working" if rank in self.present else "starting"
            for rank in range(self._world_size)
        }

    def actors(self) -> list[Any]:
        """Of those who are there."""
        return [each.actor for each in self.present.values()]

    def nodes(self) -> tuple[Node, ...]:
        """What they send, all together."""
        return tuple(node for each in self.present.values() for node in each.nodes)

    def welcome(self, fingerprint: str, round_: int, wait: bool) -> None:
        """Take in the workers that have started, and share out the shards anew.

        Args:
            fingerprint: the server's.
            round_: where the group stands.
            wait: until all have started, or for a minute.

        Raises:
            ClusterError: none started in that time, or one computes differently under `strict`.
        """
        waiting = [ready for _, ready in self._joining.values()]
        timeout = START_TIMEOUT_S if wait else 0
        done, late = ray.wait(waiting, num_returns=len(waiting), timeout=timeout)
        if wait and not done:
            raise ClusterError(
                f"{len(late)} workers did not start within {START_TIMEOUT_S} s; "
                "look at `ray status`, or ask for fewer with --workers"
            )
        newcomers = [rank for rank, (_, ready) in self._joining.items() if ready in done]
        for rank in newcomers:
            self._take_in(rank, *self._joining.pop(rank), fingerprint, round_)
        if newcomers:
            self.share_out(round_)

    def share_out(self, round_: int) -> None:
        """Give everyone who is there its shards, all at once; who does not take them is lost.

        Args:
            round_: where the group stands.
        """
        self.generation += 1
        calls = {
            rank: self.present[rank].actor.take.remote(shards, *(self._shards[s] for s in shards))
            for rank, shards in self._held(list(self.present)).items()
        }
        answers = {rank: self._taken(rank, call) for rank, call in calls.items()}
        if lost := {rank: how for rank, how in answers.items() if how}:
            self.replace(lost, round_)

    def replace(self, lost: Mapping[int, str], round_: int) -> None:
        """Give the shards of whoever is lost to the others, say so, and start replacements.

        Args:
            lost: how each rank was lost: killed or hung.
            round_: where the group stands.
        """
        for rank, how in lost.items():
            if how == "hung":
                end(self.present[rank].identity)
            self.lose(rank)
        self.share_out(round_)
        for rank, how in lost.items():
            self._tell(events.lost(rank, round_, how, self.heirs(rank)))

    def lose(self, rank: int) -> None:
        """Remove a worker, by force if it is still there, and start another in its place."""
        member = self.present.pop(rank)
        self._lost.add(rank)
        ray.kill(member.actor)
        self._start(rank)

    def heirs(self, rank: int) -> dict[int, list[int]]:
        """Which of a lost worker's own shards each of the others holds now."""
        own = set(self._held(range(self._world_size))[rank])
        now = self._held(list(self.present))
        return {heir: sorted(own & set(shards)) for heir, shards in now.items()}

    def close(self) -> None:
        """End all workers."""
        for actor in [*self.actors(), *(actor for actor, _ in self._joining.values())]:
            ray.kill(actor)

    def _start(self, rank: int) -> None:
        actor: Any = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(WorkerActor)
        started = actor.remote(self._recipe)
        self._joining[rank] = (started, started.whoami.remote())

    def _take_in(self, rank: int, actor: Any, ready: Any, fingerprint: str, round_: int) -> None:
        try:
            identity = ray.get(ready)
        except RayActorError as error:
            self._fail(f"worker {rank} did not start: {first_line(error)}")
            self._start(rank)
            return
        if identity.fingerprint != fingerprint:
            event = events.mixed(rank, identity.fingerprint, fingerprint)
            if self._strict:
                raise ClusterError(f"{event['sentence']}; leave out --strict to go on all the same")
            self._tell(event)
        self.present[rank] = Member(actor, identity)
        if rank in self._lost:
            self._lost.remove(rank)
            self._tell(events.joined(rank, round_))

    def _taken(self, rank: int, call: Any) -> str:
        """Wait until a worker has its shards: empty if it has, else how it was lost."""
        member = self.present[rank]
        while not ray.wait([call], timeout=_TAKE_S)[0]:
            # Shards may still be on their way over a slow link; who hangs does not answer.
            busy_s = max(_BUSY_S, self._answer_s())
            if how := examine([member.actor], busy_s, START_TIMEOUT_S)[0]:
                return how
        try:
            member.nodes = tuple(ray.get(call))
        except RayActorError:
            return "killed"
        return ""

    def _held(self, ranks: Sequence[int]) -> dict[int, list[int]]:
        return share_out(len(self._shards), self._world_size, ranks) if ranks else {}


def here() -> dict[str, str]:
    """Placement on this node, without which the run ends anyway, as a label that Ray gives each.

    Affinity to a node is no help: the host that is asked to place an actor may have joined a moment
    ago and not have heard of ours. Soft, it then keeps the actor itself (4 of 10 while a host
    joined), hard, it fails; for a label it waits.
    """
    return {"ray.io/node-id": ray.get_runtime_context().get_node_id()}


def result_of(ref: Any) -> Any:
    """What a call returned; an exception of the actor's code as it was raised there.

    Raises:
        RayError: the actor is lost.
    """
    try:
        return ray.get(ref)
    except RayTaskError as error:
        raise error.cause from error


def trouble_of(ref: Any) -> str | None:
    """Why a finished call failed; None if it did not.

    Raises:
        DivergedError: the net's fault, nobody's loss.
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


def examine(actors: list[Any], answer_s: float, timeout_s: float) -> list[str]:
    """How each of some actors is: empty if well, else killed or hung.

    They are asked from a process of its own: what this one calls now waits for what it called
    before, and that may wait for somebody who is gone.

    Args:
        actors: with a method `whoami`.
        answer_s: who takes longer hangs.
        timeout_s: for the examination beside that.
    """
    ask: Any = ray.remote(num_cpus=0, label_selector=here())(_ask)
    states: list[str] = ray.get(ask.remote(actors, answer_s), timeout=answer_s + timeout_s)
    return states


def end(identity: Identity) -> None:
    """Kill the process of an actor that does not obey Ray: a frozen one keeps its CPU."""
    there = NodeAffinitySchedulingStrategy(identity.node, soft=False)
    kill: Any = ray.remote(_kill)
    kill.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(identity.pid)


def _ask(actors: list[Any], answer_s: float) -> list[str]:
    answers = [actor.whoami.remote() for actor in actors]
    done, _ = ray.wait(answers, num_returns=len(answers), timeout=answer_s)
    return [("killed" if trouble_of(each) else "") if each in done else "hung" for each in answers]


def _kill(pid: int) -> None:
    with suppress(FileNotFoundError, ProcessLookupError):
        # Its number may be another program's by now.
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::"):
            os.kill(pid, SIGKILL)
