"""Train and predict with each Python, and with the oldest and the newest of what is required; and
jobs that bring their environment to a Ray that has nothing else.

Each environment is made from the package index; what cannot be had is skipped with the reason.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import nanograd
from nanograd import commands
from nanograd.digits.dataset import Mnist
from nanograd.settings.specs import DataExportSpec
from simulators.clusters import events
from simulators.runbook import blocks
from tests.conftest import ROOT, environment_without_ray
from tests.golden.test_portable_bits import FILE, RUNS
from tests.helpers.head import running_head

pytestmark = pytest.mark.places

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
NUM_ROWS = 193
TRAIN = ("train", "--data", "sample", "--epochs", "1", "--hidden", "16", "--warmup", "2")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GOLDEN = json.loads(FILE.read_text())["params_sha256"]
CONSTRAINTS = ("-c", str(ROOT / "constraints.txt"))
OLDEST = [
    re.sub(r">=([0-9.]+).*", r"==\1", each) for each in PROJECT["dependencies"]
]  # `ray[default,data]>=2.59,<2.61` is `ray[default,data]==2.59`


def write_rows(sample: Mnist, file: Path) -> None:
    """Write some test digits as lists of pixels with labels, without the package under test."""
    digits = sample.test.take(slice(0, NUM_ROWS))
    images = pa.FixedSizeListArray.from_arrays(pa.array(digits.images.ravel()), 784)
    pq.write_table(pa.table({"image": images, "label": pa.array(digits.labels)}), file)


def run(*words: str, cwd: Path = ROOT, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        words, cwd=cwd, env=environment_without_ray(**environment), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=400, check=False,
    )  # fmt: skip


def find_python(version: str) -> str | None:
    found = [
        shutil.which(f"python{version}"),
        *Path.home().glob(f".pyenv/versions/{version}.*/bin/python"),
    ]
    for each in filter(None, found):
        done = run(str(each), "-c", "import sys, venv, ensurepip; print(sys.version)")
        if done.returncode == 0 and done.stdout.startswith(f"{version}."):
            return str(each)
    return None


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with space for environments, and a short name: sockets of Ray lie below it."""
    memory = Path("/dev/shm")
    has_space = memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30
    made = Path(tempfile.mkdtemp(prefix="ray-", dir=memory if has_space else None))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def install(python: str, folder: Path, *requirements: str) -> str:
    """Make an environment, and return its Python; skip if the requirements cannot be had."""
    run(python, "-m", "venv", str(folder / "venv"))
    made = str(folder / "venv/bin/python")
    flags = ("-q", "--disable-pip-version-check", "--no-compile", "--only-binary=:all:")
    done = run(made, "-m", "pip", "install", *flags, *requirements)
    if done.returncode:
        pytest.skip(f"cannot be installed: {done.stdout.strip().splitlines()[-1]}")
    return made


def check_commands(python: str, folder: Path, sample: Mnist) -> str:
    """Train with and without Ray, and predict; return the checksum of a portable run."""
    write_rows(sample, folder / "rows.parquet")

    def result(*words: str) -> dict[str, object]:
        done = run(python, "-m", "nanograd", *words, cwd=folder, PYTHONPATH=str(ROOT))
        assert done.returncode == 0, done.stdout
        return events(done.stdout)[-1]

    sums = {result(*TRAIN, "--output", f"run{n}", "--workers", n)["params_sha256"] for n in "02"}
    words = ("--output", "portable", "--workers", "0", "--kernel", "portable", *RUNS["fast"])
    portable = result("train", "--data", "sample", *words)
    for workers in "02":
        words = ("predict", "rows.parquet", "--model", "run0/model", "--workers", workers)
        assert result(*words, "--output", f"read{workers}")["predicted"] == NUM_ROWS
    assert len(sums) == 1
    return str(portable["params_sha256"])


@pytest.mark.parametrize("version", PYTHONS)
def test_commands_work_with_each_python(version, folder, sample):
    if (python := find_python(version)) is None:
        pytest.skip(f"there is no Python {version} here")

    made = install(python, folder, *CONSTRAINTS, *PROJECT["dependencies"])

    assert check_commands(made, folder, sample) == GOLDEN["fast"]


@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_commands_work_with_the_versions_at_both_ends(which, folder, sample):
    requirements = OLDEST if which == "oldest" else PROJECT["dependencies"]
    made = install(sys.executable, folder, *requirements)

    portable = check_commands(made, folder, sample)
    assert portable == GOLDEN["fast"] or which == "newest"


def test_jobs_bring_their_environment_as_the_runbook_says(folder, tmp_path):
    python = install(sys.executable, folder, *CONSTRAINTS, "ray[default]", "uv")
    programs = Path(python).parent
    [block] = [each for each in blocks() if each.section.startswith("Another Python environment")]
    commands.export_data(DataExportSpec(data="sample", output=str(tmp_path / "png")))
    alone = nanograd.train(data="sample", workers=0, output=tmp_path / "alone")
    with (tmp_path / "more-than-ray-would-send").open("wb") as sparse:
        sparse.truncate(1 << 30)
    train = (*TRAIN, "--workers", "2", "--output", "with-uv")
    uv = ("run", "-q", "--no-project", "--python", python, "--with-requirements")

    with running_head(programs, folder) as head:
        client = {**head.environment, "RAY_API_SERVER_ADDRESS": head.url}
        jobs = run("bash", "-ec", block.text.replace("s3://digits", str(tmp_path)), **client)
    by_uv = run(
        str(programs / "uv"), *uv, str(ROOT / "jobs/requirements.txt"), "python", "-m", "nanograd",
        *train, cwd=tmp_path, PYTHONPATH=str(ROOT),
    )  # fmt: skip

    assert run(python, "-c", "import numpy").returncode == 1
    assert jobs.returncode == 0, jobs.stdout
    trained, ingested = events(jobs.stdout)
    assert trained["workers"] == 2
    assert trained["params_sha256"] == alone.model.params_sha256()
    assert ingested["ingested"] == 1000
    assert by_uv.returncode == 0, by_uv.stdout
    assert events(by_uv.stdout)[-1]["workers"] == 2
