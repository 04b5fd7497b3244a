"""A training job that is stopped or killed: the same command continues to the same bits."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import pytest

from nanograd import commands
from nanograd.runtime import kernel, storage
from nanograd.settings.fields import flag_name
from nanograd.settings.train_spec import TrainSpec
from simulators.waiting import wait_for
from tests.conftest import environment_without_ray
from tests.helpers.head import Head
from tests.runtime.test_kernel import PROCESSORS

SETTINGS = {"epochs": 20, "batch_size": 250, "hidden": 32}
FLAGS = [word for name in SETTINGS for word in (flag_name(name), str(SETTINGS[name]))]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The checksum of the parameters that a run without disturbance ends with."""
    place = str(tmp_path_factory.mktemp("undisturbed") / "run")
    config = TrainSpec(data="sample", workers=0, output=place, **SETTINGS)
    return str(commands.train(spec=config).to_json()["params_sha256"])


@dataclass(frozen=True)
class Training:
    """A training command in a process of its own.

    Args:
        output: its run directory.
        environment: variables added to ours.
    """

    output: str
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, workers: int) -> "subprocess.Popen[str]":
        words = [
            sys.executable, "-m", "nanograd", "train", "--data", "sample", *FLAGS,
            "--workers", str(workers), "--output", self.output,
        ]  # fmt: skip
        return subprocess.Popen(
            words, env=environment_without_ray(**self.environment), start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    @contextmanager
    def until_a_checkpoint(self, workers: int) -> Iterator["subprocess.Popen[str]"]:
        """Run the command until it has saved a checkpoint; it is killed at the end."""
        process = self.start(workers)

        def has_saved() -> bool:
            assert process.poll() is None, process.communicate()
            names = storage.names(f"{self.output}/checkpoints")
            return any(name.startswith("round-") for name in names)

        try:
            wait_for(has_saved, "no checkpoint", every_s=0.01)
            yield process
        finally:
            process.kill()
            process.communicate()

    def finish(self, workers: int) -> dict[str, object]:
        """Run the command to its end; returns its result."""
        process = self.start(workers)
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
        assert "continuing after" in stderr
        result: dict[str, object] = json.loads(stdout.splitlines()[-1])
        return result


@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm_saves_and_exits_75_and_the_command_continues(
    tmp_path: Path, undisturbed: str, head: Head, workers: int
) -> None:
    with Training(str(tmp_path / "run")).until_a_checkpoint(workers) as process:
        process.send_signal(signal.SIGTERM)
        began = monotonic()
        stdout, stderr = process.communicate(timeout=30)

    last = json.loads(stdout.splitlines()[-1])
    assert process.returncode == 75, stderr
    assert (last["event"], last["code"]) == ("error", 75)
    assert f"--output {tmp_path}" in last["reason"]
    assert monotonic() - began < 15
    again = Training(str(tmp_path / "run"), head.joining)
    assert again.finish(2 - workers)["params_sha256"] == undisturbed


@pytest.mark.slow
def test_killed_command_continues_from_its_last_checkpoint(
    tmp_path: Path, undisturbed: str
) -> None:
    training = Training(str(tmp_path / "run"))
    with training.until_a_checkpoint(2) as process:
        process.kill()

    assert process.returncode == -signal.SIGKILL
    assert training.finish(0)["params_sha256"] == undisturbed


def test_checkpoints_in_an_object_store_serve_as_well(
    bucket: str, undisturbed: str, head: Head
) -> None:
    training = Training(f"{bucket}/run", head.joining)
    with training.until_a_checkpoint(2) as process:
        process.kill()

    done = training.finish(2)

    assert process.returncode == -signal.SIGKILL
    assert done["params_sha256"] == undisturbed
    assert done["model"] == f"{bucket}/run/model"
    assert len(storage.names(f"{bucket}/run/checkpoints")) <= 4


def numpy_code_that_can_be_switched_off() -> str:
    """Return numpy's features beyond its base that this processor has, as its variable wants."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    return " ".join(each for each in __cpu_dispatch__ if __cpu_features__.get(each))


@pytest.mark.skipif(not numpy_code_that_can_be_switched_off(), reason="numpy has one code only")
def test_run_continued_on_another_processor_is_warned_of_or_refused(tmp_path: Path) -> None:
    output = str(tmp_path / "run")
    with Training(output).until_a_checkpoint(0):
        pass
    other = Training(output, {"NPY_DISABLE_CPU_FEATURES": numpy_code_that_can_be_switched_off()})

    refused = Training(output, other.environment | {"NANOGRAD_TRAIN_STRICT": "true"}).start(0)
    words = refused.communicate(timeout=120)[1]
    process = other.start(0)
    stderr = process.communicate(timeout=120)[1]

    assert refused.returncode == 69
    assert "match neither; --strict and --kernel portable refuse that" in words
    assert process.returncode == 0
    assert "WARNING: the rounds so far were computed with numpy" in stderr


@pytest.mark.slow
@pytest.mark.skipif(bool(kernel.missing_features()), reason="needs AVX2")
def test_portable_run_continued_on_another_processor_has_the_bits_of_one_machine(
    tmp_path: Path,
) -> None:
    portable = {"NANOGRAD_TRAIN_KERNEL": "portable"}
    places = [str(tmp_path / name) for name in ("moved", "alone")]
    for place in places:
        with Training(place, portable | PROCESSORS["SkylakeX"]).until_a_checkpoint(0):
            pass

    moved, alone = (
        Training(place, portable | PROCESSORS[processor]).finish(0)
        for place, processor in zip(places, ("Nehalem", "SkylakeX"), strict=True)
    )

    assert moved["params_sha256"] == alone["params_sha256"]
