"""A training job that is stopped or killed: the same command goes on, to the same bits."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import pytest

from nanograd import commands
from nanograd.config.train_config import TrainConfig
from nanograd.runtime import storage
from tests.e2e.conftest import make_bucket

SETTINGS = ["--data", "sample", "--epochs", "150", "--batch-size", "250"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The checksum that the run ends with if nobody disturbs it."""
    config = TrainConfig(
        data="sample",
        epochs=150,
        batch_size=250,
        workers=0,
        output=str(tmp_path_factory.mktemp("undisturbed") / "run"),
    )
    return str(commands.train(config, lambda sentence: None)["params_sha256"])


@contextmanager
def training(folder: Path, workers: int, output: str = "run") -> Iterator[subprocess.Popen[str]]:
    """A training command that has saved a checkpoint."""
    command = [sys.executable, "-m", "nanograd", "train", *SETTINGS, "--workers", str(workers)]
    process = subprocess.Popen(
        [*command, "--output", output],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = monotonic() + 60
    # A URI is joined to nothing: it is absolute.
    place = output if "://" in output else str(folder / output)
    while not any(name.startswith("round-") for name in storage.names(f"{place}/checkpoints")):
        assert process.poll() is None, process.communicate()
        assert monotonic() < deadline
        sleep(0.02)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def finish(folder: Path, workers: int, output: str = "run") -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "nanograd", "train", *SETTINGS, "--workers", str(workers),
         "--output", output],
        cwd=folder, text=True, capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    assert "going on from round" in done.stderr
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm_saves_and_exits_75_and_the_command_goes_on(
    tmp_path: Path, undisturbed: str, workers: int
) -> None:
    with training(tmp_path, workers) as process:
        process.send_signal(signal.SIGTERM)
        began = monotonic()
        stdout, stderr = process.communicate(timeout=30)

    last = json.loads(stdout.splitlines()[-1])
    assert process.returncode == 75, stderr
    assert (last["event"], last["code"]) == ("error", 75)
    assert "--output run" in last["reason"]
    assert monotonic() - began < 15
    assert finish(tmp_path, 2 - workers)["params_sha256"] == undisturbed


def test_a_killed_driver_leaves_what_the_same_command_goes_on_from(
    tmp_path: Path, undisturbed: str
) -> None:
    with training(tmp_path, 2) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()

    assert process.returncode == -signal.SIGKILL
    assert finish(tmp_path, 2)["params_sha256"] == undisturbed


def test_checkpoints_in_an_object_store_serve_as_well(
    tmp_path: Path, undisturbed: str, endpoint: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in endpoint.items():
        monkeypatch.setenv(name, value)
    output = f"{make_bucket(tmp_path.name)}/run"
    with training(tmp_path, 0, output) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()

    done = finish(tmp_path, 2, output)

    assert done["params_sha256"] == undisturbed
    assert done["model"] == f"{output}/model"
    assert len(storage.names(f"{output}/checkpoints")) <= 4
