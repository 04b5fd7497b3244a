"""PyTorch in one process with some threads; the basis of every other PyTorch contender.

It is what an experienced user would write: images as one float32 tensor in memory, one permutation
per epoch, batches by index, the fused optimizer, no DataLoader.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from contenders.base import (
    AVERAGE_DECAY,
    WARM_UP,
    Setting,
    load_images,
    share,
    standardised,
)

Wrap = Callable[[nn.Module], nn.Module]


def make_net(hidden: int) -> nn.Sequential:
    """Return a 784 - H - 10 net with ReLU."""
    return nn.Sequential(nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 10))


class Pytorch:
    """A net, its optimizer and a share of the images.

    Args:
        setting: the training.
        rank: index of this process's share of the images and of each batch.
        workers: number of shares.
        wrap: converts the net of one process to a net that several processes train.
    """

    def __init__(
        self, setting: Setting, rank: int = 0, workers: int = 1, wrap: Wrap = lambda net: net
    ) -> None:
        torch.set_num_threads(setting.threads)
        mnist = load_images(setting)
        images, labels = share(mnist, rank, workers)
        self._images, self._labels = torch.from_numpy(images), torch.from_numpy(labels).long()
        self._test = torch.from_numpy(standardised(mnist.test.images))
        self._test_labels = torch.from_numpy(mnist.test.labels.copy())
        self._batch = setting.batch // workers
        self._setting, self._wrap, self._workers = setting, wrap, workers
        self.reset(setting.seed)

    def reset(self, seed: int) -> None:
        """Start over."""
        torch.manual_seed(seed)
        self._plain = make_net(self._setting.hidden)
        self._net = self._wrap(self._plain)
        self._step, self._place = 0, len(self._images)
        parameters = list(self._net.parameters())
        self._average = [each.detach().clone() for each in parameters]
        self._optimizer: torch.optim.Optimizer
        if self._setting.recipe == "adam":
            self._optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
        else:
            rate = 0.25 if self._setting.recipe == "averaged" else 0.1
            self._optimizer = torch.optim.SGD(parameters, lr=rate, momentum=0.9, fused=True)

    def run(self, rounds: int) -> int:
        """Train for some rounds, and return the number of images over all processes."""
        for _ in range(rounds):
            images, labels = self._next()
            self._optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(self._net(images), labels).backward()
            self._update()
        return rounds * self._batch * self._workers

    def accuracy(self) -> float:
        """Return the accuracy on the test images, with the averaged weights if available."""
        net = make_net(self._setting.hidden)
        weights = self._average if self._setting.recipe == "averaged" else self._plain.parameters()
        with torch.no_grad():
            for mine, theirs in zip(net.parameters(), weights, strict=True):
                mine.copy_(theirs)
            correct = net(self._test).argmax(1) == self._test_labels
        return float(correct.float().mean())

    def close(self) -> None:
        """Do nothing."""

    def _next(self) -> tuple[Tensor, Tensor]:
        if self._place + self._batch > len(self._images):
            self._order, self._place = torch.randperm(len(self._images)), 0
        index = self._order[self._place : self._place + self._batch]
        self._place += self._batch
        return self._images[index], self._labels[index]

    def _update(self) -> None:
        self._step += 1
        if self._setting.recipe != "averaged":
            self._optimizer.step()
            return
        for group in self._optimizer.param_groups:
            group["lr"] = 0.25 * min(1.0, self._step / WARM_UP)
        self._optimizer.step()
        decay = min(AVERAGE_DECAY, self._step / (self._step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self._average, list(self._net.parameters()), 1 - decay)
