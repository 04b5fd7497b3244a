from collections.abc import Collection, Iterable, Mapping

import numpy as np
import pytest

from nanograd.runtime import process
from nanograd.settings.train_spec import PRESETS, TrainSpec
from nanograd.training.local import assign_shards
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.server import ParameterServer, Snapshot, first_snapshot
from nanograd.training.worker import Worker
from tests.helpers import runs
from tests.helpers.runs import bits

NUM_IMAGES = 193
SETTINGS = {
    **runs.SETTINGS, "shift": 0.0, "hidden": 7, "activation": "tanh", "learning_rate": 0.001,
    "shards": 8, "epochs": 3, "cool_down": 0.0, "ema": 0.9,
}  # fmt: skip
DISTORTION = {
    "elastic": 1.2, "rotation": 8.0, "scaling": 0.15, "shear": 0.1, "shift": 0.7, "stroke": 0.5,
}  # fmt: skip
COOLING = {"cool_down": 0.5}
Settings = Mapping[str, object]
RUNS: dict[str, tuple[Settings, Settings]] = {
    **{
        f"{name}, {shards} shards": (SETTINGS, {"shift": 1.0, "optimizer": name, "shards": shards})
        for name in ("sgd", "momentum", "adam")
        for shards in (7, 8)
    },
    **{
        f"deskewed {when}": (
            SETTINGS,
            {"pixels": "deskewed", "deskew": when, **DISTORTION, **COOLING},
        )
        for when in ("before", "after")
    },
    "accurate preset": (
        PRESETS["accurate"],
        {"epochs": 2, "least_rounds": 0, "batch_size": 64, "shards": 4, "warmup": 2},
    ),
}


def recipe_for(*layers: Settings) -> Recipe:
    return make_recipe(TrainSpec.resolve(*layers), NUM_IMAGES)


@process.one_thread()
def trained(recipe: Recipe, owners: Iterable[Collection[int]], seed: int = 0) -> Snapshot:
    """Compute all rounds by workers with the given shards, arriving in random order."""
    digits, plan, generator = runs.noise(NUM_IMAGES), recipe.plan, np.random.default_rng(seed)
    workers = [
        Worker(recipe, {s: digits.take(plan.shard_slice(s)) for s in shards}) for shards in owners
    ]
    server = ParameterServer(recipe, first_snapshot(recipe))
    for round_ in range(recipe.num_rounds):
        contributions = [c for w in workers for c in w.contribute(round_, server.parameters())]
        order = generator.permutation(len(contributions))
        assert server.submit([contributions[index] for index in order]) is None
        assert server.round == round_ + 1
    return server.snapshot()


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param(layers, id=name, marks=[pytest.mark.long] * (name == "accurate preset"))
        for name, layers in RUNS.items()
    ],
)
def test_any_assignment_of_shards_to_workers_gives_the_same_bits(layers):
    recipe = recipe_for(*layers)
    num_shards = recipe.plan.num_shards
    even = [list(assign_shards(num_shards, size, range(size)).values()) for size in (2, num_shards)]
    random = [
        [np.flatnonzero(owners == rank).tolist() for rank in range(3)]
        for owners in np.random.default_rng(7).integers(0, 3, (2, num_shards))
    ]

    snapshots = [trained(recipe, owners, seed) for seed, owners in enumerate([*even, *random])]

    expected = bits(trained(recipe, [range(num_shards)]))
    assert [bits(snapshot) for snapshot in snapshots] == [expected] * 4


def test_cooling_down_changes_the_last_rounds_and_no_round_before_them():
    still, cooling = recipe_for(SETTINGS, DISTORTION), recipe_for(SETTINGS, DISTORTION, COOLING)
    rounds = range(still.num_rounds)
    first = still.num_rounds * 2 // 10

    same = [still.distortion_in(round_) == cooling.distortion_in(round_) for round_ in rounds]

    assert same == [round_ <= first for round_ in rounds]
    assert cooling.distortion_in(still.num_rounds) == still.distortion * 0.5
    assert bits(trained(still, [range(8)])) != bits(trained(cooling, [range(8)]))
