"""Jobs that bring their Python environment, on a host that has Ray and nothing else.

One Ray of the test's own, in this machine's network: hosts of namespaces reach no package index.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from nanograd import commands
from nanograd.config import TrainConfig
from tests.conftest import ROOT
from tests.e2e.conftest import quiet
from tests.hosts.cluster import events
from tests.hosts.runbook import blocks
from tests.hosts.world import wait_for

pytestmark = pytest.mark.hosts

_CONSTRAINTS = ["-c", str(ROOT / "constraints.txt")]
_PIP = ["-m", "pip", "--disable-pip-version-check"]


def run(*words: str, cwd: Path = ROOT, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A command, its output in one stream."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        words,
        cwd=cwd,
        env={**kept, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where there is room for environments, which are ten thousand files each."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30
    # Not pytest's own folder: the paths of Ray's sockets would be too long.
    made = Path(tempfile.mkdtemp(prefix="ray-", dir=memory if roomy else None))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def bare(folder: Path) -> Path:
    """A Python with Ray, uv and what Ray needs: not even numpy."""
    download = ["download", "-q", "--no-deps", "-d", str(folder), *_CONSTRAINTS, "uv"]
    tried = run(sys.executable, *_PIP, *download)
    if tried.returncode:
        pytest.skip(f"no package index answers: {tried.stdout.strip().splitlines()[-1]}")
    run(sys.executable, "-m", "venv", str(folder / "venv"))
    python = str(folder / "venv/bin/python")
    install = ["install", "-q", "--no-compile", *_CONSTRAINTS, "ray[default]", "uv"]
    made = run(python, *_PIP, *install)
    assert made.returncode == 0, made.stdout
    assert run(python, "-c", "import numpy").returncode == 1
    return folder / "venv"


@pytest.fixture(scope="module")
def desk(bare: Path, folder: Path) -> Iterator[Mapping[str, str]]:
    """The environment of a user whose head runs in that Python, with its own ports and token."""
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
    ports = dict(zip(names, map(str, free_ports(len(names))), strict=True))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    settings = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    start = [str(bare / "bin/ray"), "start", "--head", "--block", "--num-cpus=2"]
    start += [f"--{name}={port}" for name, port in ports.items()]
    start += ["--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={folder}/ray"]
    process = subprocess.Popen(
        start,
        env={**os.environ, **token, **settings, "PATH": f"{bare}/bin:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{ports['dashboard-port']}"
    made = {**token, "RAY_API_SERVER_ADDRESS": url, "PATH": f"{sys.prefix}/bin:/usr/bin:/bin"}
    try:
        wait_for(lambda: run("ray", "job", "list", **made).returncode == 0, "no head", 90, 1)
        yield made
    finally:
        # Workers end with their raylet; an orderly end takes half a minute.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens at."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("", 0))) for _ in range(number)]
        return [listener.getsockname()[1] for listener in listeners]


def test_runbooks_environments_do_the_three_jobs(desk: Mapping[str, str], tmp_path: Path) -> None:
    [block] = [each for each in blocks() if each.section.startswith("Another Python environment")]
    commands.data_export("sample", str(tmp_path / "png"), quiet)

    done = run("bash", "-ec", block.text.replace("s3://digits", str(tmp_path)), **desk)

    assert done.returncode == 0, done.stdout
    ingested, taught, predicted = events(done.stdout)
    assert (ingested["rows"], ingested["ingested"]) == (1000, 1000)
    assert taught["workers"] == 2
    assert taught["params_sha256"] == alone(tmp_path / "run")["params_sha256"]
    assert (predicted["rows"], predicted["predicted"]) == (1000, 1000)


def alone(place: Path) -> dict[str, Any]:
    """What one process says of the same training."""
    return commands.train(TrainConfig(data="sample", workers=0, output=str(place)), quiet)


def test_uv_run_trains_here_from_any_folder(bare: Path, tmp_path: Path) -> None:
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
