from dataclasses import replace

import numpy as np
import pytest

from nanograd.errors import DivergedError
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.server import LossSum, ParameterServer, Refusal, first_snapshot, split
from nanograd.training.worker import Contribution
from tests.helpers.runs import bits

NUM_IMAGES = 193
SETTINGS = {
    "hidden": 7, "shards": 8, "batch_size": 64, "epochs": 3, "optimizer": "sgd",
    "learning_rate": 0.5, "schedule": "constant", "warmup": 0, "ema": 0.0,
}  # fmt: skip


def recipe_for(num_images: int = NUM_IMAGES, **settings: object) -> Recipe:
    return make_recipe(TrainSpec.resolve(SETTINGS, settings), num_images)


def server_for(recipe: Recipe) -> ParameterServer:
    return ParameterServer(recipe, first_snapshot(recipe))


def planned(recipe: Recipe, first: int, end: int, round_: int = 0) -> int:
    parts = [recipe.plan.micro_batch(round_, shard) for shard in range(first, end)]
    return sum(part.stop - part.start for part in parts)


def contribution(
    recipe: Recipe, first: int, end: int, value: float = 1.0, round_: int = 0
) -> Contribution:
    """Return a contribution whose gradient is the same number everywhere."""
    gradient = np.full(recipe.architecture.num_parameters, value, np.float32)
    num_images = planned(recipe, first, end, round_)
    return Contribution(round_, (first, end), gradient, value, num_images)


def test_update_divides_by_the_number_of_images_of_the_round():
    recipe = recipe_for(num_images=4, shards=3)  # shards of 1, 1 and 2 images
    server = server_for(recipe)
    start = server.snapshot().vector

    values = enumerate((1.0, 2.0, 5.0))
    server.submit([contribution(recipe, shard, shard + 1, value) for shard, value in values])

    after = server.snapshot().vector
    expected = start - np.float32(0.5 * (1 + 2 + 5) / 4)
    mean_of_means = start - np.float32(0.5 * (1 / 1 + 2 / 1 + 5 / 2) / 3)
    np.testing.assert_array_equal(after, expected)
    assert not np.allclose(after, mean_of_means, rtol=1e-3, atol=0)
    assert server.snapshot().progress == LossSum(loss=8.0, num_images=4)


def test_rate_of_each_round_comes_from_the_schedule():
    recipe = recipe_for(shards=1, schedule="cosine", warmup=3)
    server = server_for(recipe)

    for round_ in range(recipe.num_rounds):
        before = server.snapshot().vector
        server.submit([contribution(recipe, 0, 1, planned(recipe, 0, 1, round_), round_)])
        step = before - server.snapshot().vector

        np.testing.assert_allclose(step, recipe.make_schedule()(round_), rtol=1e-3, atol=1e-7)


def test_server_goes_on_from_a_snapshot_which_is_a_copy_with_the_same_bits():
    recipe = recipe_for(optimizer="adam", ema=0.9)
    start, first = first_snapshot(recipe), server_for(recipe)
    assert bits(start) == bits(first.snapshot()) != bits(first_snapshot(recipe_for(seed=1)))
    for round_ in range(3):
        first.submit([contribution(recipe, 0, 8, round_=round_)])
    with pytest.raises(ValueError, match="read-only"):
        first.parameters()[0] = 7

    taken = first.snapshot()
    second = ParameterServer(recipe, taken)
    for vector in taken.arrays.values():
        vector[:] = 7
    for server in (first, second):
        server.submit([contribution(recipe, 0, 8, round_=3)])

    assert bits(second.snapshot()) == bits(first.snapshot())


BAD_GRADIENT = np.zeros(7 * 785 + 10 * 8, np.float32)  # of a net of 784-7-10
BAD_GRADIENT[-1] = np.inf
BAD: dict[str, tuple[Refusal, dict[str, object]]] = {
    "gradient": (Refusal.NOT_FINITE, {"gradient": BAD_GRADIENT}),
    "negative gradient": (Refusal.NOT_FINITE, {"gradient": -BAD_GRADIENT}),
    "gradient not a number": (Refusal.NOT_FINITE, {"gradient": np.full_like(BAD_GRADIENT, np.nan)}),
    "loss not a number": (Refusal.NOT_FINITE, {"loss": float("nan")}),
    "too few images": (Refusal.WRONG_COUNT, {"num_images": 0}),
    "too many images": (Refusal.WRONG_COUNT, {"num_images": 10**6}),
}


@pytest.mark.parametrize(("reason", "fields"), BAD.values(), ids=BAD.keys())
def test_round_with_a_bad_contribution_is_refused_without_effect(reason, fields):
    recipe = recipe_for(shards=4, optimizer="momentum", ema=0.9)
    server, undisturbed = server_for(recipe), server_for(recipe)
    before = bits(server.snapshot())
    good = [contribution(recipe, shard, shard + 1) for shard in range(4)]

    for faulty in range(4):
        bad = [replace(each, **fields) if each is good[faulty] else each for each in good]
        assert server.submit(bad) is reason
        assert bits(server.snapshot()) == before

    for each in (server, undisturbed):
        assert each.submit(good) is None
    assert bits(server.snapshot()) == bits(undisturbed.snapshot())


@pytest.mark.parametrize(("shards", "rate", "value"), [(2, 0.5, 3e38), (1, 1e18, 1e17)])
def test_sum_or_update_beyond_the_finite_numbers_is_divergence(shards, rate, value):
    recipe = recipe_for(shards=shards, learning_rate=rate)
    finite = [contribution(recipe, shard, shard + 1, value) for shard in range(shards)]

    with pytest.raises(DivergedError, match="round 0"):
        server_for(recipe).submit(finite)


@pytest.mark.parametrize("num_parameters", [1, 7, 193, 159_010])
@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_ranges_of_parameters_cover_each_parameter_once(num_parameters, number):
    parts = split(num_parameters, number)

    places = [place for part in parts for place in range(num_parameters)[part]]
    assert places == list(range(num_parameters))
    assert all(part.start % 16 == 0 for part in parts)
