from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import pytest

from nanograd.commands import make_recipe
from nanograd.config.train_config import PRESETS, TrainConfig
from nanograd.data.dataset import Dataset
from nanograd.digits.augment import Distortion
from nanograd.runtime import process
from nanograd.training.local import shards_of
from nanograd.training.recipe import Recipe
from nanograd.training.server import LossSum, ParameterServer, Snapshot, first_snapshot
from nanograd.training.worker import Worker
from tests.helpers.runs import bits

NUM_IMAGES = 193
SETTINGS = {
    "hidden": 7,
    "shards": 8,
    "batch_size": 64,
    "epochs": 3,
    "learning_rate": 0.01,
    "schedule": "cosine",
    "warmup": 3,
    "pixels": "standard",
    **asdict(Distortion()),
    "shift": 1.0,
    "cool_down": 0.0,
    "upright": "before",
    "ema": 0.9,
}
DISTORTION = {
    "elastic": 1.2,
    "rotation": 8.0,
    "scaling": 0.15,
    "shear": 0.1,
    "shift": 0.7,
    "stroke": 0.5,
}
COOLING = {"cool_down": 0.5}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with process.one_thread():
        yield


def recipe_for(**settings: object) -> Recipe:
    return make_recipe(TrainConfig.resolve(SETTINGS, settings), NUM_IMAGES)


def some_digits() -> Dataset:
    generator = np.random.default_rng(7)
    images = generator.integers(0, 256, (NUM_IMAGES, 784)).astype(np.uint8)
    return Dataset(images, generator.integers(0, 10, NUM_IMAGES).astype(np.uint8))


def trained(recipe: Recipe, owners: list[list[int]], seed: int) -> tuple[Snapshot, LossSum]:
    """All rounds, computed by workers with the given shards, arriving in random order."""
    digits, plan, generator = some_digits(), recipe.plan, np.random.default_rng(seed)
    workers = [
        Worker(recipe, {s: digits.take(plan.shard_slice(s)) for s in shards}) for shards in owners
    ]
    server = ParameterServer(recipe, first_snapshot(recipe))
    for round_ in range(recipe.num_rounds):
        contributions = [c for w in workers for c in w.contribute(round_, server.parameters())]
        for index in generator.permutation(len(contributions)):
            assert server.submit(contributions[index]) is None
        assert server.round == round_ + 1
    return server.snapshot(), server.snapshot().progress


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("num_shards", [7, 8])
def test_any_number_of_workers_gives_the_same_bits(optimizer: str, num_shards: int) -> None:
    recipe = recipe_for(optimizer=optimizer, shards=num_shards)
    expected, progress = trained(recipe, [list(range(num_shards))], seed=0)

    for num_workers in (2, 3, 5, num_shards):
        owners = [list(shards_of(num_shards, r, num_workers)) for r in range(num_workers)]
        snapshot, figures = trained(recipe, owners, seed=num_workers)

        assert bits(snapshot) == bits(expected)
        assert figures == progress


@pytest.mark.parametrize("upright", ["before", "after"])
def test_distorted_and_deslanted_images_give_the_same_bits_too(upright: str) -> None:
    recipe = recipe_for(pixels="deslanted", upright=upright, **DISTORTION, **COOLING)
    expected, progress = trained(recipe, [list(range(8))], seed=0)

    for num_workers in (2, 3, 4):
        owners = [list(shards_of(8, r, num_workers)) for r in range(num_workers)]
        snapshot, figures = trained(recipe, owners, seed=num_workers)

        assert bits(snapshot) == bits(expected)
        assert figures == progress


def test_accurate_preset_gives_the_same_bits_with_any_number_of_workers() -> None:
    few = {"epochs": 2, "least_rounds": 0, "batch_size": 64, "warmup": 2}
    recipe = make_recipe(TrainConfig.resolve(PRESETS["accurate"], few), NUM_IMAGES)
    expected, progress = trained(recipe, [[0, 1, 2, 3]], seed=0)

    for num_workers in (2, 4):
        owners = [list(shards_of(4, r, num_workers)) for r in range(num_workers)]
        snapshot, figures = trained(recipe, owners, seed=num_workers)

        assert bits(snapshot) == bits(expected)
        assert figures == progress


def test_cooling_down_changes_the_last_rounds_and_no_round_before_them() -> None:
    still, cooling = recipe_for(**DISTORTION), recipe_for(**DISTORTION, **COOLING)
    rounds = range(still.num_rounds)
    first = still.num_rounds * 2 // 10

    same = [still.distortion_in(round_) == cooling.distortion_in(round_) for round_ in rounds]

    assert same == [round_ <= first for round_ in rounds]
    assert cooling.distortion_in(still.num_rounds) == still.distortion * 0.5
    results = [trained(recipe, [list(range(8))], seed=0)[0] for recipe in (still, cooling)]
    assert bits(results[0]) != bits(results[1])


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"pixels": "deslanted"},
        {"pixels": "deslanted", "upright": "after"},
        *({k: v} for k, v in DISTORTION.items()),
    ],
)
def test_every_distortion_changes_the_result(setting: dict[str, object]) -> None:
    still = recipe_for(shift=0.0, epochs=1)
    results = [trained(still, [list(range(8))], seed=0)]

    recipe = recipe_for(**{"shift": 0.0, "epochs": 1, **setting})
    results.append(trained(recipe, [list(range(8))], seed=0))

    assert (bits(results[0][0]) == bits(results[1][0])) == (not setting)


@pytest.mark.parametrize("seed", range(3))
def test_any_shards_of_any_worker_give_the_same_bits(seed: int) -> None:
    recipe = recipe_for(optimizer="adam")
    expected, _ = trained(recipe, [list(range(8))], seed=0)

    owner = np.random.default_rng(seed).integers(0, 3, 8)
    snapshot, _ = trained(recipe, [np.flatnonzero(owner == w).tolist() for w in range(3)], seed)

    assert bits(snapshot) == bits(expected)
