"""Backends: run the work of a command in this process or on Ray. Ray is imported only if used."""

from collections.abc import Iterator
from contextlib import contextmanager

from nanograd.jobs.job import Job, JobResult
from nanograd.jobs.part import Work, run_local
from nanograd.jobs.retry import run_with_retries
from nanograd.report.trackers import guarded
from nanograd.runtime import kernel, process
from nanograd.runtime.events import Listener, broadcast
from nanograd.settings.specs import JobSpec
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.local import LocalGroup, StartGroup


@contextmanager
def group_starter(spec: TrainSpec, listener: Listener) -> Iterator[tuple[int, StartGroup]]:
    """Provide the number of workers and the function that starts them.

    Raises:
        ClusterError: Ray cannot be started or joined, or too few CPUs are free.
    """
    if spec.workers == 0:
        yield 0, LocalGroup
        return
    from nanograd.distributed.cluster import num_actors, session
    from nanograd.distributed.group import RayGroup
    from nanograd.distributed.members import GroupSpec

    with session(spec.address, spec.workers, listener):
        group = GroupSpec(
            num_workers=num_actors(spec.workers, spec.shards),
            strict=spec.is_strict,
            ports=spec.port_range(),
            variables=kernel.variables() if spec.kernel == kernel.PORTABLE else {},
        )
        yield group.num_workers, lambda *about: RayGroup(*about, spec=group).start()


def run_parts(job: Job, work: Work, listener: Listener) -> JobResult:
    """Run a batch job and its retries. Ray is not started if the output is already complete.

    Raises:
        ClusterError: Ray does not answer or has no free CPU.
    """
    if job.spec.workers == 0 or not (job.parts or job.retries):
        with process.one_thread():
            return run_with_retries(job, run_local(work), listener)
    from nanograd.distributed.cluster import num_actors, session
    from nanograd.distributed.part_pool import run_on_ray

    with session(job.spec.address, job.spec.workers, listener):
        pool = run_on_ray(work, num_actors(job.spec.workers))
        ray = ray_metrics(job.spec, job.identity["command"], job.output, listener)
        return run_with_retries(job, pool, broadcast(listener, *ray))


def ray_metrics(spec: JobSpec, command: str, output: str, listener: Listener) -> list[Listener]:
    """Return a listener that updates Ray's metrics, if Ray is used. Its errors become warnings."""
    if spec.workers == 0:
        return []
    from nanograd.distributed.prometheus import RayMetrics

    return [guarded(RayMetrics(command, output), listener)]
