import numpy as np
import pytest

from nanograd.commands import make_recipe
from nanograd.config.train_config import TrainConfig
from nanograd.data.dataset import Dataset
from nanograd.distributed import servers
from nanograd.distributed.group import RayGroup
from nanograd.errors import ClusterError, DivergedError
from nanograd.training.local import LocalGroup
from nanograd.training.recipe import Recipe
from nanograd.training.server import Snapshot, first_snapshot

ROUNDS = 7


def recipe_for(digits: Dataset, **settings: object) -> Recipe:
    return make_recipe(TrainConfig.resolve({"batch_size": 193, **settings}), len(digits))


def snapshot_after(group: LocalGroup | RayGroup, rounds: int) -> Snapshot:
    try:
        group.advance(rounds)
        return group.snapshot()
    finally:
        group.close()


@pytest.mark.parametrize("num_workers", [1, 2, 3, 4])
def test_any_number_of_workers_gives_the_bits_of_the_local_group(
    ray_cpus: int, digits: Dataset, num_workers: int
) -> None:
    recipe = recipe_for(digits, optimizer="adam")
    start = first_snapshot(recipe)

    expected = snapshot_after(LocalGroup(recipe, digits, start), ROUNDS)
    actual = snapshot_after(RayGroup(recipe, digits, start, num_workers=num_workers), ROUNDS)

    assert actual.round == expected.round == ROUNDS
    np.testing.assert_array_equal(actual.vector, expected.vector)
    np.testing.assert_array_equal(actual.average, expected.average)
    np.testing.assert_array_equal(actual.state["square"], expected.state["square"])


def test_a_new_group_goes_on_from_a_snapshot_with_the_same_bits(
    ray_cpus: int, digits: Dataset
) -> None:
    recipe = recipe_for(digits)
    start = first_snapshot(recipe)

    middle = snapshot_after(RayGroup(recipe, digits, start, num_workers=2), 3)
    end = snapshot_after(RayGroup(recipe, digits, middle, num_workers=3), ROUNDS)

    expected = snapshot_after(LocalGroup(recipe, digits, start), ROUNDS)
    np.testing.assert_array_equal(end.vector, expected.vector)


def test_progress_counts_loss_and_images_as_the_local_group_does(
    ray_cpus: int, digits: Dataset
) -> None:
    recipe = recipe_for(digits)
    local = LocalGroup(recipe, digits, first_snapshot(recipe))
    remote = RayGroup(recipe, digits, first_snapshot(recipe), num_workers=2)

    local.advance(ROUNDS)
    remote.advance(ROUNDS)
    actual = remote.snapshot().progress
    remote.close()

    assert actual.num_images > 0
    assert actual == local.snapshot().progress


def test_server_that_does_not_start_in_time_is_no_bug_of_ours(
    ray_cpus: int, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "START_TIMEOUT_S", 0.001)
    recipe = recipe_for(digits)

    with pytest.raises(ClusterError, match=r"the parameter server did not start .*`ray status`"):
        RayGroup(recipe, digits, first_snapshot(recipe), num_workers=1)


def test_divergence_in_the_server_actor_reaches_the_driver(ray_cpus: int, digits: Dataset) -> None:
    recipe = recipe_for(digits, learning_rate=1e30, optimizer="sgd", warmup=0)
    group = RayGroup(recipe, digits, first_snapshot(recipe), num_workers=2)

    with pytest.raises(DivergedError, match="round 0"):
        snapshot_after(group, ROUNDS)


@pytest.mark.parametrize("shared_memory", [True, False])
def test_calls_and_shared_memory_carry_the_same_bits(
    ray_cpus: int, digits: Dataset, shared_memory: bool
) -> None:
    recipe = recipe_for(digits, shards=5, pixels="deslanted", elastic=1.0, rotation=8.0, stroke=0.5)
    start = first_snapshot(recipe)

    group = RayGroup(recipe, digits, start, num_workers=3, shared_memory=shared_memory)
    actual = snapshot_after(group, ROUNDS)

    expected = snapshot_after(LocalGroup(recipe, digits, start), ROUNDS)
    np.testing.assert_array_equal(actual.vector, expected.vector)
