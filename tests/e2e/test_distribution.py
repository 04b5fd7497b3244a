"""The wheel and the source distribution, each installed into an empty environment."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT, environment_without_ray

pytestmark = pytest.mark.slow

BUILD = "import sys, setuptools.build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment_without_ray(),
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("checkout")
    files = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    for name in filter(None, files):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place / name)
    return place


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Python with what a build requires; that of these tests may have an older one."""
    place = tmp_path_factory.mktemp("builder")
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    run(sys.executable, "-m", "venv", "venv", cwd=place)
    run(place / "venv/bin/python", "-m", "pip", "install", "-q", *required, cwd=place)
    return place / "venv/bin/python"


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_demo_runs_where_nothing_else_is_installed(checkout, builder, tmp_path, kind):
    name = run(builder, "-c", BUILD, f"build_{kind}", tmp_path, cwd=checkout).split()[-1]
    run(sys.executable, "-m", "venv", "empty", cwd=tmp_path)
    pip = (tmp_path / "empty/bin/python", "-m", "pip", "install", "-q")
    run(*pip, "-c", ROOT / "constraints.txt", tmp_path / name, cwd=tmp_path)

    lines = run(tmp_path / "empty/bin/nanograd", "demo", cwd=tmp_path).splitlines()

    result = json.loads(lines[-1])
    assert result["event"] == "result"
    assert result["accuracy"] > 0.97
    page = (tmp_path / "demo/run/report.html").read_text()
    assert "nanograd" in page
