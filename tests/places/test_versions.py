"""Train and predict with each Python, and with the oldest and the newest of what is required.

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

import pytest

from nanograd.digits.dataset import Mnist
from tests.conftest import ROOT, environment_without_ray
from tests.golden.test_portable_bits import FILE, RUNS
from tests.places.rows import NUM_ROWS, write_rows

pytestmark = pytest.mark.places

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
_PIP = ("-m", "pip", "--disable-pip-version-check")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GOLDEN = json.loads(FILE.read_text())["params_sha256"]
OLDEST = [
    re.sub(r">=([0-9.]+).*", r"==\1", each) for each in PROJECT["dependencies"]
]  # `ray[default,data]>=2.59,<2.61` is `ray[default,data]==2.59`


def find_python(version: str) -> str | None:
    """Return an interpreter of this version, on the path or of pyenv."""
    found = [
        shutil.which(f"python{version}"),
        *Path.home().glob(f".pyenv/versions/{version}.*/bin/python"),
    ]
    for each in filter(None, found):
        words = [str(each), "-c", "import sys, venv, ensurepip; print(sys.version)"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.startswith(f"{version}."):
            return str(each)
    return None


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for an environment, with a short name: sockets of Ray lie below it."""
    made = Path(tempfile.mkdtemp(prefix="place-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def install(python: str, folder: Path, *requirements: str) -> str:
    """Make an environment, and return its Python; skip if the requirements cannot be had."""
    subprocess.run([python, "-m", "venv", str(folder / "venv")], check=True)
    made = str(folder / "venv" / "bin" / "python")
    done = subprocess.run(
        [made, *_PIP, "install", "-q", "--only-binary=:all:", *requirements],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    return made


def check_commands(python: str, folder: Path, sample: Mnist) -> str:
    """Train with and without Ray, and predict; return the checksum of a portable run."""
    write_rows(sample, folder / "rows.parquet")

    def nanograd(*words: str) -> dict[str, object]:
        done = subprocess.run(
            [python, "-m", "nanograd", *words],
            cwd=folder, env=environment_without_ray(PYTHONPATH=str(ROOT)),
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
        return result

    train = ("train", "--data", "sample", "--epochs", "1", "--hidden", "16", "--warmup", "2")
    sums = {nanograd(*train, "--output", f"run{n}", "--workers", n)["params_sha256"] for n in "02"}
    words = ("--output", "portable", "--workers", "0", "--kernel", "portable", *RUNS["fast"])
    portable = nanograd("train", "--data", "sample", *words)
    for workers in "02":
        words = ("predict", "rows.parquet", "--model", "run0/model", "--workers", workers)
        assert nanograd(*words, "--output", f"read{workers}")["predicted"] == NUM_ROWS
    assert len(sums) == 1
    return str(portable["params_sha256"])


@pytest.mark.parametrize("version", PYTHONS)
def test_commands_work_with_each_python(version: str, folder: Path, sample: Mnist) -> None:
    if (python := find_python(version)) is None:
        pytest.skip(f"there is no Python {version} here")
    constraints = ["-c", str(ROOT / "constraints.txt")]

    made = install(python, folder, *constraints, *PROJECT["dependencies"])

    assert check_commands(made, folder, sample) == GOLDEN["fast"]


@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_commands_work_with_the_versions_at_both_ends(
    which: str, folder: Path, sample: Mnist
) -> None:
    made = install(
        sys.executable, folder, *(OLDEST if which == "oldest" else PROJECT["dependencies"])
    )

    portable = check_commands(made, folder, sample)
    assert portable == GOLDEN["fast"] or which == "newest"
