"""Groups in which only some workers can reach the memory of the server."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import ray.cloudpickle

from nanograd.digits.dataset import Dataset
from nanograd.distributed import members
from nanograd.distributed.actors import WorkerActor
from nanograd.distributed.group import RayGroup
from nanograd.distributed.shared_memory import MemoryAddress
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.server import Snapshot, first_snapshot
from tests.helpers.runs import bits, train_locally

# Actors cannot import this module, so its classes are pickled by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

ROUNDS = 20


class Far(WorkerActor):
    """A worker that may be far: only the first to attach to a memory reaches it.

    Each creates a file that is named after its kind, near or far, and its process.
    """

    folder = ""

    def attach(self, address: MemoryAddress) -> bool:
        try:
            Path(self.folder, str(address.token)).touch(exist_ok=False)
        except FileExistsError:
            Path(self.folder, f"far-{os.getpid()}").touch()
            self._memory = None
            return False
        Path(self.folder, f"near-{os.getpid()}").touch()
        return super().attach(address)


@pytest.fixture(scope="module")
def recipe(digits: Dataset) -> Recipe:
    return make_recipe(TrainSpec(batch_size=193, epochs=2, optimizer="adam"), len(digits))


@pytest.fixture(scope="module")
def undisturbed(recipe: Recipe, digits: Dataset) -> Snapshot:
    return train_locally(recipe, digits, ROUNDS)


@pytest.fixture
def group(
    ray_cpus: int, recipe: Recipe, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    monkeypatch.setattr(members, "WorkerActor", type("Some", (Far,), {"folder": str(tmp_path)}))
    group = RayGroup(recipe, digits, first_snapshot(recipe), num_workers=3)
    yield group
    group.close()


def pids(folder: Path, which: str) -> set[int]:
    return {int(file.name.removeprefix(f"{which}-")) for file in folder.glob(f"{which}-*")}


def test_near_and_far_workers_share_a_round_and_give_the_same_bits(
    group: RayGroup, undisturbed: Snapshot, tmp_path: Path
) -> None:
    group.advance(ROUNDS)

    assert bits(group.snapshot()) == bits(undisturbed)
    assert (len(pids(tmp_path, "near")), len(pids(tmp_path, "far"))) == (1, 2)


@pytest.mark.parametrize("which", ["near", "far"])
def test_a_killed_worker_of_either_kind_changes_no_bit(
    group: RayGroup, undisturbed: Snapshot, tmp_path: Path, which: str
) -> None:
    group.advance(7)
    os.kill(pids(tmp_path, which).pop(), signal.SIGKILL)
    group.advance(ROUNDS)

    assert bits(group.snapshot()) == bits(undisturbed)
