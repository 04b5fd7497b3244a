"""Jobs that bring their Python environment, on a host that has Ray and nothing else.

The Ray runs in this machine's own network: hosts of namespaces reach no package index.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanograd import commands
from simulators.clusters import events
from simulators.runbook import blocks
from tests.conftest import ROOT, environment_without_ray
from tests.helpers.head import Head, running_head
from tests.hosts.conftest import Checksum

pytestmark = pytest.mark.hosts

_CONSTRAINTS = ["-c", str(ROOT / "constraints.txt")]
_PIP = ["-m", "pip", "--disable-pip-version-check"]


def run(*words: str, cwd: Path = ROOT, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command; both its output streams are in stdout."""
    return subprocess.run(
        words, cwd=cwd, env=environment_without_ray(**environment), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=400, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with space for environments, which are ten thousand files each."""
    memory = Path("/dev/shm")
    has_space = memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30
    # Not pytest's own folder: the paths of Ray's sockets would be too long.
    made = Path(tempfile.mkdtemp(prefix="ray-", dir=memory if has_space else None))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def bare(folder: Path) -> Path:
    """A Python with Ray, its requirements and uv: not even numpy."""
    words = ["download", "-q", "--no-deps", "-d", str(folder), *_CONSTRAINTS, "uv"]
    download = run(sys.executable, *_PIP, *words)
    if download.returncode:
        pytest.skip(f"no package index replies: {download.stdout.strip().splitlines()[-1]}")
    run(sys.executable, "-m", "venv", str(folder / "venv"))
    python = str(folder / "venv/bin/python")
    install = ["install", "-q", "--no-compile", *_CONSTRAINTS, "ray[default]", "uv"]
    made = run(python, *_PIP, *install)
    assert made.returncode == 0, made.stdout
    assert run(python, "-c", "import numpy").returncode == 1
    return folder / "venv"


@pytest.fixture(scope="module")
def head(bare: Path, folder: Path) -> Iterator[Head]:
    """A head in that Python."""
    with running_head(bare / "bin", folder) as running:
        yield running


def test_jobs_bring_their_environment_as_the_runbook_says(
    head: Head, checksum: Checksum, tmp_path: Path
) -> None:
    [block] = [each for each in blocks() if each.section.startswith("Another Python environment")]
    commands.export_data(["sample"], str(tmp_path / "png"))

    client = {**head.environment, "RAY_API_SERVER_ADDRESS": head.url}
    done = run("bash", "-ec", block.text.replace("s3://digits", str(tmp_path)), **client)

    assert done.returncode == 0, done.stdout
    trained, ingested = events(done.stdout)
    assert trained["workers"] == 2
    assert trained["params_sha256"] == checksum()
    assert ingested["ingested"] == 1000


def test_uv_run_trains_from_any_folder(bare: Path, tmp_path: Path) -> None:
    with (tmp_path / "more-than-ray-would-send").open("wb") as sparse:
        sparse.truncate(1 << 30)
    requirements = str(ROOT / "jobs/requirements.txt")

    done = run(
        str(bare / "bin/uv"), "run", "-q", "--no-project", "--python", str(bare / "bin/python"),
        "--with-requirements", requirements, "python", "-m", "nanograd",
        "train", "--data", "sample", "--epochs", "1", "--workers", "2", "--output", "run",
        cwd=tmp_path, PYTHONPATH=str(ROOT),
    )  # fmt: skip

    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout.splitlines()[-1])["workers"] == 2
