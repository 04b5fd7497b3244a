from dataclasses import replace
from typing import Any

import pytest

from nanograd.errors import DataError, OutputExistsError, StorageError
from nanograd.report.training_report import read_run
from nanograd.runtime import json_files, storage
from nanograd.runtime.events import Event, Level, changed, ignore
from nanograd.runtime.lease import exclusive
from nanograd.training.run_directory import RunDirectory
from tests.helpers.folders import contents
from tests.helpers.runs import messages, refuse_to_compute, stopped, train, without_times


def test_settings_that_change_no_bit_may_differ(few_digits, tmp_path):
    stopped(few_digits, tmp_path / "run", workers=1)

    figures = train(few_digits, tmp_path / "run", workers=0)

    again = train(few_digits, tmp_path / "run", start_group=refuse_to_compute, workers=3)
    assert again["params_sha256"] == figures["params_sha256"]


OTHERS: list[dict[str, Any]] = [
    {"seed": 6}, {"hidden": 7}, {"epochs": 3}, {"shards": 7}, {"learning_rate": 0.011},
    {"optimizer": "momentum", "momentum": 0.5}, {"validation_split": 0.2}, {"shift": 0.0},
    {"elastic": 1.0}, {"pixels": "deskewed"}, {"data_sha256": "other"},
]  # fmt: skip


@pytest.mark.parametrize("begin", [train, stopped], ids=["finished", "stopped"])
def test_another_recipe_is_refused_and_changes_nothing(few_digits, tmp_path, begin):
    begin(few_digits, tmp_path / "run")
    before, events = contents(tmp_path), list[Event]()

    for other in OTHERS:
        # The first setting that differs, in the order of the alphabet.
        name = {"optimizer": "momentum", "pixels": "deskew"}.get(*[next(iter(other))] * 2)
        data, settings = few_digits, dict(other)
        if sha256 := settings.pop("data_sha256", None):
            data = replace(few_digits, sha256=sha256)
        with pytest.raises(OutputExistsError, match=f"a run with {name} ") as caught:
            train(data, tmp_path / "run", None, refuse_to_compute, events.append, **settings)
        assert ("or --test-split, are others now; restore them" in str(caught.value)) == bool(
            sha256
        )

    assert events == []
    assert contents(tmp_path) == before


# Nothing in these rounds depends on the number of epochs.
OPEN: dict[str, Any] = {"schedule": "constant", "cool_down": 0.0}


@pytest.mark.parametrize("begin", [train, stopped], ids=["finished", "stopped"])
@pytest.mark.parametrize("ensemble", [1, 2])
def test_more_epochs_continue_a_run_and_give_the_bits_of_one_that_had_them_from_the_start(
    few_digits, tmp_path, begin, ensemble
):
    settings, events = {**OPEN, "ensemble": ensemble}, list[Event]()
    whole = train(few_digits, tmp_path / "whole", epochs=5, **settings)
    begin(few_digits, tmp_path / "run", epochs=3, **settings)
    (tmp_path / "run" / "report.html").write_text("of three epochs")

    figures = train(few_digits, tmp_path / "run", listener=events.append, epochs=5, **settings)

    assert without_times(figures) == without_times(whole)
    assert any(each.startswith("continuing after") for each in messages(events))
    assert not (tmp_path / "run" / "report.html").exists()
    rows = [json_files.read_lines(f"{tmp_path}/{name}/metrics.jsonl") for name in ("run", "whole")]
    losses = [[(row["epoch"], row["loss"], row["val_loss"]) for row in lines] for lines in rows]
    assert losses[0] == losses[1]
    assert train(few_digits, tmp_path / "run", None, refuse_to_compute, epochs=5, **settings)
    with pytest.raises(OutputExistsError, match="a run with epochs 5, not 4; choose"):
        train(few_digits, tmp_path / "run", None, refuse_to_compute, epochs=4, **settings)


def test_run_that_is_continued_is_read_only_when_it_is_finished_again(few_digits, tmp_path):
    train(few_digits, tmp_path / "run", epochs=2, **OPEN)
    stopped(few_digits, tmp_path / "run", epochs=5, **OPEN)

    with pytest.raises(DataError, match="a model of 2 epochs in a run of 5 that is not finished"):
        read_run(str(tmp_path / "run"))

    train(few_digits, tmp_path / "run", epochs=5, **OPEN)
    assert len(read_run(str(tmp_path / "run")).epochs) == 5


@pytest.mark.parametrize("settings", [{"cool_down": 0.0}, {"schedule": "constant"}])
def test_run_whose_rounds_depend_on_the_number_of_epochs_cannot_go_on(
    few_digits, tmp_path, settings
):
    settings = {"cool_down": 0.5, **settings}
    train(few_digits, tmp_path / "run", **settings)

    with pytest.raises(OutputExistsError, match=r"until the last epoch; .* --resume-from .*/run"):
        train(few_digits, tmp_path / "run", None, refuse_to_compute, epochs=3, **settings)


@pytest.mark.parametrize("begin", [train, stopped], ids=["finished", "stopped"])
@pytest.mark.parametrize(
    ("name", "overwrite"), [("thesis.txt", False), ("config.toml.bak", True), (".git", True)]
)
def test_unknown_file_in_the_directory_is_left_alone(few_digits, tmp_path, name, overwrite, begin):
    begin(few_digits, tmp_path / "run")
    (tmp_path / "run" / name).write_text("mine")
    before = contents(tmp_path)

    with pytest.raises(OutputExistsError, match=f"'{name}', which is not part of a run"):
        train(few_digits, tmp_path / "run", overwrite=overwrite)

    assert contents(tmp_path) == before


@pytest.mark.parametrize("begin", [train, stopped], ids=["finished", "stopped"])
def test_overwrite_replaces_another_run(few_digits, tmp_path, undisturbed_run, begin):
    begin(few_digits, tmp_path / "run", seed=6)
    # A kill in a commit blocks nothing.
    (tmp_path / "run" / ".metrics.jsonl.k3.nanograd-tmp").write_text("half")
    with (
        exclusive(str(tmp_path / "run")),
        pytest.raises(OutputExistsError, match="another command"),
    ):
        train(few_digits, tmp_path / "run", overwrite=True)

    figures = train(few_digits, tmp_path / "run", overwrite=True)

    assert without_times(figures) == without_times(undisturbed_run)
    assert len(storage.names(str(tmp_path / "run" / "checkpoints"))) == 2


def record(directory: RunDirectory, *rounds: int) -> list[int]:
    for round_ in rounds:
        directory.record(0, changed("joined", rank=0, round=round_))
    return [row["round"] for row in json_files.read_lines(f"{directory.folder}/events.jsonl")]


@pytest.mark.parametrize(("num_nets", "net"), [(1, {}), (2, {"net": 1})])
def test_recorded_event_of_an_ensemble_has_the_number_of_its_net(tmp_path, num_nets, net):
    record(RunDirectory(str(tmp_path), {}, num_nets, ignore), 3)

    [row] = json_files.read_lines(str(tmp_path / "events.jsonl"))
    sentence = "worker 0 joined at round 3"
    event = {"event": "joined", "rank": 0, "round": 3, "sentence": sentence}
    assert row == {"time": row["time"], **net, **event}


@pytest.mark.parametrize("call", ["read", "commit"])
def test_event_that_cannot_be_recorded_is_a_warning_and_written_with_the_next(
    tmp_path, monkeypatch, call
):
    def fail(*about: object) -> None:
        raise StorageError("the store is down")

    record(RunDirectory(str(tmp_path), {}, 1, ignore), 1)
    events: list[Event] = []
    directory = RunDirectory(str(tmp_path), {}, 1, events.append)
    with monkeypatch.context() as patch:
        patch.setattr(storage, call, fail)
        directory.record(0, changed("joined", rank=0, round=2))

    assert record(directory) == [1]
    assert record(directory, 3) == [1, 2, 3]
    assert [event.level for event in events] == [Level.WARNING]


def test_damaged_record_of_events_is_replaced_with_a_warning(tmp_path):
    (tmp_path / "events.jsonl").write_bytes(b"\0" * 193)
    events: list[Event] = []

    assert record(RunDirectory(str(tmp_path), {}, 1, events.append), 1, 2) == [1, 2]
    assert [event.level for event in events] == [Level.WARNING]


def test_nothing_is_recorded_in_a_directory_that_was_taken_over(tmp_path):
    def taken_over() -> None:
        raise OutputExistsError("it is another's")

    directory = RunDirectory(str(tmp_path), {}, 1, ignore)
    directory.check = taken_over
    with pytest.raises(OutputExistsError):
        record(directory, 1)

    assert contents(tmp_path) == {}
