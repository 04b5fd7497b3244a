"""PyTorch DistributedDataParallel over gloo: one process per worker, one thread each."""

import os
import socket
from multiprocessing import get_context

from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from contenders.base import Setting
from contenders.pytorch import Pytorch
from contenders.ranks import Ranks, serve


class Ddp(Ranks):
    """A contender whose ranks are processes.

    Args:
        setting: the training.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting.workers)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = get_context("spawn")
        self._processes = [
            context.Process(target=_rank, args=(setting, rank, port, self.address), daemon=True)
            for rank in range(setting.workers)
        ]
        for process in self._processes:
            process.start()
        self.accept()

    def close(self) -> None:
        """End the ranks."""
        super().close()
        for process in self._processes:
            process.join()


def wrap(net: nn.Module) -> nn.Module:
    """Wrap a net to average its gradients over all ranks, without avoidable copies."""
    return DistributedDataParallel(net, gradient_as_bucket_view=True, broadcast_buffers=False)


def _rank(setting: Setting, rank: int, port: int, address: tuple[str, int]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=setting.workers
    )
    serve(Pytorch(setting, rank, setting.workers, wrap), address)
    distributed.destroy_process_group()
