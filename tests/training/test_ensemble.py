import json
from pathlib import Path

import pytest

from nanograd.digits.dataset import Mnist
from nanograd.errors import Stopped
from nanograd.models import model as model_io
from nanograd.runtime.events import EpochFinished, Event, TrainingProgress
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.loop import accuracy
from tests.helpers import runs
from tests.helpers.runs import SETTINGS, Figures, train, without_times

ENSEMBLE = {"ensemble": 3, "pixels": "deskewed"}


@pytest.fixture(scope="module")
def undisturbed(few_digits: Mnist, tmp_path_factory: pytest.TempPathFactory) -> Figures:
    return train(few_digits, tmp_path_factory.mktemp("undisturbed") / "run", **ENSEMBLE)


def test_members_differ_in_seed_and_size_and_the_first_is_as_a_net_trained_alone():
    settings = {"pixels": "deskewed", "width": 3.5, "height": 5.5, "variants": 0.1}
    alone = TrainSpec.resolve(SETTINGS, settings)

    nets = TrainSpec.resolve(alone.identity(), {"ensemble": 5}).nets()

    sizes = [(3.5, 5.5), (0.0, 0.0), (3.0, 5.0), (4.0, 6.0), (3.5, 5.5)]
    assert nets[0] == alone
    assert [net.seed for net in nets] == [5, 6, 7, 8, 9]
    assert [(net.width, net.height) for net in nets] == sizes
    assert [net.variants for net in nets] == pytest.approx([0.1, *[0.02] * 4])
    plain = TrainSpec.resolve(SETTINGS, {"ensemble": 3, "seed": 2**63 - 1}).nets()
    assert [(net.seed, net.width) for net in plain] == [(2**63 - 1, 0.0), (0, 0.0), (1, 0.0)]


def test_members_have_the_bits_of_nets_trained_alone(few_digits, tmp_path):
    whole = {"validation_split": 0.0}
    figures = train(few_digits, tmp_path / "run", **ENSEMBLE, **whole)

    model = model_io.load(figures["model"])
    for number, net in enumerate(TrainSpec.resolve(SETTINGS, ENSEMBLE, whole).nets()):
        alone = train(few_digits, tmp_path / str(number), **net.identity())
        names = ("params_sha256", "val_accuracy", "test_accuracy")
        assert figures["nets"][number] == {name: alone[name] for name in names}
        [theirs] = model_io.load(alone["model"]).nets
        assert model.nets[number].params.vector.tobytes() == theirs.params.vector.tobytes()
        assert model.nets[number].preparation == theirs.preparation


def test_result_describes_the_whole_ensemble(few_digits, undisturbed):
    model = model_io.load(undisturbed["model"])

    assert undisturbed["params_sha256"] == model.params_sha256()
    assert undisturbed["test_accuracy"] == accuracy(model.nets, few_digits.test)
    # 631 images in batches of 64, and drawings, more of them in the first net
    assert undisturbed["rounds"] == 2 * (11 + 11 + 11)
    rows = (Path(undisturbed["model"]).parent / "metrics.jsonl").read_text().splitlines()
    places = [(row["net"], row["epoch"]) for row in map(json.loads, rows)]
    assert places == [(net, epoch) for net in (1, 2, 3) for epoch in (1, 2)]


@pytest.mark.parametrize("count", [1, 4, 5])
def test_stopped_and_resumed_ensemble_ends_as_the_undisturbed_one(
    few_digits, tmp_path, undisturbed, count
):
    with pytest.raises(Stopped, match=str(tmp_path / "run")):
        train(few_digits, tmp_path / "run", runs.StopAt(count), **ENSEMBLE)

    figures = train(few_digits, tmp_path / "run", **ENSEMBLE)

    assert without_times(figures) == without_times(undisturbed)


def test_run_emits_every_epoch_and_ends_complete(few_digits, tmp_path):
    events: list[Event] = []

    train(few_digits, tmp_path / "run", listener=events.append, epochs=3, ensemble=2)

    progress = [each for each in events if isinstance(each, TrainingProgress)]
    epochs = [each for each in events if isinstance(each, EpochFinished)]
    rounds, images = [each.round for each in progress], [each.image for each in progress]
    assert (rounds, images) == (sorted(rounds), sorted(images))
    assert rounds[-1] == progress[-1].rounds
    assert rounds[-1] == epochs[2].metrics.round + epochs[-1].metrics.round
    # 631 images three times in each net; 50 drawings in the first, 10 in the second
    assert images[-1] == 3 * (2 * 631 + 50 + 10)
    assert [each.complete for each in progress] == [False] * (len(progress) - 1) + [True]
    numbers = [(each.net, each.metrics.epoch) for each in epochs]
    assert numbers == [(net, epoch) for net in (1, 2) for epoch in (1, 2, 3)]
    assert progress[-1].loss == epochs[-1].metrics.loss
    assert progress[-1].val_accuracy == epochs[-1].metrics.val_accuracy
