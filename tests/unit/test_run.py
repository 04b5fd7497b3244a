import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nanograd import model as model_io
from nanograd import storage
from nanograd.config import TrainConfig
from nanograd.data.dataset import Dataset
from nanograd.data.mnist import Mnist
from nanograd.errors import DataError, DivergedError, Stopped
from nanograd.settings import from_toml
from nanograd.training import checkpoint, loop
from tests.unit.runs import (
    SETTINGS,
    Figures,
    StopAt,
    contents,
    refuse_to_compute,
    some_digits,
    stopped,
    train,
    without_times,
)


@pytest.fixture(scope="module")
def digits(sample: Mnist) -> Mnist:
    return some_digits(sample)


@pytest.fixture(scope="module")
def undisturbed(digits: Mnist, tmp_path_factory: pytest.TempPathFactory) -> Figures:
    """The figures of a run that nothing happened to."""
    return train(digits, tmp_path_factory.mktemp("undisturbed") / "run")


def test_run_directory_holds_what_is_documented(digits: Mnist, tmp_path: Path) -> None:
    figures = train(digits, tmp_path / "run")

    run = tmp_path / "run"
    names = ["checkpoints", "config.toml", "metrics.jsonl", "model"]
    assert storage.names(str(run)) == names
    config = TrainConfig.resolve(from_toml((run / "config.toml").read_text(), "config.toml"))
    assert config == TrainConfig.resolve(SETTINGS)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert figures["val_accuracy"] == rows[1]["val_accuracy"]


def test_figures_describe_the_model_that_was_saved(digits: Mnist, tmp_path: Path) -> None:
    figures = train(digits, tmp_path / "run")

    model = model_io.load(figures["model"])
    assert figures["model"] == str(tmp_path / "run" / "model")
    assert figures["params_sha256"] == model.params_sha256()
    assert figures["test_accuracy"] == loop.accuracy(model, digits.test) > 0.3
    assert (figures["data"], figures["shards"], figures["epochs"]) == ("some", 3, 2)
    assert figures["rounds"] == 2 * 10
    assert model.nets[0].params.vector.dtype == np.float32


def test_same_settings_give_the_same_bits(
    digits: Mnist, tmp_path: Path, undisturbed: Figures
) -> None:
    figures = train(digits, tmp_path / "run")
    other = train(digits, tmp_path / "other", seed=6)

    assert without_times(figures) == without_times(undisturbed)
    assert other["params_sha256"] != undisturbed["params_sha256"]


@pytest.mark.parametrize("count", [1, 3, 2])
def test_stopped_and_resumed_it_ends_as_the_undisturbed_run(
    digits: Mnist, tmp_path: Path, undisturbed: Figures, count: int
) -> None:
    with pytest.raises(Stopped, match="the same settings with --output"):
        train(digits, tmp_path / "run", StopAt(count))
    assert not (tmp_path / "run" / "model").exists()
    said: list[str] = []

    figures = train(digits, tmp_path / "run", said=said)

    assert without_times(figures) == without_times(undisturbed)
    assert said[0].startswith("going on from round ")
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_lost_model_is_made_again_from_the_last_checkpoint(
    digits: Mnist, tmp_path: Path, undisturbed: Figures
) -> None:
    train(digits, tmp_path / "run")
    storage.remove(str(tmp_path / "run" / "model"))

    figures = train(digits, tmp_path / "run")

    assert without_times(figures) == without_times(undisturbed)


def test_metrics_that_a_kill_prevented_are_written_by_the_next_command(
    digits: Mnist, tmp_path: Path
) -> None:
    # Killed between the last checkpoint and the rows that go with it.
    train(digits, tmp_path / "run")
    for name in ("model", "metrics.jsonl"):
        storage.remove(str(tmp_path / "run" / name))

    train(digits, tmp_path / "run")

    assert storage.read(str(tmp_path / "run" / "metrics.jsonl")).count(b"\n") == 2


def test_damaged_checkpoint_is_named_and_the_one_before_is_used(
    digits: Mnist, tmp_path: Path, undisturbed: Figures
) -> None:
    train(digits, tmp_path / "run")
    storage.remove(str(tmp_path / "run" / "model"))
    folder = tmp_path / "run" / "checkpoints"
    newest = folder / storage.names(str(folder))[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    said: list[str] = []

    figures = train(digits, tmp_path / "run", said=said)

    assert without_times(figures) == without_times(undisturbed)
    assert newest.name in said[0]
    assert said[1] == "going on from round 10 of 20"


def test_finished_run_repeats_its_result_without_computing(digits: Mnist, tmp_path: Path) -> None:
    figures = train(digits, tmp_path / "run")
    before = contents(tmp_path)
    said: list[str] = []

    again = train(digits, tmp_path / "run", make_group=refuse_to_compute, said=said)

    assert again == figures
    assert contents(tmp_path) == before
    assert said == [f"{tmp_path}/run holds this run already, complete; --overwrite trains it again"]


def test_divergence_keeps_the_last_good_checkpoint(digits: Mnist, tmp_path: Path) -> None:
    # The first round leaves parameters of about 1e13, still finite; the second one does not.
    absurd = {"optimizer": "sgd", "learning_rate": 1e15, "schedule": "constant", "warmup": 0}
    run = stopped(digits, tmp_path / "run", **absurd)
    before = contents(run / "checkpoints")

    with np.errstate(over="ignore"), pytest.raises(DivergedError, match="lower --learning-rate"):
        train(digits, run, **absurd)

    found = checkpoint.newest(str(run / "checkpoints"), pytest.fail)
    assert contents(run / "checkpoints") == before
    assert found is not None
    assert found.snapshot.round == 1
    assert found.snapshot.vector.dtype == np.float32
    assert np.isfinite(found.snapshot.vector).all()
    assert not (run / "model").exists()


def test_test_images_choose_nothing(digits: Mnist, tmp_path: Path, undisturbed: Figures) -> None:
    wrong = Dataset(digits.test.images, (digits.test.labels + 1) % 10)

    figures = train(replace(digits, test=wrong), tmp_path / "run")

    assert figures["params_sha256"] == undisturbed["params_sha256"]
    assert figures["test_accuracy"] < 0.3 < undisturbed["test_accuracy"]


def test_run_without_validation_has_no_validation_accuracy(digits: Mnist, tmp_path: Path) -> None:
    figures = train(digits, tmp_path / "run", validation_split=0.0)

    assert figures["val_accuracy"] is None


def test_too_few_images_for_the_shards_are_refused(digits: Mnist, tmp_path: Path) -> None:
    few = replace(digits, train=digits.train.take(slice(0, 7)))

    with pytest.raises(DataError, match="6 training images cannot fill 8 shards; lower --shards"):
        train(few, tmp_path / "run", shards=8)
