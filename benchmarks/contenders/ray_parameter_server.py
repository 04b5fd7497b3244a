"""The parameter server of Ray's documentation: actor calls, gradients as lists of numpy arrays.

References:
    Ray documentation, "Parameter Server" example, synchronous version, with this net, this
    optimizer and images in memory instead of its own.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch import nn

from contenders.base import Setting
from contenders.pytorch import Pytorch, make_net
from nanograd.distributed.cluster import session

Gradients = list[NDArray[np.float32]]
Weights = dict[str, torch.Tensor]

# As in the documented example, which waits every tenth round to evaluate.
_WAIT_EVERY = 10


class _Server:
    def __init__(self, setting: Setting) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(setting.seed)
        self._net = make_net(setting.hidden)
        parameters = list(self._net.parameters())
        self._optimizer: torch.optim.Optimizer
        if setting.recipe == "adam":
            self._optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
        else:
            self._optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True)

    def apply_gradients(self, *gradients: Gradients) -> Weights:
        # Compute the mean, like the other contenders; the documented example computes the sum.
        means = [np.stack(each).mean(axis=0) for each in zip(*gradients, strict=True)]
        self._optimizer.zero_grad()
        for parameter, gradient in zip(self._net.parameters(), means, strict=True):
            parameter.grad = torch.from_numpy(gradient)
        self._optimizer.step()
        return self.get_weights()

    def get_weights(self) -> Weights:
        return {name: value.cpu() for name, value in self._net.state_dict().items()}


class _Worker(Pytorch):
    def compute_gradients(self, weights: Weights) -> Gradients:
        self._net.load_state_dict(weights)
        images, labels = self._next()
        self._net.zero_grad()
        nn.functional.cross_entropy(self._net(images), labels).backward()
        gradients = [each.grad for each in self._net.parameters()]
        return [each.numpy() for each in gradients if each is not None]

    def accuracy_of(self, weights: Weights) -> float:
        self._net.load_state_dict(weights)
        return self.accuracy()

    def wait_until_ready(self) -> None:
        """Return once the images are loaded."""


class RayParameterServer:
    """Actors as documented, and the loop that drives them.

    Args:
        setting: the training.
        wait_every: rounds between two waits of the driver for the parameters.
    """

    def __init__(self, setting: Setting, wait_every: int = _WAIT_EVERY) -> None:
        self._setting, self._wait_every = setting, wait_every
        self._session = session(None, setting.workers)
        self._session.__enter__()
        worker: Any = ray.remote(num_cpus=1)(_Worker)
        self._workers = [
            worker.remote(setting, rank, setting.workers) for rank in range(setting.workers)
        ]
        ray.get([each.wait_until_ready.remote() for each in self._workers])
        self.reset(setting.seed)

    def reset(self, seed: int) -> None:
        """Start over."""
        server: Any = ray.remote(num_cpus=0)(_Server)
        self._server = server.remote(replace(self._setting, seed=seed))
        self._weights = self._server.get_weights.remote()
        ray.get(self._weights)

    def run(self, rounds: int) -> int:
        """Train for some rounds, and return the number of images."""
        for round_ in range(rounds):
            sent = [each.compute_gradients.remote(self._weights) for each in self._workers]
            self._weights = self._server.apply_gradients.remote(*sent)
            if round_ % self._wait_every == 0:
                ray.get(self._weights)
        ray.get(self._weights)
        return rounds * (self._setting.batch // len(self._workers)) * len(self._workers)

    def accuracy(self) -> float:
        """Return the accuracy on the test images."""
        return float(ray.get(self._workers[0].accuracy_of.remote(self._weights)))

    def close(self) -> None:
        """End the actors and Ray."""
        self._session.__exit__(None, None, None)
