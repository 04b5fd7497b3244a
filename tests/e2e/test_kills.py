"""Commands that are stopped or killed, or lose Ray: the same command ends with the same bytes."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path

import pytest

from nanograd import cli, commands
from nanograd.runtime import storage
from nanograd.settings.fields import flag_name
from nanograd.settings.train_spec import TrainSpec
from simulators.waiting import wait_for
from tests.e2e.conftest import PART_ROWS, every_server
from tests.helpers.folders import untimed_contents
from tests.helpers.processes import finish, start

SETTINGS = {"epochs": 10, "batch_size": 250, "hidden": 32}
FLAGS = [word for name in SETTINGS for word in (flag_name(name), str(SETTINGS[name]))]
TRAIN = ["train", "--data", "sample", *FLAGS, "--workers"]
NUM_PARTS, TIMEOUT_S = 30, 240


def wait_while_it_runs(
    process: "subprocess.Popen[str]", place: str, file: str, number: int
) -> None:
    """Wait until a running command has written some files with such a name below its output."""

    def has_written() -> bool:
        assert process.poll() is None, ("ended before it was disturbed", process.communicate())
        folder, _, name = file.rpartition("/")
        return sum(name in each for each in storage.names(f"{place}/{folder}")) >= number

    wait_for(has_written, "too few files", TIMEOUT_S, every_s=0.01)


# Prediction


@pytest.fixture(scope="module")
def predict(rows: Path, trained: str) -> list[str]:
    """The job; it normalises its pictures, so that it can be disturbed in time."""
    return ["predict", str(rows), "--model", trained, "--normalise", "always", "--workers"]


@pytest.fixture(scope="module")
def predicted(predict: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    place = str(tmp_path_factory.mktemp("undisturbed") / "out")
    assert cli.run([*predict, "0", "--output", place]) == 0
    return untimed_contents(place)


def words_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def below(pid: int) -> Iterator[int]:
    with suppress(FileNotFoundError, ProcessLookupError):
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, children.read_text().split()):
                yield child
                yield from below(child)


def actors(pid: int) -> list[int]:
    """Return the descendants that do parts or train."""
    kinds = ("_PartActor", "WorkerActor", "MapWorker")
    return [each for each in below(pid) if any(kind in words_of(each) for kind in kinds)]


@pytest.mark.parametrize(
    "victims",
    [
        ["worker", "driver", "worker"],
        pytest.param([*islice(cycle(["worker", "driver"]), 20)], marks=pytest.mark.soak),
    ],
    ids=["3", "20"],
)
def test_job_under_kills_ends_with_the_bytes_of_an_undisturbed_one(
    predict, predicted, tmp_path, head, victims
):
    place, num_commands, result = tmp_path / "out", 0, None
    step = (NUM_PARTS - 2) // len(victims)
    schedule = [*zip(victims, range(2, NUM_PARTS, step), strict=False)]
    while result is None:
        num_commands += 1
        driver, victim = start(*predict, "2", "--output", str(place), **head.joining), "none"
        while schedule and victim != "driver":
            victim, num_parts = schedule.pop(0)
            wait_while_it_runs(driver, str(place), "_receipts/.json", num_parts)
            wait_for(lambda: actors(head.pid), "no worker")
            os.kill(driver.pid if victim == "driver" else actors(head.pid)[0], signal.SIGKILL)
        if victim == "driver":
            driver.communicate(timeout=TIMEOUT_S)
            assert driver.returncode == -signal.SIGKILL
            wait_for(lambda: not actors(head.pid), "workers outlive their driver")
        else:
            result, log = finish(driver)
            assert "core_worker" not in log

    assert num_commands == 1 + victims.count("driver")
    assert untimed_contents(place) == predicted
    assert result["rows"] == result["predicted"] + result["quarantined"] == NUM_PARTS * PART_ROWS
    assert result["reasons"] == {"broken_image": NUM_PARTS}


@pytest.mark.parametrize("workers", ["0", "1"])
def test_sigterm_ends_a_job_with_one_sentence_and_the_same_command_continues(
    nanograd, predict, predicted, tmp_path, workers
):
    place = tmp_path / "out"
    driver = start(*predict, workers, "--output", str(place))
    wait_while_it_runs(driver, str(place), "_receipts/.json", 2)
    driver.send_signal(signal.SIGTERM)

    error, log = finish(driver, 75)
    assert (error["event"], error["code"]) == ("error", 75)
    *lines, last = log.splitlines()
    assert last == f"nanograd: {error['reason']}"
    others = [line for line in lines if not line.startswith("predict ")]
    assert others == (["starting Ray ..."] if workers != "0" else [])
    assert nanograd(*predict, "0", "--output", str(place)).code == 0
    assert untimed_contents(place) == predicted


# Training


@pytest.fixture(scope="module")
def checksum(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("undisturbed") / "run")
    config = TrainSpec(data="sample", workers=0, output=place, **SETTINGS)
    return str(commands.train(spec=config).to_json()["params_sha256"])


def train_until(number: signal.Signals, place: str, workers: str, **environment: str) -> list[str]:
    """Train until a checkpoint is saved, then send a signal; return output and log."""
    process = start(*TRAIN, workers, "--output", place, **environment)
    wait_while_it_runs(process, place, "checkpoints/round-", 1)
    process.send_signal(number)
    output = list(process.communicate(timeout=30))
    assert process.returncode == (75 if number == signal.SIGTERM else -number), output
    return output


def test_sigterm_saves_and_exits_75_and_the_command_continues(nanograd, tmp_path, checksum):
    place = str(tmp_path / "run")

    output, log = train_until(signal.SIGTERM, place, "2")

    error = json.loads(output.splitlines()[-1])
    assert (error["event"], error["code"]) == ("error", 75)
    assert f"--output {place}" in error["reason"]
    assert "Traceback" not in log
    assert "starting Ray ..." in log
    done = nanograd(*TRAIN, "0", "--output", place)
    assert "continuing after" in done.stderr
    assert done.last["params_sha256"] == checksum


def test_killed_command_continues_from_its_last_checkpoint_in_the_store(bucket, checksum, head):
    place = f"{bucket}/run"

    train_until(signal.SIGKILL, place, "2", **head.joining)
    done, log = finish(start(*TRAIN, "2", "--output", place, **head.joining))

    assert "continuing after" in log
    assert (done["params_sha256"], done["model"]) == (checksum, f"{place}/model")
    assert len(storage.names(f"{place}/checkpoints")) <= 4


@every_server
def test_second_command_ends_with_73_and_the_next_continues_after_a_kill(bucket):
    place = f"{bucket}/run"
    words = ("train", "--data", "sample", "--workers", "0", "--epochs", "5000", "--output", place)
    first = start(*words)
    wait_while_it_runs(first, place, "checkpoints/round-", 1)
    refusal, _ = finish(start(*words), 73)
    first.kill()
    first.communicate()
    [*_, newest] = storage.names(f"{place}/checkpoints")
    third = start(*words)
    wait_for(lambda: storage.names(f"{place}/checkpoints")[-1] > newest, "no progress")
    third.send_signal(signal.SIGTERM)
    _, log = finish(third, 75)

    assert f"process {first.pid} on {os.uname().nodename}" in refusal["reason"]
    assert "continuing after" in log
    assert storage.leases(place) == []


# A private Ray


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A short folder: sockets below it have paths of at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ng-") as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    ("command", "victim"), [("train", "gcs_server"), ("predict", "raylet/raylet")]
)
def test_command_ends_with_69_and_one_sentence_and_leaves_nothing(
    command, victim, predict, tmp_path, temporary
):
    output = tmp_path / "output"
    words = {"train": [*TRAIN[:-1], "--epochs", "500", "--workers"], "predict": predict}[command]
    process = start(*words, "1", "--output", str(output), TMPDIR=str(temporary))
    try:
        wait_for(lambda: actors(process.pid) or process.poll() is not None, "no actor")
        started = {pid: words_of(pid) for pid in below(process.pid)}
        [killed] = [pid for pid, each in started.items() if victim in each.split("\0")[0]]
        os.kill(killed, signal.SIGKILL)
        error, log = finish(process, 69)
    finally:
        process.kill()

    assert error["code"] == 69
    assert " on this machine has ended, killed or out of memory" in error["reason"]
    assert len([line for line in log.splitlines() if "has ended" in line]) == 1
    assert "terminat" not in log
    assert [path.name[:13] for path in temporary.iterdir()] == ["nanograd-logs"]
    assert not list(output.rglob(".*lease"))
    wait_for(lambda: not any(words_of(pid) == started[pid] for pid in started), "Ray runs", 20)
