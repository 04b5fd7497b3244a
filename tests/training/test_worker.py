from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import pytest

from nanograd.digits.augment import Distortion
from nanograd.digits.dataset import Dataset
from nanograd.nn.mlp import Params, init_params, one_hot
from nanograd.nn.optimizers import Vector
from nanograd.runtime import process
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.worker import Contribution, Worker
from tests.helpers.gradients import loss_and_gradients
from tests.helpers.models import prepare
from tests.helpers.runs import noise

SETTINGS = {
    "hidden": 7, "activation": "tanh", "loss": "cross_entropy", "pixels": "unit",
    **asdict(Distortion()),
}  # fmt: skip
DESKEWED = {"pixels": "deskewed", "deskew": "before"}
DISTORTED = {**DESKEWED, "elastic": 1.0, "rotation": 8.0, "shift": 0.5, "stroke": 0.5}
NUM_IMAGES = 193


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with process.one_thread():
        yield


def recipe_for(num_images: int = NUM_IMAGES, **settings: object) -> Recipe:
    layers = {**SETTINGS, "shards": 5, "batch_size": 64}, settings
    return make_recipe(TrainSpec.resolve(*layers), num_images)


def worker_for(recipe: Recipe, digits: Dataset, shards: set[int] | range) -> Worker:
    plan = recipe.plan
    return Worker(recipe, {s: digits.take(plan.shard_slice(s)) for s in shards})


def start_of(recipe: Recipe) -> Vector:
    vector = init_params(recipe.architecture, 5).vector
    vector.flags.writeable = False
    return vector


def bits(contributions: list[Contribution]) -> list[tuple[object, ...]]:
    return [(c.round, c.node, c.loss, c.num_images, c.gradient.tobytes()) for c in contributions]


@pytest.mark.parametrize("settings", [{}, DESKEWED], ids=["unit", "deskewed"])
def test_contribution_is_the_sum_over_the_images_of_the_plan(settings):
    recipe, digits = recipe_for(**settings), noise(NUM_IMAGES)
    plan, shard, round_ = recipe.plan, 3, 5

    (contribution,) = worker_for(recipe, digits, {shard}).contribute(round_, start_of(recipe))

    order = plan.order(round_ // plan.rounds_per_epoch, shard)[plan.micro_batch(round_, shard)]
    batch = digits.take(order + plan.shard_slice(shard).start)
    loss, gradient = loss_and_gradients(
        Params(start_of(recipe), recipe.architecture),
        prepare(recipe.preparation, batch.images),
        one_hot(batch.labels, 10),
    )
    assert contribution.num_images == len(batch)
    assert contribution.loss == loss
    np.testing.assert_array_equal(contribution.gradient, gradient.vector)


@pytest.mark.parametrize("settings", [{}, DISTORTED], ids=["still", "distorted"])
@pytest.mark.parametrize("prepared", [5, 6, 7])
def test_earlier_rounds_and_inputs_made_ahead_change_no_bit(settings, prepared):
    recipe, digits = recipe_for(**settings), noise(NUM_IMAGES)
    vector, worker = start_of(recipe), worker_for(recipe, digits, {0, 1, 3})

    for round_ in (9, 0, 4, 4):
        worker.contribute(round_, vector)
    worker.prepare(prepared)
    actual = [worker.contribute(6, vector), worker.contribute(6, vector)]

    expected = worker_for(recipe, digits, {0, 1, 3}).contribute(6, vector)
    assert [bits(contributions) for contributions in actual] == [bits(expected)] * 2


def test_inputs_made_ahead_are_those_of_the_shards_it_holds_now():
    recipe, digits = recipe_for(**DISTORTED), noise(NUM_IMAGES)
    plan, vector, worker = recipe.plan, start_of(recipe), worker_for(recipe, digits, {1, 2})

    worker.prepare(6)
    # Another shard 2, so that what was made ahead would be wrong.
    others = {s: noise(400).take(slice(200, 393)).take(plan.shard_slice(s)) for s in (2, 4)}
    worker.hold(others)

    # A round in which a shard has no image.
    few = worker_for(recipe_for(9, shards=8, batch_size=8), noise(9), {0})
    assert [(c.num_images, c.loss, c.gradient.any()) for c in few.contribute(1, vector)] == [
        (0, 0.0, False)
    ]
    expected = Worker(recipe, others).contribute(6, vector)
    assert bits(worker.contribute(6, vector)) == bits(expected)


def test_the_same_image_is_distorted_otherwise_in_every_epoch():
    # A shard of one image, so that every round uses it.
    sizes = {"num_images": 5, "batch_size": 5}
    recipes = recipe_for(**sizes, **DESKEWED), recipe_for(**sizes, **DISTORTED)

    still, distorted = (
        [worker.contribute(round_, start_of(recipe))[0].gradient.tobytes() for round_ in range(3)]
        for recipe in recipes
        for worker in [worker_for(recipe, noise(5), {0})]
    )

    assert len(set(still)) == 1
    assert len({*still, *distorted}) == 4
