"""Checkpoints and models that earlier commits wrote: they are continued, and predicted with.

`earlier/` has, for each commit, a run that was stopped after its first epoch and the model of the
same run, complete; two hidden units keep them small. To add one, run the command of `SETTINGS` in a
checkout of that commit, once with `timeout -s TERM`, and keep its checkpoints and its model.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

import nanograd
from nanograd import commands
from nanograd.config.train_config import TrainConfig
from nanograd.data.mnist import Mnist
from nanograd.errors import OutputExistsError
from nanograd.runtime.events import Event

EARLIER = sorted(each for each in (Path(__file__).parent / "earlier").iterdir())
SETTINGS = {
    "data": "sample", "hidden": 2, "epochs": 3, "warmup": 2, "workers": 0, "shards": 8,
    "styles": 0.1,
}  # fmt: skip


@pytest.fixture(params=EARLIER, ids=lambda each: each.name)
def earlier(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Copies of a stopped and a complete run, since a command writes to them."""
    return shutil.copytree(request.param, tmp_path / "earlier")


def test_stopped_run_is_continued(earlier: Path) -> None:
    events: list[Event] = []

    result = commands.train(
        TrainConfig.resolve(SETTINGS, {"output": str(earlier / "stopped")}), events.append
    )

    assert result["rounds"] == 24
    assert [each for each in events if str(each).startswith("continuing after 8 of 24 rounds")]


def test_complete_run_is_found_complete(earlier: Path) -> None:
    events: list[Event] = []

    result = commands.train(
        TrainConfig.resolve(SETTINGS, {"output": str(earlier / "complete")}), events.append
    )

    assert result["model"] == str(earlier / "complete" / "model")
    assert [each for each in events if "holds this run, complete" in str(each)]


def test_run_without_a_kernel_is_a_native_one(
    earlier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands.process, "require_portable", lambda: None)
    settings = {"output": str(earlier / "stopped"), "kernel": "portable"}

    with pytest.raises(OutputExistsError, match="a run with kernel 'native', not 'portable'"):
        commands.train(TrainConfig.resolve(SETTINGS, settings))


def test_model_predicts_what_it_did(earlier: Path, sample: Mnist) -> None:
    model = nanograd.load_model(earlier / "complete" / "model")

    correct = np.count_nonzero(model.predict(sample.test.images) == sample.test.labels)

    assert abs(correct / len(sample.test) - model.about["test_accuracy"]) <= 0.002
