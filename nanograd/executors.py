"""Who does a command's work: this process, or actors on Ray, which is imported only for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nanograd import blas
from nanograd.batch.part import RunParts, Work, run_here
from nanograd.config import JobConfig
from nanograd.data.dataset import Dataset
from nanograd.progress import Show
from nanograd.train_config import TrainConfig
from nanograd.training.directory import Tell
from nanograd.training.group import LocalGroup, WorkerGroup
from nanograd.training.recipe import Recipe
from nanograd.training.run import MakeGroup
from nanograd.training.server import Snapshot


@contextmanager
def worker_group(config: TrainConfig) -> Iterator[tuple[int, MakeGroup]]:
    """How many workers there will be, and how to start them."""
    if config.workers == 0:
        yield 0, LocalGroup
        return
    from nanograd.distributed.group import RayGroup
    from nanograd.distributed.session import num_actors, session

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
        with blas.one_thread():
            yield run_here(work)
        return
    from nanograd.distributed.parts import run_on_ray
    from nanograd.distributed.session import num_actors, session

    with session(config.address, config.workers):
        yield run_on_ray(work, num_actors(config.workers))


def ray_metrics(config: JobConfig, command: str, output: str) -> list[Show]:
    """Ray's own metrics of a job, if it runs on Ray."""
    if config.workers == 0:
        return []
    from nanograd.distributed.metrics import RayMetrics

    return [RayMetrics(command, output).show]
