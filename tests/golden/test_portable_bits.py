"""Runs with `--kernel portable` end with the stored bits, whatever the processor is.

The checksums hold for the stored versions of numpy, OpenBLAS and the C library, all of which were
tried. To store others:

    .venv/bin/python -m tests.golden.test_portable_bits
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from nanograd.runtime import kernel
from tests.conftest import ROOT
from tests.helpers.processes import run, run_python
from tests.runtime.test_kernel import PROCESSORS

FILE = Path(__file__).parent / "portable_bits.json"
# One with long products, and one with every function that training computes.
RUNS = {
    "fast": ["--epochs", "2", "--warmup", "4", "--shards", "8"],
    "classic": [
        "--preset", "classic", "--epochs", "1", "--warmup", "4", "--least-rounds", "0",
        "--hidden", "64", "--shards", "4",
    ],
}  # fmt: skip
ABOUT = """
import json, platform
import numpy
from nanograd.runtime import process
blas = [each["version"] for each in process.blas()]
print(json.dumps({"versions": [numpy.__version__, *blas, "".join(platform.libc_ver())],
                  "canaries": [process.canary(), process.wide_canary()]}))
"""
# The canary of tests/runtime covers them each time.
OFTEN_ENOUGH, SLOW = ("Zen", "Sandybridge"), [pytest.mark.slow]

pytestmark = pytest.mark.skipif(bool(kernel.missing_features()), reason="needs AVX2")


def train(name: str, folder: Path, workers: int = 0, **variables: str) -> dict[str, Any]:
    words = [
        sys.executable, "-m", "nanograd", "train", "--data", "sample", "--workers", str(workers),
        "--kernel", "portable", "--output", str(folder / "run"), *RUNS[name],
    ]  # fmt: skip
    done = run(*words, folder=folder, PYTHONPATH=str(ROOT), **variables)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def about() -> dict[str, Any]:
    done = run_python(ABOUT, **kernel.variables())
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(FILE.read_text())
    here = about()
    if here["versions"] not in stored["versions"]:
        pytest.skip(f"stored with {stored['versions']}, these are {here['versions']}")
    assert here["canaries"] == stored["canaries"]
    return stored


@pytest.mark.parametrize(
    "processor", [pytest.param(each, marks=SLOW * (each in OFTEN_ENOUGH)) for each in PROCESSORS]
)
def test_bits_are_the_stored_ones_on_every_processor(golden, tmp_path, processor):
    result = train("fast", tmp_path, **PROCESSORS[processor])

    assert result["params_sha256"] == golden["params_sha256"]["fast"]


def test_bits_of_the_other_functions_are_the_stored_ones(golden, tmp_path):
    assert train("classic", tmp_path)["params_sha256"] == golden["params_sha256"]["classic"]


@pytest.mark.slow
def test_bits_of_ray_workers_are_the_stored_ones(golden, tmp_path):
    result = train("fast", tmp_path, 2, **PROCESSORS["Nehalem"])

    assert result["params_sha256"] == golden["params_sha256"]["fast"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        sums = {}
        for name in RUNS:
            (place := Path(made, name)).mkdir()
            sums[name] = train(name, place)["params_sha256"]
    here = about()
    stored = {**here, "versions": [here["versions"]], "params_sha256": sums}
    FILE.write_text(json.dumps(stored, indent=1) + "\n")
