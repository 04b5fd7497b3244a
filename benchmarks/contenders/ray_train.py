"""Ray Train's TorchTrainer: PyTorch DDP in workers started by Ray."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Any

import ray.train
import torch
from ray.train.torch import TorchTrainer, prepare_model

from contenders.base import Setting
from contenders.pytorch import Pytorch
from contenders.ranks import Ranks, serve
from nanograd.distributed.cluster import session


class RayTrain(Ranks):
    """A contender that runs `fit` in a thread and controls its training loops.

    Args:
        setting: the training.
        host: address of this host in an already connected cluster; None to start Ray here.
    """

    def __init__(self, setting: Setting, host: str | None = None) -> None:
        super().__init__(setting.workers, host or "127.0.0.1")
        self._stack = ExitStack()
        if host is None:
            self._stack.enter_context(session(None, setting.workers))
        # Ray Train needs a folder that all hosts share; in a cluster, the working directory is one.
        place = tempfile.TemporaryDirectory(dir=None if host is None else ".")
        storage = str(Path(self._stack.enter_context(place)).resolve())
        trainer = TorchTrainer(
            _loop,
            train_loop_config={"setting": vars(setting), "address": self.address},
            scaling_config=ray.train.ScalingConfig(
                num_workers=setting.workers,
                resources_per_worker=None if host is None else {"CPU": 0, "train": 1},
            ),
            run_config=ray.train.RunConfig(storage_path=storage),
        )
        self._thread = Thread(target=trainer.fit)
        self._thread.start()
        self.accept()

    def close(self) -> None:
        """End the loops and Ray."""
        super().close()
        self._thread.join()
        self._stack.close()


def _loop(config: dict[str, Any]) -> None:
    context = ray.train.get_context()

    def wrap(net: torch.nn.Module) -> torch.nn.Module:
        kwargs = {"gradient_as_bucket_view": True, "broadcast_buffers": False}
        wrapped: torch.nn.Module = prepare_model(net, parallel_strategy_kwargs=kwargs)
        return wrapped

    setting = Setting(**config["setting"])
    serve(
        Pytorch(setting, context.get_world_rank(), context.get_world_size(), wrap),
        config["address"],
    )
