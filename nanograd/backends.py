"""Who does a command's work: this process, or actors on Ray, which is imported only for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nanograd.batch.part import RunParts, Work, run_here
from nanograd.config.command_configs import JobConfig
from nanograd.config.train_config import TrainConfig
from nanograd.data.dataset import Dataset
from nanograd.runtime import process
from nanograd.runtime.events import Show
from nanograd.training.local import LocalGroup, WorkerGroup
from nanograd.training.recipe import Recipe
from nanograd.training.run import MakeGroup
from nanograd.training.run_directory import Tell
from nanograd.training.server import Snapshot


@contextmanager
def worker_group(config: TrainConfig) -> Iterator[tuple[int, MakeGroup]]:
    """How many workers there will be, and how to start them."""
    if config.workers == 0:
        yield 0, LocalGroup
        return
    from nanograd.distributed.cluster import num_actors, session
    from nanograd.distributed.group import RayGroup

    with session(config.address, config.workers):
        workers = num_actors(config.workers, config.shards)

        def make_group(
            recipe: Recipe,
            dataset: Dataset,
            snapshot: Snapshot,
            tell: Tell,
            stop: Callable[[], bool],
        ) -> WorkerGroup:
            return RayGroup(
                recipe, dataset, snapshot, workers, tell=tell, stop=stop, strict=config.strict
            )

        yield workers, make_group


@contextmanager
def part_runner(config: JobConfig, work: Work) -> Iterator[RunParts]:
    """How the parts of a batch job are done."""
    if config.workers == 0:
        with process.one_thread():
            yield run_here(work)
        return
    from nanograd.distributed.cluster import num_actors, session
    from nanograd.distributed.part_pool import run_on_ray

    with session(config.address, config.workers):
        yield run_on_ray(work, num_actors(config.workers))


def ray_metrics(config: JobConfig, command: str, output: str) -> list[Show]:
    """Ray's own metrics of a job, if it runs on Ray."""
    if config.workers == 0:
        return []
    from nanograd.distributed.prometheus import RayMetrics

    return [RayMetrics(command, output).show]
