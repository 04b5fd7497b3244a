"""Commands whose private Ray loses a process that it cannot spare."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nanograd import commands
from nanograd.settings.specs import IngestSpec
from simulators.waiting import wait_for
from tests.conftest import environment_without_ray

TRAIN = ["train", "--data", "sample", "--epochs", "500"]


@pytest.fixture(scope="module")
def rows(png_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Pictures of digits as rows, in many files."""
    place = str(tmp_path_factory.mktemp("rows") / "rows")
    config = IngestSpec(output=place, workers=0, part_rows=10, keep_original=True)
    commands.ingest([str(png_folder)], spec=config)
    return place


def below(pid: int) -> Iterator[int]:
    """Yield the process ids of all descendants."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, children.read_text().split()):
                yield child
                yield from below(child)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A short folder: sockets below it have paths of at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ng-") as folder:
        yield Path(folder)


def words_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def has_actor(driver: int) -> bool:
    names = [words_of(pid) for pid in below(driver)]
    return any("WorkerActor" in name or "MapWorker" in name for name in names)


@pytest.mark.parametrize(
    ("command", "victim"),
    [
        ("train", "raylet/raylet"),
        ("train", "gcs_server"),
        ("predict", "raylet/raylet"),
        ("ingest", "gcs_server"),
    ],
)
def test_command_ends_with_69_and_one_sentence_and_leaves_nothing(
    command: str,
    victim: str,
    rows: str,
    trained: str,
    png_folder: Path,
    tmp_path: Path,
    temporary: Path,
) -> None:
    output = tmp_path / "output"
    words = {
        "train": TRAIN,
        "predict": ["predict", rows, "--model", trained, "--normalise", "always"],
        "ingest": ["ingest", str(png_folder), "--part-rows", "10"],
    }[command]
    with subprocess.Popen(
        [sys.executable, "-m", "nanograd", *words, "--workers", "2", "--output", str(output)],
        env=environment_without_ray(TMPDIR=str(temporary)), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            wait_for(lambda: has_actor(process.pid) or process.poll() is not None, "no actor")
            started = {pid: words_of(pid) for pid in below(process.pid)}
            [killed] = [pid for pid, each in started.items() if victim in each.split("\0")[0]]
            os.kill(killed, signal.SIGKILL)
            stdout, stderr = process.communicate(timeout=50)
        finally:
            process.kill()

    error = json.loads(stdout.splitlines()[-1])
    assert (process.returncode, error["code"]) == (69, 69), stderr
    assert " on this machine has ended, killed or out of memory" in error["reason"]
    assert len([line for line in stderr.splitlines() if "has ended" in line]) == 1
    assert "Traceback" not in stderr
    assert "terminat" not in stderr
    assert [path.name[:13] for path in temporary.iterdir()] == ["nanograd-logs"]
    assert not list(output.rglob(".*lease"))
    wait_for(lambda: not any(words_of(pid) == started[pid] for pid in started), "Ray runs", 20)
