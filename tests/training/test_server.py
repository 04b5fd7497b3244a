from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from nanograd.commands import make_recipe
from nanograd.config.train_config import TrainConfig
from nanograd.errors import DivergedError
from nanograd.runtime import process
from nanograd.training.recipe import Recipe
from nanograd.training.server import (
    LossSum,
    ParameterServer,
    Refusal,
    RefusalReason,
    first_snapshot,
)
from nanograd.training.worker import Contribution
from tests.helpers.runs import bits

NUM_IMAGES = 193
SETTINGS = {
    "hidden": 7,
    "shards": 8,
    "batch_size": 64,
    "epochs": 3,
    "optimizer": "sgd",
    "learning_rate": 0.5,
    "schedule": "constant",
    "warmup": 0,
    "ema": 0.0,
}
Change = Callable[[Contribution], Contribution]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with process.one_thread():
        yield


def recipe_for(num_images: int = NUM_IMAGES, **settings: object) -> Recipe:
    return make_recipe(TrainConfig.resolve(SETTINGS, settings), num_images)


def server_for(recipe: Recipe) -> ParameterServer:
    return ParameterServer(recipe, first_snapshot(recipe))


def planned(recipe: Recipe, first: int, end: int, round_: int = 0) -> int:
    """How many images the shards have in a round."""
    parts = [recipe.plan.micro_batch(round_, shard) for shard in range(first, end)]
    return sum(part.stop - part.start for part in parts)


def sent(recipe: Recipe, first: int, end: int, value: float = 1.0, round_: int = 0) -> Contribution:
    """A contribution whose gradient is the same number everywhere."""
    return Contribution(
        round=round_,
        node=(first, end),
        gradient=np.full(recipe.architecture.num_parameters, value, np.float32),
        loss=value,
        num_images=planned(recipe, first, end, round_),
    )


def test_update_divides_by_the_number_of_images_of_the_round() -> None:
    recipe = recipe_for(num_images=4, shards=3)  # shards of 1, 1 and 2 images
    server = server_for(recipe)
    start = server.snapshot().vector

    for shard, value in enumerate((1.0, 2.0, 5.0)):
        server.submit(sent(recipe, shard, shard + 1, value))

    after = server.snapshot().vector
    expected = start - np.float32(0.5 * (1 + 2 + 5) / 4)
    mean_of_means = start - np.float32(0.5 * (1 / 1 + 2 / 1 + 5 / 2) / 3)
    assert after.dtype == np.float32
    np.testing.assert_array_equal(after, expected)
    assert not np.allclose(after, mean_of_means, rtol=1e-3, atol=0)
    assert server.snapshot().progress == LossSum(loss=8.0, num_images=4)


def test_rate_of_each_round_comes_from_the_schedule() -> None:
    recipe = recipe_for(shards=1, schedule="cosine", warmup=3)
    server = server_for(recipe)

    for round_ in range(recipe.num_rounds):
        before = server.snapshot().vector
        server.submit(sent(recipe, 0, 1, planned(recipe, 0, 1, round_), round_))
        step = before - server.snapshot().vector

        assert step.dtype == np.float32
        np.testing.assert_allclose(step, recipe.make_schedule()(round_), rtol=1e-3, atol=1e-7)


def test_round_waits_for_every_shard() -> None:
    recipe = recipe_for()
    server = server_for(recipe)
    before = bits(server.snapshot())

    for first, end in ((4, 8), (0, 2), (3, 4)):
        assert server.submit(sent(recipe, first, end)) is None

    assert server.missing() == {2}
    assert bits(server.snapshot()) == before
    assert server.submit(sent(recipe, 2, 3)) is None
    assert server.round == 1
    assert server.missing() == set(range(8))


@pytest.mark.parametrize("halves", [[], [(0, 4)], [(4, 8)], [(0, 2), (3, 4), (4, 8)]])
def test_larger_node_replaces_its_parts_and_counts_once(halves: list[tuple[int, int]]) -> None:
    recipe = recipe_for()
    server = server_for(recipe)
    for first, end in halves:
        assert server.submit(sent(recipe, first, end, value=float(end - first))) is None

    assert server.submit(sent(recipe, 0, 8, value=8.0)) is None

    alone = server_for(recipe)
    alone.submit(sent(recipe, 0, 8, value=8.0))
    assert bits(server.snapshot()) == bits(alone.snapshot())
    assert server.snapshot().progress == LossSum(loss=8.0, num_images=planned(recipe, 0, 8))


MALFORMED: dict[str, tuple[Change, RefusalReason]] = {
    "an earlier round": (lambda c: replace(c, round=-1), RefusalReason.WRONG_ROUND),
    "a future round": (lambda c: replace(c, round=1), RefusalReason.WRONG_ROUND),
    "too long": (
        lambda c: replace(c, gradient=np.append(c.gradient, np.float32(0))),
        RefusalReason.WRONG_SHAPE,
    ),
    "another rank": (lambda c: replace(c, gradient=c.gradient[None]), RefusalReason.WRONG_SHAPE),
    "float64": (
        lambda c: replace(c, gradient=c.gradient.astype(np.float64)),
        RefusalReason.WRONG_SHAPE,
    ),
    "not a number": (
        lambda c: replace(c, gradient=np.append(c.gradient[1:], np.float32(np.nan))),
        RefusalReason.NOT_FINITE,
    ),
    "infinite": (
        lambda c: replace(c, gradient=np.append(c.gradient[1:], np.float32(-np.inf))),
        RefusalReason.NOT_FINITE,
    ),
    "loss not a number": (lambda c: replace(c, loss=float("nan")), RefusalReason.NOT_FINITE),
    "across nodes": (lambda c: replace(c, node=(1, 3)), RefusalReason.UNKNOWN_NODE),
    "two nodes": (lambda c: replace(c, node=(0, 6)), RefusalReason.UNKNOWN_NODE),
    "empty": (lambda c: replace(c, node=(2, 2)), RefusalReason.UNKNOWN_NODE),
    "backwards": (lambda c: replace(c, node=(4, 2)), RefusalReason.UNKNOWN_NODE),
    "outside": (lambda c: replace(c, node=(8, 9)), RefusalReason.UNKNOWN_NODE),
    "negative": (lambda c: replace(c, node=(-1, 1)), RefusalReason.UNKNOWN_NODE),
    "arrived": (lambda c: replace(c, node=(4, 8)), RefusalReason.REPEATED),
    "part arrived": (lambda c: replace(c, node=(6, 8)), RefusalReason.REPEATED),
    "too few images": (lambda c: replace(c, num_images=0), RefusalReason.WRONG_COUNT),
    "too many images": (lambda c: replace(c, num_images=10**6), RefusalReason.WRONG_COUNT),
}


@pytest.mark.parametrize(("change", "reason"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_contribution_is_refused_without_effect(
    change: Change, reason: RefusalReason
) -> None:
    recipe = recipe_for(optimizer="momentum", ema=0.9)
    server = server_for(recipe)
    server.submit(sent(recipe, 4, 8))
    before, missing = bits(server.snapshot()), server.missing()

    refusal = server.submit(change(sent(recipe, 0, 2)))

    assert refusal is not None
    assert refusal.reason is reason
    assert (bits(server.snapshot()), server.missing()) == (before, missing)
    assert server.submit(sent(recipe, 0, 4)) is None
    undisturbed = server_for(recipe)
    for first, end in ((4, 8), (0, 4)):
        undisturbed.submit(sent(recipe, first, end))
    assert bits(server.snapshot()) == bits(undisturbed.snapshot())


def test_repeated_round_is_refused_without_effect() -> None:
    recipe = recipe_for()
    server = server_for(recipe)
    server.submit(sent(recipe, 0, 8))
    before = bits(server.snapshot())

    refusal = server.submit(sent(recipe, 0, 8))

    assert refusal == Refusal(RefusalReason.WRONG_ROUND, "round 0 is not the current round 1")
    assert bits(server.snapshot()) == before


def test_server_goes_on_from_a_snapshot_with_the_same_bits() -> None:
    recipe = recipe_for(optimizer="adam", ema=0.9)
    first = server_for(recipe)
    for round_ in range(3):
        first.submit(sent(recipe, 0, 8, round_=round_))

    second = ParameterServer(recipe, first.snapshot())
    for server in (first, second):
        server.submit(sent(recipe, 0, 8, round_=3))

    assert bits(second.snapshot()) == bits(first.snapshot())


def test_snapshot_is_a_copy_and_parameters_are_read_only() -> None:
    recipe = recipe_for(optimizer="adam", ema=0.9)
    server = server_for(recipe)
    before = bits(server.snapshot())

    taken = server.snapshot()
    taken.vector[:] = 7
    taken.state["mean"][:] = 7

    assert bits(server.snapshot()) == before
    with pytest.raises(ValueError, match="read-only"):
        server.parameters()[0] = 7


def test_first_snapshot_is_the_average_too_and_follows_from_the_seed() -> None:
    recipe = recipe_for(ema=0.9)

    snapshot = first_snapshot(recipe)

    assert snapshot.round == 0
    assert snapshot.average is not None
    assert not np.shares_memory(snapshot.average, snapshot.vector)
    assert bits(snapshot) == bits(first_snapshot(recipe))
    assert bits(snapshot) != bits(first_snapshot(recipe_for(ema=0.9, seed=1)))


def test_progress_adds_up_the_rounds_of_an_epoch() -> None:
    recipe = recipe_for()
    server = server_for(recipe)
    for round_ in range(3):
        server.submit(sent(recipe, 0, 8, value=2.0, round_=round_))

    assert server.snapshot().progress == LossSum(
        loss=6.0, num_images=sum(planned(recipe, 0, 8, round_) for round_ in range(3))
    )


def test_update_beyond_the_finite_numbers_is_divergence() -> None:
    recipe = recipe_for(shards=1, learning_rate=1e18)
    server = server_for(recipe)

    with np.errstate(over="ignore"), pytest.raises(DivergedError, match="after round 0: lower"):
        server.submit(sent(recipe, 0, 1, value=1e17))


def test_divergence_is_one_sentence_without_warnings() -> None:
    recipe = recipe_for(shards=1, learning_rate=1e18)

    with pytest.raises(DivergedError, match="lower --learning-rate"):
        server_for(recipe).submit(sent(recipe, 0, 1, value=1e17))
