"""Backends: run the work of a command in this process or on Ray. Ray is imported only if used."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from nanograd.jobs.job import Job, JobResult
from nanograd.jobs.part import DonePart, Part, RunParts, Work, run_local, run_part
from nanograd.jobs.retry import run_with_retries
from nanograd.report.trackers import guarded
from nanograd.runtime import process
from nanograd.runtime.events import Listener, broadcast, duration, info
from nanograd.settings.specs import JobSpec
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.local import LocalGroup, StartGroup

# Without --workers, a job that takes at most about this many seconds runs in this process, because
# the start of Ray and its actors takes about as long. The first parts are measured for a second.
_SMALL_S, _MEASURED_S = 20.0, 1.0


@contextmanager
def group_starter(spec: TrainSpec, listener: Listener) -> Iterator[tuple[int, StartGroup]]:
    """Provide, inside a with block, the number of workers and the function that starts them.

    Raises:
        ClusterError: Ray cannot be started or joined, or too few CPUs are free.
    """
    if spec.workers == 0:
        yield 0, LocalGroup
        return
    from nanograd.distributed.cluster import num_actors, session
    from nanograd.distributed.group import RayGroup

    with session(spec.address, spec.workers, listener):
        workers = num_actors(spec.workers, spec.shards)
        chosen = replace(spec, workers=workers)
        yield workers, lambda *about: RayGroup(*about, spec=chosen).start()


def run_parts(job: Job, work: Work, listener: Listener) -> JobResult:
    """Run a batch job, and then read rows again that `--retry-quarantine` asks for.

    Ray is not started if the output is already complete. If neither a number of workers nor an
    address is given, Ray is started only if the job takes long.

    Raises:
        ClusterError: Ray does not answer or has no free CPU.
    """
    spec = job.spec
    if spec.workers == 0 or not (job.parts or job.retries):
        with process.one_thread():
            return run_with_retries(job, run_local(work), listener)
    listeners = [listener]
    everyone = broadcast(listeners)
    with ExitStack() as stack:

        def start_ray() -> RunParts:
            from nanograd.distributed.cluster import num_actors, session
            from nanograd.distributed.part_pool import run_on_ray

            stack.enter_context(session(spec.address, spec.workers, listener))
            listeners.extend(ray_metrics(spec, job.identity["command"], job.output, listener))
            return run_on_ray(work, num_actors(spec.workers))

        if spec.workers or spec.address:
            return run_with_retries(job, start_ray(), everyone)
        text = f"running in this process; Ray starts if this takes over {_SMALL_S:.0f} s"
        listener(info(f"{text} (--workers N starts it at once)"))
        return run_with_retries(job, run_small(work, start_ray, listener), everyone)


def run_small(
    work: Work,
    start_ray: Callable[[], RunParts],
    listener: Listener,
    run_here: Callable[[Work, Part], DonePart] = run_part,
) -> RunParts:
    """Return a function that runs parts in this process as long as the job looks small.

    As soon as the speed of the first parts shows that all parts would take too long, the function
    calls `start_ray`, and runs all other parts with the function that `start_ray` returns.
    """
    pool: RunParts | None = None

    def run(parts: Sequence[Part]) -> Iterator[DonePart]:
        nonlocal pool
        num_done, num_left, seconds = 0, sum(part.num_rows for part in parts), 0.0
        for number, part in enumerate(parts):
            if pool is not None:
                yield from pool(parts[number:])
                return
            with process.one_thread():
                done = run_here(work, part)
            num_done, num_left = num_done + part.num_rows, num_left - part.num_rows
            seconds += done.seconds
            yield done
            left_s = seconds * num_left / max(num_done, 1)
            if num_left and seconds > _MEASURED_S and seconds + left_s > _SMALL_S:
                text = f"the rest would take about {duration(left_s)} in this process"
                listener(info(f"{text}, so Ray takes over"))
                pool = start_ray()

    return run


def ray_metrics(spec: JobSpec, command: str, output: str, listener: Listener) -> list[Listener]:
    """Return a listener that updates Ray's metrics, if Ray is used. Its errors become warnings."""
    if spec.workers == 0:
        return []
    from nanograd.distributed.prometheus import RayMetrics

    return [guarded(RayMetrics(command, output), listener)]
