"""The program of links.py on its first host: trains as many rounds as each input line names.

It first prints the time of a worker per image and of the server per round, then the seconds of each
run.
"""

import json
import sys
from time import perf_counter, sleep

import numpy as np
import ray

from nanograd.commands import make_recipe
from nanograd.config.train_config import TrainConfig
from nanograd.data import mnist
from nanograd.data.dataset import Dataset
from nanograd.distributed.group import RayGroup
from nanograd.runtime import process
from nanograd.training.recipe import Recipe
from nanograd.training.server import ParameterServer, first_snapshot
from nanograd.training.worker import Worker

_ADDRESS, _WARM_UP, _TIMED = "10.77.0.11:6379", 5, 40


def main(hidden: int, num_workers: int, images: int) -> None:
    """Train until the input ends."""
    digits = mnist.load("sample").train
    recipe = make_recipe(
        TrainConfig(
            hidden=hidden, batch_size=num_workers * images, shards=num_workers, epochs=10_000
        ),
        len(digits),
    )
    ray.init(address=_ADDRESS, log_to_driver=False, logging_level="ERROR")
    while ray.cluster_resources().get("CPU", 0) < num_workers:  # type: ignore[no-untyped-call]
        sleep(0.2)  # Ray has no event for this
    group = RayGroup(recipe, digits, first_snapshot(recipe), num_workers=num_workers)
    group.advance(done := _WARM_UP)
    _reply(_constants(recipe, digits))
    for line in sys.stdin:
        began = perf_counter()
        group.advance(done := done + int(line))
        _reply({"seconds": perf_counter() - began})
    group.close()


def _constants(recipe: Recipe, digits: Dataset) -> dict[str, float]:
    """Measure a worker's seconds per image and the server's per round, alone in this process."""
    process.use_one_thread()
    plan = recipe.plan
    workers = [
        Worker(recipe, {shard: digits.take(plan.shard_slice(shard))})
        for shard in range(plan.num_shards)
    ]
    server = ParameterServer(recipe, first_snapshot(recipe))
    image_s, server_s = [], []
    for round_ in range(_TIMED):
        vector = server.parameters().copy()
        began = perf_counter()
        sent = [each for worker in workers for each in worker.contribute(round_, vector)]
        middle = perf_counter()
        for contribution in sent:
            server.submit(contribution)
        image_s.append((middle - began) / recipe.plan.batch_size)
        server_s.append(perf_counter() - middle)
    return {
        "num_parameters": len(vector),
        "image_s": float(np.median(image_s)),
        "server_s": float(np.median(server_s)),
    }


def _reply(values: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
