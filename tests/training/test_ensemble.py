import json
from pathlib import Path

import numpy as np
import pytest

from nanograd.config.train_config import TrainConfig
from nanograd.data.mnist import Mnist
from nanograd.errors import Stopped
from nanograd.models import model as model_io
from nanograd.runtime import json_files
from nanograd.training import loop, run_directory
from nanograd.training.run_directory import Run
from tests.helpers.runs import (
    SETTINGS,
    Figures,
    StopAt,
    refuse_to_compute,
    train,
    without_times,
)

COMMITTEE = {"committee": 3, "pixels": "deslanted"}


@pytest.fixture(scope="module")
def undisturbed(few_digits: Mnist, tmp_path_factory: pytest.TempPathFactory) -> Figures:
    """The figures of a committee that nothing happened to."""
    return train(few_digits, tmp_path_factory.mktemp("undisturbed") / "run", **COMMITTEE)


def test_nets_differ_in_seed_and_size_and_the_first_learns_most_styles() -> None:
    settings = {"pixels": "deslanted", "width": 3.5, "styles": 0.1}
    config = TrainConfig.resolve(SETTINGS, settings, {"committee": 4})

    nets = config.nets()

    assert [net.seed for net in nets] == [5, 6, 7, 8]
    assert len({(net.width, net.height) for net in nets}) == 4
    assert nets[0] == TrainConfig.resolve(SETTINGS, settings)
    assert [net.styles for net in nets[1:]] == pytest.approx([0.02] * 3)


def test_first_net_is_the_one_that_would_be_trained_alone() -> None:
    alone = TrainConfig.resolve(SETTINGS, {"pixels": "deslanted", "width": 3.5, "height": 5.5})

    nets = TrainConfig.resolve(alone.recipe(), {"committee": 5}).nets()

    assert nets[0].recipe() == alone.recipe()
    assert [(net.width, net.height) for net in nets] == [
        (3.5, 5.5),
        (0.0, 0.0),
        (3.0, 5.0),
        (4.0, 6.0),
        (3.5, 5.5),
    ]


def test_nets_of_digits_as_they_stand_differ_in_seed_alone() -> None:
    nets = TrainConfig.resolve(SETTINGS, {"committee": 3}).nets()

    assert [(net.seed, net.width) for net in nets] == [(5, 0.0), (6, 0.0), (7, 0.0)]


def test_committee_holds_the_nets_that_its_members_would_be_alone(
    few_digits: Mnist, tmp_path: Path
) -> None:
    whole = {"validation_split": 0.0}
    figures = train(few_digits, tmp_path / "run", **COMMITTEE, **whole)

    model = model_io.load(figures["model"])
    for number, net in enumerate(TrainConfig.resolve(SETTINGS, COMMITTEE, whole).nets()):
        alone = train(few_digits, tmp_path / str(number), **net.recipe())
        assert figures["nets"][number] == {
            name: alone[name] for name in ("params_sha256", "val_accuracy", "test_accuracy")
        }
        [theirs] = model_io.load(alone["model"]).nets
        assert theirs.params.vector.dtype == np.float32
        assert model.nets[number].params.vector.tobytes() == theirs.params.vector.tobytes()
        assert model.nets[number].preparation == theirs.preparation


def test_figures_are_those_of_the_nets_together(few_digits: Mnist, undisturbed: Figures) -> None:
    model = model_io.load(undisturbed["model"])

    assert undisturbed["params_sha256"] == model.params_sha256()
    assert undisturbed["test_accuracy"] == loop.accuracy(model, few_digits.test)
    # 631 images in batches of 64, and redrawn ones, more of them in the first net
    assert undisturbed["rounds"] == 2 * (11 + 10 + 10)
    rows = (Path(undisturbed["model"]).parent / "metrics.jsonl").read_text().splitlines()
    places = [(row["net"], row["epoch"]) for row in map(json.loads, rows)]
    assert places == [(net, epoch) for net in (1, 2, 3) for epoch in (1, 2)]


@pytest.mark.parametrize("count", [1, 5, 4])
def test_stopped_and_resumed_it_ends_as_the_undisturbed_one(
    few_digits: Mnist, tmp_path: Path, undisturbed: Figures, count: int
) -> None:
    with pytest.raises(Stopped, match=f"the same settings with --output {tmp_path / 'run'}, "):
        train(few_digits, tmp_path / "run", StopAt(count), **COMMITTEE)

    figures = train(few_digits, tmp_path / "run", **COMMITTEE)

    assert without_times(figures) == without_times(undisturbed)


def test_lost_model_is_made_again_without_computing(
    few_digits: Mnist, tmp_path: Path, undisturbed: Figures
) -> None:
    figures = train(few_digits, tmp_path / "run", **COMMITTEE)
    model_io.storage.remove(figures["model"])

    again = train(few_digits, tmp_path / "run", make_group=refuse_to_compute, **COMMITTEE)

    assert again == figures


@pytest.mark.parametrize(("committee", "net"), [(1, {}), (2, {"net": 2})])
def test_event_of_a_committee_says_which_net_was_trained(
    few_digits: Mnist, tmp_path: Path, committee: int, net: dict[str, int]
) -> None:
    run = Run(config=TrainConfig(committee=committee), place=str(tmp_path), data=few_digits)
    event = {"event": "joined", "sentence": "worker 1 joined at round 3", "round": 3}
    shown: list[Figures] = []

    run_directory.teller(run, 1, [].append, shown.append)(event)

    [kept] = json_files.read_lines(str(tmp_path / "events.jsonl"))
    assert shown == [event]
    assert kept == {"time": kept["time"], **net, **event}
