"""The Dockerfile copies what it installs from, and installs what the demo needs."""

import re
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch

import pytest

from tests.conftest import ROOT
from tests.helpers.processes import run

FILE = ROOT / "Dockerfile"
LINES = [line for line in FILE.read_text().splitlines() if line and not line.startswith("#")]
STEPS = [tuple(line.split(maxsplit=1)) for line in LINES]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BUILDERS = ("docker", "podman", "buildah")


def is_sent(name: str) -> bool:
    """Whether the builder receives a file of the root: the last pattern that matches decides."""
    sent = True
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        if pattern and not pattern.startswith("#") and fnmatch(name, pattern.removeprefix("!")):
            sent = pattern.startswith("!")
    return sent


def test_image_is_made_of_tracked_files_and_the_pinned_versions_and_runs_the_demo():
    named = dict(STEPS)
    copied = {name for word, rest in STEPS if word == "COPY" for name in rest.split()[:-1]}
    present = {file.name for file in ROOT.iterdir()}
    [pip] = [rest for word, rest in STEPS if word == "RUN" and "pip install" in rest]
    minor = re.search(r"\d\.(\d+)", PROJECT["requires-python"])

    assert minor
    assert named["FROM"] == f"python:3.{minor[1]}-slim"  # no registry is named
    assert {name for name in present if is_sent(name)} == copied
    assert {PROJECT["readme"], "LICENSE", "pyproject.toml", "constraints.txt"} <= copied
    assert "-c constraints.txt" in pip
    assert "[dev]" not in pip
    assert named["ENTRYPOINT"] == '["nanograd"]'
    assert named["CMD"] == '["demo"]'
    assert named["USER"] not in ("root", "0")


def test_demo_installs_only_the_requirements_of_the_package(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)

    demo, tests = (
        run("make", "--no-print-directory", "-n", target, folder=tmp_path).stdout
        for target in ("demo", "test")
    )
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/installed").touch()
    again = run("make", "--no-print-directory", "-n", "demo", folder=tmp_path).stdout

    assert "-e '.'" in demo
    assert "-e '.[dev]'" in tests
    assert again == ".venv/bin/nanograd demo\n"


@pytest.mark.places
def test_image_is_built_and_trains_as_any_user():
    builder = next(filter(shutil.which, BUILDERS), None)
    if not builder:
        pytest.skip(f"needs one of {', '.join(BUILDERS)}, and the image python:3.11-slim")
    train = ["train", "--data", "sample", "--epochs", "1", "--workers", "1", "--output", "run"]

    subprocess.run([builder, "build", "-t", "nanograd-test", "."], cwd=ROOT, check=True)
    if builder != "buildah":  # which only builds
        options = ["--rm", "--shm-size", "1g", "--user", "54321"]
        subprocess.run([builder, "run", *options, "nanograd-test", *train], check=True)
