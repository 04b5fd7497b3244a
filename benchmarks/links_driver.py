"""A contender of links.py on one of its hosts.

It prints facts about itself as JSON. Then it reads a number of rounds from each input line, trains
them and prints the seconds.
"""

import json
import logging
import os
import sys
from collections.abc import Callable
from time import perf_counter, sleep
from typing import Any

import numpy as np
from contenders.base import Setting, load_images

from nanograd.digits.dataset import Dataset
from nanograd.runtime import process
from nanograd.training.recipe import Recipe
from nanograd.training.server import ParameterServer, first_snapshot
from nanograd.training.worker import Worker

_RAY_PORT, _GLOO_PORT, _WARM_UP, _TIMED = 6379, 29_500, 20, 40
Run = Callable[[int], object]


def main(setting: Setting, first: str, rank: int) -> None:
    """Train until the input ends.

    Args:
        setting: the contender and its training.
        first: address of the first host.
        rank: rank of this process, if each host has one process.
    """
    run, close, facts = _CONTENDERS[setting.name](setting, first, rank)
    run(_WARM_UP)
    _reply(facts)
    for line in sys.stdin:
        began = perf_counter()
        run(int(line))
        _reply({"seconds": perf_counter() - began})
    close()


def _nanograd(setting: Setting, first: str, rank: int) -> tuple[Run, Run, dict[str, float]]:
    import ray
    from contenders.ours import recipe_of

    from nanograd.distributed.group import RayGroup

    digits = load_images(setting).train
    recipe = recipe_of(setting, len(digits))
    _connect(first, setting.workers)
    group = RayGroup(recipe, digits, first_snapshot(recipe))
    done = 0

    def run(rounds: int) -> None:
        nonlocal done
        group.advance(done := done + rounds)

    def close(_: int = 0) -> None:
        group.close()
        ray.shutdown()

    return run, close, _constants(recipe, digits)


def _ddp(setting: Setting, first: str, rank: int) -> tuple[Run, Run, dict[str, float]]:
    from contenders.ddp import wrap
    from contenders.pytorch import Pytorch
    from torch import distributed

    os.environ["GLOO_SOCKET_IFNAME"] = "eth0"
    distributed.init_process_group(
        "gloo", f"tcp://{first}:{_GLOO_PORT}", rank=rank, world_size=setting.workers
    )
    net = Pytorch(setting, rank, setting.workers, wrap)
    return net.run, lambda _=0: distributed.destroy_process_group(), {}


def _ray_train(setting: Setting, first: str, rank: int) -> tuple[Run, Run, dict[str, float]]:
    from contenders.ray_train import RayTrain

    # Otherwise gloo connects to the address of the host's name, which is the loopback device.
    _connect(first, setting.workers, GLOO_SOCKET_IFNAME="eth0")
    trainer = RayTrain(setting, first)
    return trainer.run, lambda _=0: trainer.close(), {}


_CONTENDERS: dict[str, Any] = {
    "nanograd": _nanograd,
    "pytorch-ddp": _ddp,
    "ray-train": _ray_train,
}


def _connect(first: str, num_workers: int, **environment: str) -> None:
    import ray

    ray.init(
        address=f"{first}:{_RAY_PORT}",
        runtime_env={"env_vars": environment},
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    while ray.cluster_resources().get("CPU", 0) < num_workers:  # type: ignore[no-untyped-call]
        sleep(0.2)  # Ray has no event for this


def _constants(recipe: Recipe, digits: Dataset) -> dict[str, float]:
    """Measure a worker's seconds per image and the server's seconds per round, in this process."""
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
        server.submit(sent)
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
    main(Setting(**json.loads(sys.argv[1])), sys.argv[2], int(sys.argv[3]))
