"""The parts of a batch job, run by Ray Data.

Each row of Ray's data set is a part that is still to do. An actor processes the part, writes its
output and returns its receipt. Ray Data distributes the parts to actors, and restarts failed
actors. Ray's own writers of files are not used, because a repeated job would write rows twice.
"""

import logging
import pickle
import re
import warnings
from collections.abc import Sequence
from itertools import chain
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayActorError, RayError, UserCodeException
from ray.util.annotations import RayDeprecationWarning

from nanograd.distributed.cluster import first_line
from nanograd.errors import ClusterError, InternalError, NanogradError
from nanograd.jobs.part import DonePart, DoneParts, Part, Work, run_part
from nanograd.runtime import process
from nanograd.runtime.events import count

# Maximum blocks of parts, because more blocks only cost scheduling.
_MAX_BLOCKS = 5000
# Maximum deaths of actors by one part, because Ray Data would restart them forever.
MAX_DEATHS = 5


class _PartActor:
    """Runner of parts in a process of its own."""

    def __init__(self, work: Work) -> None:
        process.use_one_thread()
        warnings.filterwarnings("ignore", module=r"PIL\.")  # as the command does
        self._work = work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        # Return our errors in the row, because Ray Data would wrap an exception and log a page.
        done: DonePart | NanogradError
        try:
            done = run_part(self._work, pickle.loads(row["part"]))  # noqa: S301 - by this job
        except NanogradError as error:
            done = error
        return {"done": pickle.dumps(done)}


def run_on_ray(work: Work, num_actors: int, parts: Sequence[Part]) -> DoneParts:
    """Run parts in a pool of at most `num_actors` one-CPU actors, and yield finished parts.

    The work is pickled for each actor, so it should be small. An actor that has several parts may
    run a later one first.

    Raises:
        ClusterError: Ray fails, or a part ends its process repeatedly.
        InternalError: the work raised another error than a NanogradError.
    """
    if not parts:
        return
    # The job itself reports progress and failures. Ray Data's progress bars would fill the logs
    # of `ray job submit`, and its report of a failure has a page.
    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Start all actors at once, because Ray Data enlarges a pool only when work has piled up.
    # Queue up to four parts at each actor, so that actors do not wait for parts. Queue at most
    # half of all parts, because the first actor would otherwise take both of two parts.
    size = min(num_actors, len(parts))
    in_flight = max(1, min(4, len(parts) // (2 * size)))
    pool = ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=in_flight)
    rows = [{"part": pickle.dumps(part)} for part in parts]
    planned = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS))
    actor: Any = _PartActor
    # Ray 2.60 calls max_task_retries deprecated without a replacement. The filter applies to
    # this module only and is not removed, because that would undo filters of other threads.
    warnings.filterwarnings("ignore", category=RayDeprecationWarning, module=re.escape(__name__))
    done = planned.map(
        actor,
        fn_constructor_args=(work,),
        compute=pool,
        num_cpus=1,
        max_task_retries=MAX_DEATHS - 1,
    )
    left = {part.id: part for part in parts}
    try:
        # `iter_rows` and `iter_batches` read in a thread. If this generator is closed early, the
        # thread calls Ray after `ray.shutdown`, and Ray ends this process without a word.
        bundles = done.iter_internal_ref_bundles()
        try:
            while (bundle := next(bundles, None)) is not None:  # a bundle may be empty
                columns = (block["done"] for block in ray.get(bundle.block_refs))
                for row in chain.from_iterable(columns):
                    result = pickle.loads(row.as_py())  # noqa: S301 - by this job
                    if isinstance(result, NanogradError):
                        raise result
                    del left[result.receipt.part]
                    yield result
        finally:
            del bundles  # ends Ray Data now; the frames of an error would keep it
    except UserCodeException as error:
        last = str(error).strip().splitlines()[-1]
        raise InternalError(f"a part failed: {last}; please report this") from error
    except RayActorError as error:
        if error.actor_init_failed:
            cause = str(error).strip().splitlines()[-1].strip()
            text = "see that each host has this version of nanograd and of what it requires"
            raise ClusterError(f"a worker cannot start: {cause}; {text}") from error
        first, *others = next(iter(left.values())).files  # of the first unfinished part
        more = f" and {count(len(others), 'more file')}" if others else ""
        raise ClusterError(
            f"a part ended its process {MAX_DEATHS} times, probably that of {first}{more}, "
            "for lack of memory or by a fault in a decoder; use fewer --workers, or remove it"
        ) from error
    except RayError as error:
        raise ClusterError(f"Ray Data failed: {first_line(error)}") from error
