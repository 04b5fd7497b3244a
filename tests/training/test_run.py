import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from nanograd.digits.dataset import Dataset
from nanograd.errors import (
    ClusterError,
    DataError,
    DivergedError,
    OutputExistsError,
    Stopped,
    UsageError,
)
from nanograd.models import model as model_io
from nanograd.models.model import Model
from nanograd.runtime import storage
from nanograd.runtime.events import Event, TrainingProgress, ignore
from nanograd.settings.fields import from_toml
from nanograd.settings.train_spec import TrainSpec
from nanograd.training import run_directory
from nanograd.training.local import LocalGroup
from nanograd.training.loop import accuracy
from nanograd.training.run import load_initial
from tests.helpers import runs
from tests.helpers.folders import as_nobody, contents
from tests.helpers.leases import take_over
from tests.helpers.runs import messages, train, without_times


def test_run_directory_holds_the_settings_the_metrics_and_the_model_of_the_figures(
    few_digits, tmp_path
):
    figures = train(few_digits, tmp_path / "run")

    run = tmp_path / "run"
    names = ["checkpoints", "config.toml", "metrics.jsonl", "model"]
    assert storage.names(str(run)) == names
    config = TrainSpec.resolve(from_toml((run / "config.toml").read_text(), "config.toml"))
    assert config == TrainSpec.resolve(runs.SETTINGS, {"output": str(run)})
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert figures["val_accuracy"] == rows[1]["val_accuracy"]
    model = model_io.load(figures["model"])
    assert figures["model"] == str(run / "model")
    assert figures["params_sha256"] == model.params_sha256()
    assert figures["test_accuracy"] == accuracy(model.nets, few_digits.test) > 0.3
    assert (figures["data"], figures["shards"], figures["epochs"]) == ("some", 3, 2)
    # 631 images, and some of them redrawn, in batches of 64
    assert figures["rounds"] == 2 * 11


@pytest.mark.parametrize("count", [1, 2, 193])
def test_stopped_and_resumed_it_ends_as_the_undisturbed_run(
    few_digits, tmp_path, undisturbed_run, count
):
    events: list[Event] = []
    if count < 193:
        with pytest.raises(Stopped, match="--output"):
            train(few_digits, tmp_path / "run", runs.StopAt(count))
        assert not (tmp_path / "run" / "model").exists()
    else:  # a finished run whose model is lost and whose newest checkpoint is damaged
        train(few_digits, tmp_path / "run", runs.StopAt(count))
        storage.remove(str(tmp_path / "run" / "model"))
        folder = tmp_path / "run" / "checkpoints"
        newest = folder / storage.names(str(folder))[-1]
        newest.write_bytes(newest.read_bytes()[:-1])

    figures = train(few_digits, tmp_path / "run", listener=events.append)

    assert without_times(figures) == without_times(undisturbed_run)
    *damaged, resumed = messages(events)
    assert resumed.startswith("continuing after ")
    assert [newest.name in each for each in damaged] == [True] * (count == 193)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "missing",
    [
        *([], ["model"], ["model", "metrics.jsonl"], ["config.toml"], ["model/README.md"]),
        *(["model/config.json"], ["model/model.safetensors"], ["model/manifest.json"]),
        ["config.toml", "checkpoints"],
        *(["metrics.jsonl", "events.jsonl"], ["metrics.jsonl", "checkpoints", "config.toml"]),
    ],
)
def test_finished_run_repeats_its_result_without_computing(
    few_digits, tmp_path, undisturbed_run, missing
):
    run, events = tmp_path / "run", list[Event]()
    train(few_digits, run)
    before = contents(tmp_path)
    for name in missing:  # as after a kill, or by mistake
        storage.remove(str(run / name))

    again = train(few_digits, run, start_group=runs.refuse_to_compute, listener=events.append)

    left, lost = contents(tmp_path), []
    if "checkpoints" in missing:
        lost = [name for name in before if "/checkpoints/" in name]
        if "metrics.jsonl" in missing:
            lost.append("run/metrics.jsonl")
            assert "has lost lines of metrics.jsonl, and no" in messages(events)[-1]
    assert without_times(again) == without_times(undisturbed_run)
    assert left.keys() == before.keys() - lost
    kept = {"run/metrics.jsonl", "run/config.toml", "run/model/README.md"}
    for name in kept.difference(lost):  # the report needs the first two
        assert left[name] == before[name]
    if not missing:
        assert contents(tmp_path) == before
        assert len(messages(events)) == 1


@pytest.mark.parametrize("name", ["metrics.jsonl", "model/model.safetensors", "model/config.json"])
@pytest.mark.parametrize("size", [0, 0.9])
def test_damaged_files_of_a_finished_run_are_made_again_from_the_checkpoints(
    few_digits, tmp_path, name, size
):
    run = tmp_path / "run"
    train(few_digits, run)
    before, file = contents(tmp_path), run / name
    file.write_bytes(file.read_bytes()[: int(size * file.stat().st_size)])

    train(few_digits, run, start_group=runs.refuse_to_compute)

    assert contents(tmp_path)[f"run/{name}"] == before[f"run/{name}"]
    storage.remove(str(run / "checkpoints"))
    file.write_bytes(file.read_bytes()[:-9])
    if name != "metrics.jsonl":
        with pytest.raises(OutputExistsError, match="a run with seed"):
            train(few_digits, run, start_group=runs.refuse_to_compute, seed=193)
        with pytest.raises(DataError, match="damaged"):
            train(few_digits, run, start_group=runs.refuse_to_compute)


def test_finished_run_in_a_folder_without_write_permission_repeats_its_result(
    few_digits, undisturbed_run
):
    with TemporaryDirectory() as folder:
        train(few_digits, Path(folder) / "run")
        Path(folder).chmod(0o755)
        Path(folder, "run").chmod(0o555)

        with as_nobody():
            again = train(few_digits, Path(folder) / "run", start_group=runs.refuse_to_compute)

        Path(folder, "run").chmod(0o755)
    assert without_times(again) == without_times(undisturbed_run)


@pytest.mark.parametrize("name", ["model", "checkpoints"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_file_in_place_of_a_folder_is_refused_before_training(
    few_digits, tmp_path, name, overwrite
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    before = contents(tmp_path)

    with pytest.raises(OutputExistsError, match=f"run/{name} is a file; choose another"):
        train(few_digits, tmp_path / "run", None, runs.refuse_to_compute, overwrite=overwrite)

    assert contents(tmp_path) == before


def test_divergence_keeps_the_last_good_checkpoint(few_digits, tmp_path):
    # The first round leaves parameters of about 1e13, still finite; the second one does not.
    absurd = {"optimizer": "sgd", "learning_rate": 1e15, "schedule": "constant", "warmup": 0}
    run = runs.stopped(few_digits, tmp_path / "run", **absurd)
    before = contents(run / "checkpoints")

    with np.errstate(over="ignore"), pytest.raises(DivergedError, match="lower --learning-rate"):
        train(few_digits, run, **absurd)

    found = run_directory.newest(str(run / "checkpoints"), ignore)
    assert contents(run / "checkpoints") == before
    assert found is not None
    assert found.snapshot.round == 1
    assert np.isfinite(found.snapshot.vector).all()
    assert not (run / "model").exists()


def initial_of(folder: Path, **settings: Any) -> Model | None:
    return load_initial(TrainSpec.resolve(runs.SETTINGS, settings, {"resume_from": str(folder)}))


@pytest.mark.parametrize("ensemble", [1, 2])
def test_warm_start_begins_with_the_weights_of_a_run_and_resumes_exactly(
    few_digits, tmp_path, ensemble
):
    train(few_digits, tmp_path / "first", ensemble=ensemble)
    settings = {"ensemble": ensemble, "learning_rate": 0.001, "seed": 6}
    initial = initial_of(tmp_path / "first", **settings)
    same = initial_of(tmp_path / "first" / "model", **settings)
    assert initial
    assert same
    assert initial.params_sha256() == same.params_sha256()

    frozen = {**settings, "learning_rate": 0.0}
    still = train(few_digits, tmp_path / "still", initial=initial, **frozen)
    cold = train(few_digits, tmp_path / "cold", **settings)
    warm = train(few_digits, tmp_path / "warm", initial=initial, **settings)
    with pytest.raises(Stopped):
        train(few_digits, tmp_path / "run", runs.StopAt(1), initial=initial, **settings)
    resumed = train(few_digits, tmp_path / "run", initial=initial, **settings)

    assert still["params_sha256"] == initial.params_sha256()
    assert len({each["params_sha256"] for each in (still, cold, warm)}) == 3
    assert without_times(resumed) == without_times(warm)
    for place, other in (("cold", initial), ("warm", None)):  # it is part of the identity
        with pytest.raises(OutputExistsError, match="a run with resume_from_sha256 "):
            train(few_digits, tmp_path / place, initial=other, **settings)


def test_complete_run_needs_its_first_weights_no_more_but_one_that_goes_on_does(
    few_digits, tmp_path
):
    first, settings = tmp_path / "first", {"schedule": "constant", "cool_down": 0.0}
    train(few_digits, first, **settings)
    settings |= {"resume_from": str(first), "output": f"{tmp_path}/run"}
    initial = load_initial(TrainSpec.resolve(runs.SETTINGS, settings))
    figures = train(few_digits, tmp_path / "run", initial=initial, **settings)
    shutil.rmtree(first)

    gone = load_initial(TrainSpec.resolve(runs.SETTINGS, settings))
    again = train(few_digits, tmp_path / "run", None, runs.refuse_to_compute, **settings)

    assert gone is None
    assert again == figures
    with pytest.raises(DataError, match=r"first is missing or damaged; restore it"):
        train(few_digits, tmp_path / "run", None, runs.refuse_to_compute, **settings, epochs=3)
    with pytest.raises(OutputExistsError, match="a run with seed 5, not 6"):
        train(few_digits, tmp_path / "run", None, runs.refuse_to_compute, **settings, seed=6)
    for other in ({"output": f"{tmp_path}/new"}, {"overwrite": True}):
        with pytest.raises(DataError, match="first does not exist"):
            load_initial(TrainSpec.resolve(runs.SETTINGS, {**settings, **other}))


@pytest.mark.parametrize(("start", "output"), [("run", "run"), ("run/model", "run/"), ("run", "")])
def test_warm_start_from_a_run_that_overwrite_removes_is_refused(
    few_digits, tmp_path, start, output
):
    train(few_digits, tmp_path / "run")
    settings = {"overwrite": True, "output": f"{tmp_path}/{output}"}

    with pytest.raises(UsageError, match=r"--overwrite removes .* choose another --output"):
        initial_of(tmp_path / start, **settings)

    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(UsageError, match="--overwrite removes"):
        initial_of(tmp_path / start, **{**settings, "output": f"{tmp_path}/link"})
    assert initial_of(tmp_path / start, **{**settings, "output": f"{tmp_path}/run2"})


def test_warm_start_with_nets_of_another_kind_names_the_settings(few_digits, tmp_path):
    train(few_digits, tmp_path / "first", hidden=7)

    with pytest.raises(UsageError, match=r"its nets: --hidden 7 --loss cross_entropy$"):
        initial_of(tmp_path / "first", loss="mse")
    with pytest.raises(DataError, match="nowhere does not exist"):
        initial_of(tmp_path / "nowhere")


def test_test_images_choose_nothing(few_digits, tmp_path, undisturbed_run):
    wrong = Dataset(few_digits.test.images, (few_digits.test.labels + 1) % 10)

    figures = train(replace(few_digits, test=wrong), tmp_path / "run")
    other = train(few_digits, tmp_path / "other", seed=6, validation_split=0.0)

    assert figures["params_sha256"] == undisturbed_run["params_sha256"]
    assert figures["test_accuracy"] < 0.3 < undisturbed_run["test_accuracy"]
    assert other["params_sha256"] != undisturbed_run["params_sha256"]
    assert other["val_accuracy"] is None


def test_too_few_images_for_the_shards_are_refused(few_digits, tmp_path):
    few = replace(few_digits, train=few_digits.train.take(slice(0, 7)))

    with pytest.raises(DataError, match="--shards"):
        train(few, tmp_path / "run", shards=8)
    with pytest.raises(DataError, match="--validation-split"):
        train(few_digits, tmp_path / "run", shards=2, validation_split=0.9999)


class Other(LocalGroup):
    def fingerprints(self) -> Sequence[str]:
        return ("other", "one more")


def test_run_that_went_on_elsewhere_is_of_neither_from_then_on(few_digits, tmp_path):
    events: list[Event] = []
    with pytest.raises(Stopped):
        train(few_digits, tmp_path / "run", runs.StopAt(1))
    with pytest.raises(Stopped):
        train(few_digits, tmp_path / "run", runs.StopAt(1), Other, events.append)
    for group in (LocalGroup, Other):
        with pytest.raises(ClusterError, match="--strict"):
            train(few_digits, tmp_path / "run", None, group, strict=True)

    assert len([text for text in messages(events) if "match neither" in text]) == 1
    # The nets of an ensemble are compared, too.
    groups = iter((LocalGroup, Other))

    def start(*about: Any) -> LocalGroup:
        return next(groups)(*about)

    with pytest.raises(ClusterError, match="--strict"):
        train(few_digits, tmp_path / "ensemble", None, start, strict=True, ensemble=2)


def goes_on(event: Event) -> bool:
    return "continuing after" in str(event)


def has_trained(event: Event, *, complete: bool) -> bool:
    return isinstance(event, TrainingProgress) and event.complete == complete


@pytest.mark.parametrize(
    ("begin", "moment", "kept"),
    [
        (runs.stopped, goes_on, True),
        (None, partial(has_trained, complete=False), False),
        (None, partial(has_trained, complete=True), True),
    ],
    ids=["settings", "checkpoint", "model"],
)
def test_run_that_another_machine_took_over_writes_nothing_more(
    few_digits, tmp_path, monkeypatch, begin, moment, kept
):
    run, before = tmp_path / "run", dict[str, bytes]()
    if begin:
        begin(few_digits, run)

    def take(event: Event) -> None:
        if moment(event) and not before:
            take_over(str(run), monkeypatch)
            (run / "config.toml").write_text("# of another run")
            before.update(contents(tmp_path))

    with pytest.raises(OutputExistsError, match="no longer held by this process"):
        train(few_digits, run, listener=take)

    assert contents(tmp_path) == before
    assert any("checkpoints" in name for name in before) == kept
