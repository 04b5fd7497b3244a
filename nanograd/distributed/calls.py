"""What a call to an actor comes back with when somebody may be lost."""

import os
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nanograd.distributed.actors import Identity
from nanograd.distributed.quiet import first_line
from nanograd.errors import DivergedError


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
