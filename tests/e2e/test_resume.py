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
from nanograd.config import TrainConfig

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
def training(folder: Path, workers: int) -> Iterator[subprocess.Popen[str]]:
    """A training command that has saved a checkpoint."""
    command = [sys.executable, "-m", "nanograd", "train", *SETTINGS, "--workers", str(workers)]
    process = subprocess.Popen(
        [*command, "--output", "run"],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = monotonic() + 60
    while not list(folder.glob("run/checkpoints/round-*")):
        assert process.poll() is None, process.communicate()
        assert monotonic() < deadline
        sleep(0.02)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def finish(folder: Path, workers: int) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "nanograd", "train", *SETTINGS, "--workers", str(workers),
         "--output", "run"],
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
