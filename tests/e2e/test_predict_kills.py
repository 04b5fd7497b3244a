"""A batch job whose workers and drivers are killed; the same command goes on, to the same bytes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from time import monotonic, sleep

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd.data.mnist import Mnist
from tests.helpers.folders import untimed_contents

PARTS = 60
_ROWS = 61  # of a part
_PATIENCE_S = 240


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, sample: Mnist) -> Path:
    """A folder of many small files, each with a row that cannot be read."""
    folder = tmp_path_factory.mktemp("rows")
    for number in range(PARTS):
        part = sample.train.take(slice(_ROWS * number, _ROWS * number + _ROWS))
        images = [*(image.tobytes() for image in part.images[:-1]), b"no picture"]
        table = pa.table({"image": images, "label": part.labels})
        pq.write_table(table, folder / f"{number:02d}.parquet")
    return folder


@pytest.fixture(scope="module")
def command(rows: Path, trained: str) -> Callable[[Path], list[str]]:
    """The job into a place; its pictures pass the normaliser, so that it takes its time."""
    words = [sys.executable, "-m", "nanograd", "predict", str(rows), "--model", trained]
    return lambda place: [*words, "--normalise", "always", "--workers", "2", "--output", str(place)]


@pytest.fixture(scope="module")
def undisturbed(
    command: Callable[[Path], list[str]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What the job leaves that nothing happens to."""
    place = tmp_path_factory.mktemp("undisturbed") / "out"
    # Without Ray: the bytes are the same, and it starts at once.
    subprocess.run([*command(place), "--workers", "0"], check=True, capture_output=True)
    return untimed_contents(place)


def parts_done(place: Path) -> int:
    folder = place / "_receipts"
    return len([*folder.glob("*.json")]) if folder.exists() else 0


def workers(driver: int) -> list[int]:
    """Processes below the driver that do parts."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # it has just ended
                status = (folder / "stat").read_text().rpartition(")")[2].split()
                parents[int(folder.name)] = int(status[1])
                names[int(folder.name)] = (folder / "cmdline").read_bytes()
    return [
        pid for pid, name in names.items() if b"_PartActor" in name and below(pid, driver, parents)
    ]


def below(pid: int, driver: int, parents: dict[int, int]) -> bool:
    while pid in parents and pid != driver:
        pid = parents[pid]
    return pid == driver


def kill(victim: str, driver: subprocess.Popen[bytes], place: Path, parts: int) -> None:
    """End one of the job's processes when so many parts are done."""
    deadline = monotonic() + _PATIENCE_S
    while True:
        assert driver.poll() is None, ("ended before it was disturbed", driver.communicate())
        assert monotonic() < deadline
        found = [driver.pid] if victim == "driver" else workers(driver.pid)
        if parts_done(place) >= parts and found:
            os.kill(found[0], signal.SIGKILL)
            return
        sleep(0.01)


@pytest.mark.parametrize(
    "victims",
    [
        ["worker", "driver", "worker"],
        pytest.param([*islice(cycle(["worker", "driver"]), 20)], marks=pytest.mark.soak),
    ],
    ids=["3", "20"],
)
def test_job_under_kills_ends_with_the_bytes_of_an_undisturbed_one(
    command: Callable[[Path], list[str]],
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    victims: Sequence[str],
) -> None:
    place, commands = tmp_path / "out", 0
    schedule = [*zip(victims, range(2, PARTS, (PARTS - 2) // len(victims)), strict=False)]
    while commands == 0 or not (place / "_SUCCESS").exists():
        commands += 1
        driver = subprocess.Popen(command(place), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        victim = "none"
        while schedule and victim != "driver":
            victim, parts = schedule.pop(0)
            kill(victim, driver, place, parts)
        said = driver.communicate(timeout=_PATIENCE_S)
        assert driver.returncode == (-signal.SIGKILL if victim == "driver" else 0), said

    assert commands == 1 + victims.count("driver")
    assert untimed_contents(place) == undisturbed
    result = json.loads(said[0].splitlines()[-1])
    assert result["rows"] == result["predicted"] + result["quarantined"] == PARTS * _ROWS
    assert result["reasons"] == {"broken_image": PARTS}


@pytest.mark.parametrize(("workers", "parts"), [("0", 2), ("2", 0), ("2", 2)])
def test_sigterm_is_told_in_one_sentence_and_the_same_command_goes_on(
    command: Callable[[Path], list[str]],
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    workers: str,
    parts: int,
) -> None:
    words, place = [*command(tmp_path / "out"), "--workers", workers], tmp_path / "out"
    driver = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not place.exists() or parts_done(place) < parts:
        assert driver.poll() is None, driver.communicate()
        sleep(0.01)
    driver.send_signal(signal.SIGTERM)
    stdout, stderr = driver.communicate(timeout=_PATIENCE_S)

    told = json.loads(stdout)
    assert (driver.returncode, told["event"], told["code"]) == (75, "error", 75), stderr
    assert stderr.splitlines()[-1] == f"nanograd: {told['reason']}"
    assert [line for line in stderr.splitlines()[:-1] if not line.startswith("predict ")] == []
    subprocess.run([*words, "--workers", "0"], check=True, capture_output=True)
    assert untimed_contents(place) == undisturbed


def test_job_with_a_single_cpu_ends_and_leaves_the_same_bytes(
    command: Callable[[Path], list[str]], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    cpu = min(os.sched_getaffinity(0))

    done = subprocess.run(
        [*command(tmp_path / "out"), "--workers", "1"],
        preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
        timeout=_PATIENCE_S,
        capture_output=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert untimed_contents(tmp_path / "out") == undisturbed
