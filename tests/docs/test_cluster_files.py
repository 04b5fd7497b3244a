"""The cluster files are valid, agree with the pinned versions, and require the token."""

import json
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import jsonschema
import pytest
import yaml
from ray._private.runtime_env.packaging import create_package

from tests.conftest import ROOT

FILES = ("cluster.yaml", "cluster-onpremise.yaml")


@pytest.fixture(params=FILES)
def cluster(request: pytest.FixtureRequest) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load((ROOT / request.param).read_text())
    return settings


def setup_script(cluster: dict[str, Any]) -> str:
    return "\n".join(cluster["setup_commands"])


def test_ray_has_the_version_of_the_constraints(cluster: dict[str, Any]) -> None:
    constraints = (ROOT / "constraints.txt").read_text()

    pinned = re.findall(r"^ray==(\S+)$", constraints, re.MULTILINE)
    installed = re.findall(r"\bray(?:\[[^\]]*\])?==([\w.]+)", setup_script(cluster))

    assert len(pinned) == 1
    assert installed == pinned


@pytest.mark.parametrize("page", ["cluster.md", "own-cluster.md"])
def test_token_that_a_page_makes_is_closed_to_other_users(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()

    made = re.findall(r"^ray get-auth-token --generate(.*)$", text, re.MULTILINE)
    assert made == [" && chmod 600 ~/.ray/auth_token"]


def dependencies() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {re.split(r"[\[<>=]", each)[0] for each in project["dependencies"]}


def test_every_dependency_is_installed_with_the_constraints(cluster: dict[str, Any]) -> None:
    [install] = [line for line in cluster["setup_commands"] if "pip install" in line]
    words = {re.split(r"[\[=]", word.strip('"'))[0] for word in install.split()}

    assert dependencies() <= words
    assert re.search(r"-c \S*constraints.txt", install)


def test_job_environment_has_every_dependency_and_the_constraints() -> None:
    _, constraints, *packages = (ROOT / "jobs/requirements.txt").read_text().splitlines()

    assert {each.partition("[")[0] for each in packages} == dependencies()
    assert constraints == "-c ../constraints.txt"


def test_file_conforms_to_the_schema_of_ray(cluster: dict[str, Any]) -> None:
    ray = find_spec("ray")
    assert ray is not None
    folders = ray.submodule_search_locations or []
    schema = json.loads((Path(folders[0]) / "autoscaler/ray-schema.json").read_text())

    jsonschema.validate(cluster, schema)

    for local in cluster["file_mounts"].values():
        assert local.startswith("~") or (ROOT / local).exists()


def test_token_is_required_and_the_dashboard_listens_on_loopback(cluster: dict[str, Any]) -> None:
    start = "\n".join(cluster["head_start_ray_commands"])

    assert "RAY_AUTH_MODE=token" in setup_script(cluster)
    assert "~/.ray/auth_token" in cluster["file_mounts"]
    assert "chmod 600 ~/.ray/auth_token" in cluster["setup_commands"]
    assert "--dashboard-host=127.0.0.1" in start


def test_lost_host_is_detected_within_seconds(cluster: dict[str, Any]) -> None:
    start = "\n".join(cluster["head_start_ray_commands"])
    found = dict(re.findall(r"RAY_health_check_(\w+)=(\d+)", start))

    detected_ms = int(found["failure_threshold"]) * (
        int(found["period_ms"]) + int(found["timeout_ms"])
    )

    assert detected_ms <= 5000
    assert int(found["initial_delay_ms"]) <= 5000


def test_upload_of_a_job_is_small_and_complete(tmp_path: Path) -> None:
    package = tmp_path / "package.zip"

    create_package(str(ROOT), package, include_gitignore=True)

    names = set(ZipFile(package).namelist())
    folders = {Path(name).parts[0] for name in names if "/" in name}
    assert {"jobs/train.py", "nanograd/cli.py", "jobs/requirements.txt", "constraints.txt"} <= names
    assert not folders & {"tests", "docs", "benchmarks", ".venv", ".git"}
    assert package.stat().st_size < 2_000_000
