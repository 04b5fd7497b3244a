from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanograd import storage
from nanograd.data.mnist import Mnist
from nanograd.errors import DataError, OutputExistsError
from tests.unit.runs import (
    Figures,
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


def test_settings_that_change_no_bit_may_differ(digits: Mnist, tmp_path: Path) -> None:
    stopped(digits, tmp_path / "run", workers=1)

    figures = train(digits, tmp_path / "run", workers=0)

    again = train(digits, tmp_path / "run", make_group=refuse_to_compute, workers=3)
    assert again["params_sha256"] == figures["params_sha256"]


OTHERS = [
    {"seed": 6},
    {"hidden": 7},
    {"epochs": 3},
    {"shards": 7},
    {"learning_rate": 0.011},
    {"optimizer": "momentum", "momentum": 0.5},
    {"validation_split": 0.2},
    {"shift": 0.0},
    {"elastic": 1.0},
    {"pixels": "deslanted"},
]


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: next(iter(other)))
@pytest.mark.parametrize("begin", [train, stopped], ids=["finished", "stopped"])
def test_another_recipe_is_refused_and_changes_nothing(
    digits: Mnist, tmp_path: Path, begin: Callable[..., object], other: dict[str, Any]
) -> None:
    begin(digits, tmp_path / "run")
    before, name = contents(tmp_path), next(iter(other))

    with pytest.raises(OutputExistsError, match=rf"holds a run with {name} .*, not .*; choose"):
        train(digits, tmp_path / "run", make_group=refuse_to_compute, **other)

    assert contents(tmp_path) == before


def test_another_finished_run_is_not_called_this_run(digits: Mnist, tmp_path: Path) -> None:
    train(digits, tmp_path / "run")
    said: list[str] = []

    with pytest.raises(OutputExistsError):
        train(digits, tmp_path / "run", said=said, seed=6)

    assert said == []


def test_other_data_are_refused(digits: Mnist, tmp_path: Path) -> None:
    stopped(digits, tmp_path / "run")

    with pytest.raises(OutputExistsError, match="holds a run with data_sha256"):
        train(replace(digits, sha256="other"), tmp_path / "run", make_group=refuse_to_compute)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["thesis.txt", "models", "config.toml.bak", ".git"])
def test_stranger_in_the_directory_is_left_alone(
    digits: Mnist, tmp_path: Path, name: str, overwrite: bool
) -> None:
    stopped(digits, tmp_path / "run")
    (tmp_path / "run" / name).write_text("mine")
    before = contents(tmp_path)

    with pytest.raises(OutputExistsError, match=f"holds '{name}', which is no part of a run"):
        train(digits, tmp_path / "run", overwrite=overwrite)

    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", [".metrics.jsonl.k3.nanograd-tmp", ".config.toml.k3.nanograd-tmp"])
def test_what_a_killed_commit_left_does_not_block_the_run(
    digits: Mnist, tmp_path: Path, undisturbed: Figures, name: str
) -> None:
    stopped(digits, tmp_path / "run")
    (tmp_path / "run" / name).write_text("half")

    figures = train(digits, tmp_path / "run")

    assert without_times(figures) == without_times(undisturbed)


@pytest.mark.parametrize("begin", [train, stopped], ids=["finished", "stopped"])
def test_overwrite_replaces_another_run(
    digits: Mnist, tmp_path: Path, undisturbed: Figures, begin: Callable[..., object]
) -> None:
    begin(digits, tmp_path / "run", seed=6)

    figures = train(digits, tmp_path / "run", overwrite=True)

    assert without_times(figures) == without_times(undisturbed)
    assert len(storage.names(str(tmp_path / "run" / "checkpoints"))) == 2


def test_directory_that_another_process_holds_is_refused(digits: Mnist, tmp_path: Path) -> None:
    with (
        storage.exclusive(str(tmp_path / "run")),
        pytest.raises(OutputExistsError, match="is being written by another process"),
    ):
        train(digits, tmp_path / "run", overwrite=True)

    assert contents(tmp_path) == {}


def test_damaged_model_of_a_finished_run_is_a_data_error(digits: Mnist, tmp_path: Path) -> None:
    train(digits, tmp_path / "run")
    (tmp_path / "run" / "model" / "config.json").write_text("{}")

    with pytest.raises(DataError, match=r"config\.json is damaged"):
        train(digits, tmp_path / "run", make_group=refuse_to_compute)
