"""The parts of a batch job, done by Ray Data.

The rows of the data set are the planned parts, and the function that an actor applies to a row
reads, works and commits that part and returns its receipt. Ray Data schedules, limits what is in
flight and starts lost actors anew; what goes out is committed by `nanograd.batch`, so nothing of
Ray's own writing, which appends and is not atomic, is involved.
"""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayActorError, RayError, UserCodeException
from ray.util.annotations import RayDeprecationWarning

from nanograd import errors
from nanograd.batch.part import Done, Part, RunParts, Work, do
from nanograd.distributed.cluster import first_line
from nanograd.errors import ClusterError, InternalError, NanogradError
from nanograd.runtime import process

# More blocks than this only cost scheduling; a block is done part by part.
_MAX_BLOCKS = 5000
# Ray Data would start an actor anew for ever that dies of a part.
_MOST_DEATHS = 5


class _PartActor:
    """Does one part after the other in a process of its own."""

    def __init__(self, work: Work) -> None:
        process.use_one_thread()
        self._work = work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        # A failure of ours travels as a row: as an exception Ray Data would wrap it and log a page.
        try:
            receipt, seconds = do(self._work, Part(**json.loads(row["part"])))
            return {"receipt": json.dumps(receipt), "seconds": seconds, "error": ""}
        except NanogradError as error:
            return {"receipt": str(error), "seconds": 0.0, "error": type(error).__name__}


def run_on_ray(work: Work, num_actors: int) -> RunParts:
    """Parts done by a pool of actors, one CPU each; they come back as they are finished.

    Args:
        work: does one part; pickled for each actor, so it should be small.
        num_actors: size of the pool; never more than there are parts.

    Raises:
        ClusterError: Ray fails, or a part ends its process again and again.
        InternalError: the work raised what is no NanogradError.
    """

    def run(parts: Sequence[Part]) -> Iterator[Done]:
        if not parts:
            return
        _quieten()
        rows = [{"part": json.dumps(asdict(part))} for part in parts]
        # One actor a CPU, all from the start: Ray Data grows a pool only when work has piled up.
        size = min(num_actors, len(parts))
        in_flight = _in_flight(len(parts), size)
        pool = ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=in_flight)
        planned = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS))
        actor: Any = _PartActor
        with warnings.catch_warnings():
            # Ray 2.60 calls it deprecated, but has nothing in its place.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            done = planned.map(
                actor,
                fn_constructor_args=(work,),
                compute=pool,
                num_cpus=1,
                max_task_retries=_MOST_DEATHS - 1,
            )
        left = {part.id: part for part in parts}
        try:
            for row in done.iter_rows():
                part = _done(row)
                del left[part.receipt["part"]]
                yield part
        except UserCodeException as error:
            last = str(error).strip().splitlines()[-1]
            raise InternalError(f"a part failed: {last}; please report this") from error
        except RayActorError as error:
            raise ClusterError(_deadly(next(iter(left.values())))) from error
        except RayError as error:
            raise ClusterError(f"Ray Data failed: {first_line(error)}") from error

    return run


def _in_flight(num_parts: int, num_actors: int) -> int:
    """How many parts an actor is given at a time: some wait, so that it need not.

    At most a share of half the parts: of two parts the actor that is up first would take both.

    >>> [_in_flight(num_parts, 2) for num_parts in (2, 7, 8, 100)]
    [1, 1, 2, 4]
    """
    return max(1, min(4, num_parts // (2 * num_actors)))


def _deadly(part: Part) -> str:
    """What to say when processes died too often; the first part that is left is the likely one.

    >>> _deadly(Part(id="7", files=("a.png", "b.png")))  # doctest: +ELLIPSIS
    'a part ended its process 5 times, probably that of a.png and 1 more files, by a lack of...
    """
    more = f" and {len(part.files) - 1:,} more files" if len(part.files) > 1 else ""
    return (
        f"a part ended its process {_MOST_DEATHS} times, probably that of {part.files[0]}{more}, "
        "by a lack of memory or a fault in a decoder; ask for fewer --workers, or take it out"
    )


def _quieten() -> None:
    # Progress and failures are told by the job itself: Ray Data's bars fill the logs of `ray job
    # submit`, and its account of a failure is a page.
    context = DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _done(row: dict[str, Any]) -> Done:
    if row["error"]:
        raise getattr(errors, row["error"])(row["receipt"])
    return Done(json.loads(row["receipt"]), row["seconds"])
