"""A batch job whose workers and drivers are killed: the same command ends with the same bytes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd.digits.dataset import Mnist
from simulators.waiting import wait_for
from tests.conftest import environment_without_ray
from tests.helpers.folders import untimed_contents
from tests.helpers.head import Head

NUM_PARTS, PART_ROWS = 30, 41
_TIMEOUT_S = 240

Command = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, sample: Mnist) -> Path:
    """A folder of many small files, each with a row that is no picture."""
    folder = tmp_path_factory.mktemp("rows")
    for number in range(NUM_PARTS):
        part = sample.train.take(slice(PART_ROWS * number, PART_ROWS * (number + 1)))
        images = [*(image.tobytes() for image in part.images[:-1]), b"no picture"]
        table = pa.table({"image": images, "label": part.labels})
        pq.write_table(table, folder / f"{number:02d}.parquet")
    return folder


@pytest.fixture(scope="module")
def start(rows: Path, trained: str) -> Command:
    """Start the job; it normalises its pictures, so that it can be disturbed in time."""
    words = [sys.executable, "-m", "nanograd", "predict", str(rows), "--model", trained]

    def run(place: Path, workers: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*words, "--normalise", "always", "--workers", workers, "--output", str(place)],
            env=environment_without_ray(**environment), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return run


def finish(process: "subprocess.Popen[str]") -> dict[str, object]:
    stdout, stderr = process.communicate(timeout=_TIMEOUT_S)
    assert process.returncode == 0, stderr
    result: dict[str, object] = json.loads(stdout.splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def undisturbed(start: Command, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The output of the job without disturbance."""
    place = tmp_path_factory.mktemp("undisturbed") / "out"
    finish(start(place, "0"))
    return untimed_contents(place)


def wait_for_parts(place: Path, num_parts: int, driver: "subprocess.Popen[str]") -> None:
    """Wait until this many parts are done and the job is still running."""

    def are_done() -> bool:
        assert driver.poll() is None, ("ended before it was disturbed", driver.communicate())
        return place.exists() and len([*place.glob("_receipts/*.json")]) >= num_parts

    wait_for(are_done, "too few parts are done", _TIMEOUT_S, every_s=0.01)


def part_actors(head: int) -> list[int]:
    """Processes below a head that do parts."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # it has just ended
                status = (folder / "stat").read_text().rpartition(")")[2].split()
                parents[int(folder.name)] = int(status[1])
                names[int(folder.name)] = (folder / "cmdline").read_bytes()

    def is_below(pid: int) -> bool:
        while pid in parents and pid != head:
            pid = parents[pid]
        return pid == head

    return [pid for pid, name in names.items() if b"_PartActor" in name and is_below(pid)]


@pytest.mark.parametrize(
    "victims",
    [
        ["worker", "driver", "worker"],
        pytest.param([*islice(cycle(["worker", "driver"]), 20)], marks=pytest.mark.soak),
    ],
    ids=["3", "20"],
)
def test_job_under_kills_ends_with_the_bytes_of_an_undisturbed_one(
    start: Command,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    head: Head,
    victims: Sequence[str],
) -> None:
    place, num_commands, result = tmp_path / "out", 0, None
    step = (NUM_PARTS - 2) // len(victims)
    schedule = [*zip(victims, range(2, NUM_PARTS, step), strict=False)]
    while result is None:
        num_commands += 1
        driver, victim = start(place, "2", **head.joining), "none"
        while schedule and victim != "driver":
            victim, num_parts = schedule.pop(0)
            wait_for_parts(place, num_parts, driver)
            wait_for(lambda: part_actors(head.pid), "no worker")
            os.kill(driver.pid if victim == "driver" else part_actors(head.pid)[0], signal.SIGKILL)
        if victim == "driver":
            assert driver.wait(_TIMEOUT_S) == -signal.SIGKILL
            driver.communicate()
            wait_for(lambda: not part_actors(head.pid), "workers outlive their driver")
        else:
            result = finish(driver)

    assert num_commands == 1 + victims.count("driver")
    assert untimed_contents(place) == undisturbed
    assert result["rows"] == result["predicted"] + result["quarantined"] == NUM_PARTS * PART_ROWS
    assert result["reasons"] == {"broken_image": NUM_PARTS}


@pytest.mark.parametrize(
    ("workers", "num_parts"), [("0", 2), pytest.param("2", 0, marks=pytest.mark.slow), ("2", 2)]
)
def test_sigterm_ends_a_job_with_one_sentence_and_the_same_command_continues(
    start: Command, undisturbed: dict[str, bytes], tmp_path: Path, workers: str, num_parts: int
) -> None:
    place = tmp_path / "out"
    driver = start(place, workers)
    wait_for_parts(place, num_parts, driver)
    driver.send_signal(signal.SIGTERM)
    stdout, stderr = driver.communicate(timeout=_TIMEOUT_S)

    error = json.loads(stdout)
    assert (driver.returncode, error["event"], error["code"]) == (75, "error", 75), stderr
    assert stderr.splitlines()[-1] == f"nanograd: {error['reason']}"
    others = [line for line in stderr.splitlines()[:-1] if not line.startswith("predict ")]
    assert others == (["starting Ray ..."] if workers != "0" else [])
    finish(start(place, "0"))
    assert untimed_contents(place) == undisturbed


@pytest.mark.slow
def test_job_with_a_single_cpu_ends_with_the_same_bytes(
    start: Command, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})  # a child inherits it
    try:
        driver = start(tmp_path / "out", "1")
    finally:
        os.sched_setaffinity(0, cpus)

    finish(driver)
    assert untimed_contents(tmp_path / "out") == undisturbed
