"""Ray Train's TorchTrainer: PyTorch DDP in workers started by Ray."""

import tempfile
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
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting.workers)
        self._session = session(None, setting.workers)
        self._session.__enter__()
        self._place = tempfile.TemporaryDirectory()
        trainer = TorchTrainer(
            _loop,
            train_loop_config={"setting": vars(setting), "address": self.address},
            scaling_config=ray.train.ScalingConfig(num_workers=setting.workers),
            run_config=ray.train.RunConfig(storage_path=self._place.name),
        )
        self._thread = Thread(target=trainer.fit)
        self._thread.start()
        self.accept()

    def close(self) -> None:
        """End the loops and Ray."""
        super().close()
        self._thread.join()
        self._session.__exit__(None, None, None)
        self._place.cleanup()


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
