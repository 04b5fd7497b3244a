"""A gradient with NaN: the first one is a fault of the worker, the second one divergence."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
import ray.cloudpickle

from nanograd.digits.dataset import Dataset
from nanograd.distributed import members
from nanograd.distributed.actors import WorkerActor
from nanograd.distributed.group import RayGroup
from nanograd.errors import DivergedError
from nanograd.nn.optimizers import Vector
from nanograd.runtime.events import Event, RoundRetried
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.server import first_snapshot
from nanograd.training.tree import TreeNode
from nanograd.training.worker import Contribution
from tests.helpers.runs import bits, train_locally

# Actors cannot import this module, so its classes are pickled by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

ROUNDS = 20


class NanAtRoundNine(WorkerActor):
    """A worker whose gradient of round 9 has a NaN, until the folder holds `most` files."""

    folder = ""
    most = 1

    def sum_node(self, round_: int, node: TreeNode, vector: Vector, out: Vector) -> Contribution:
        done = super().sum_node(round_, node, vector, out)
        if round_ == 9 and len(os.listdir(self.folder)) < self.most:  # noqa: PTH208
            Path(self.folder, f"{os.getpid()}-{node}").touch()
            out[7] = np.nan
        return done


@pytest.fixture(scope="module")
def recipe(digits: Dataset) -> Recipe:
    return make_recipe(TrainSpec(batch_size=193, epochs=2), len(digits))


def faulty(monkeypatch: pytest.MonkeyPatch, folder: Path, most: int) -> None:
    wrapped = type("Faulty", (NanAtRoundNine,), {"folder": str(folder), "most": most})
    monkeypatch.setattr(members, "WorkerActor", wrapped)


@pytest.mark.parametrize("shared_memory", [True, False])
def test_one_bad_gradient_is_refused_and_computed_again_to_the_same_bits(
    ray_cpus: int,
    digits: Dataset,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shared_memory: bool,
) -> None:
    faulty(monkeypatch, tmp_path, most=1)
    events: list[Event] = []
    start = first_snapshot(recipe)
    group = RayGroup(
        recipe, digits, start, num_workers=2, listener=events.append, shared_memory=shared_memory
    )
    group.advance(ROUNDS)
    actual = group.snapshot()
    group.close()

    assert bits(actual) == bits(train_locally(recipe, digits, ROUNDS))
    assert [event.round for event in events if isinstance(event, RoundRetried)] == [9]


def test_a_gradient_that_is_bad_again_is_divergence(
    ray_cpus: int,
    digits: Dataset,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faulty(monkeypatch, tmp_path, most=10**6)
    group = RayGroup(recipe, digits, first_snapshot(recipe), num_workers=2)

    with pytest.raises(DivergedError, match=r"round 9: .*computed twice"):
        group.advance(ROUNDS)

    group.close()
