"""Groups of any size, with workers near, far or wrong: the bits of the local group, or an error."""

import os
import signal

import pytest

from nanograd.digits.dataset import Dataset
from nanograd.distributed.actors import WorkerActor
from nanograd.errors import ClusterError, DivergedError
from nanograd.runtime import kernel
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.recipe import Recipe, make_recipe
from tests.helpers.actors import CannotAttach, HasNan, OtherBuild, pids, variant
from tests.helpers.runs import bits, train_locally

DISTORTED = {"shards": 5, "pixels": "deskewed", "elastic": 1.0, "rotation": 8.0, "stroke": 0.5}


def recipe_for(digits: Dataset, **settings: object) -> Recipe:
    layers = {"batch_size": 193, "shards": 3, "epochs": 2}, settings
    return make_recipe(TrainSpec.resolve(*layers), len(digits))


@pytest.fixture
def recipe(digits: Dataset) -> Recipe:
    return recipe_for(digits)


@pytest.mark.parametrize(
    ("num_workers", "kind", "settings"),
    [
        (3, WorkerActor, DISTORTED),
        (2, CannotAttach, DISTORTED | {"optimizer": "adam"}),
    ],
)
def test_any_group_gives_the_bits_of_the_local_group(
    start_group, use_workers, digits, num_workers, kind, settings
):
    recipe = recipe_for(digits, **settings)
    use_workers(kind)

    group = start_group(recipe, num_workers)
    group.advance(7)

    assert bits(group.snapshot()) == bits(train_locally(recipe, digits, 7))


def test_divergence_in_the_server_actor_reaches_the_driver(start_group, digits):
    group = start_group(recipe_for(digits, learning_rate=1e30, optimizer="sgd", warmup=0), 1)

    with pytest.raises(DivergedError, match="round 0"):
        group.advance(7)


def test_bad_gradient_is_computed_again_and_is_divergence_if_it_is_bad_again(
    start_group, use_workers, events, recipe, digits, tmp_path
):
    use_workers(variant(HasNan, file=tmp_path / "once"))
    group = start_group(recipe, 1)
    group.advance(12)

    assert bits(group.snapshot()) == bits(train_locally(recipe, digits, 12))
    assert [event.facts["round"] for event in events if event.name == "refused"] == [9]
    with pytest.raises(DivergedError, match="round 15"):
        group.advance(20)


@pytest.mark.skipif(bool(kernel.missing_features()), reason="needs AVX2")
def test_actors_compute_with_the_kernel_of_the_run(start_group, recipe, monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Nehalem")

    group = start_group(recipe, 1, kernel="portable")

    [fingerprint] = group.fingerprints()
    assert "Haswell" in fingerprint
    assert ", portable " in fingerprint


def test_replacement_of_the_only_worker_is_compared_with_the_first_one(
    start_group, use_workers, events, recipe
):
    use_workers(OtherBuild)
    group, strict = start_group(recipe, 1), start_group(recipe, 1, strict=True)

    for each in (group, strict):
        each.advance(3)
        os.kill(pids(each)["0"], signal.SIGKILL)
    group.advance(7)
    with pytest.raises(ClusterError, match="--strict"):
        strict.advance(7)

    [differ] = [event.facts for event in events if event.name == "mixed"]
    assert [differ["first"], differ["worker"]] == group.fingerprints()
