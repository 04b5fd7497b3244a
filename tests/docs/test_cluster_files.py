"""The cluster files are valid, agree with the pinned versions, and require the token.

References:
    KubeRay, ray-operator/apis/ray/v1/rayjob_types.go and raycluster_types.go.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import jsonschema
import pytest
import yaml
from ray._private.runtime_env.packaging import create_package

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES = {re.split(r"[\[<>=]", each)[0] for each in PROJECT["dependencies"]}
[RAY] = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
HEALTH = re.compile(r"RAY_health_check_(\w+)=(\d+)")


@pytest.fixture(params=["cluster.yaml", "cluster-onpremise.yaml"])
def cluster(request: pytest.FixtureRequest) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load((ROOT / request.param).read_text())
    return settings


def test_cluster_file_conforms_to_the_schema_of_ray(cluster):
    ray = find_spec("ray")
    assert ray is not None
    folders = ray.submodule_search_locations or []
    schema = json.loads((Path(folders[0]) / "autoscaler/ray-schema.json").read_text())

    jsonschema.validate(cluster, schema)

    for local in cluster["file_mounts"].values():
        assert local.startswith("~") or (ROOT / local).exists()


def test_every_dependency_is_installed_with_the_constraints(cluster):
    [install] = [line for line in cluster["setup_commands"] if "pip install" in line]
    words = {re.split(r"[\[=]", word.strip('"'))[0] for word in install.split()}
    _, constraints, *packages = (ROOT / "jobs/requirements.txt").read_text().splitlines()

    assert words >= DEPENDENCIES
    assert re.search(r"-c \S*constraints.txt", install)
    assert re.findall(r"\bray(?:\[[^\]]*\])?==([\w.]+)", install) == [RAY]
    assert {each.partition("[")[0] for each in packages} == DEPENDENCIES
    assert constraints == "-c ../constraints.txt"


def test_token_is_required_and_a_lost_host_is_detected_within_seconds(cluster):
    start = "\n".join(cluster["head_start_ray_commands"])
    found = {name: int(value) for name, value in HEALTH.findall(start)}

    assert "RAY_AUTH_MODE=token" in "\n".join(cluster["setup_commands"])
    assert "~/.ray/auth_token" in cluster["file_mounts"]
    assert "chmod 600 ~/.ray/auth_token" in cluster["setup_commands"]
    assert "--dashboard-host=127.0.0.1" in start
    assert found["failure_threshold"] * (found["period_ms"] + found["timeout_ms"]) <= 5000
    assert found["initial_delay_ms"] <= 5000
    text = (ROOT / "docs/cluster.md").read_text()
    made = re.findall(r"^ray get-auth-token --generate(.*)$", text, re.MULTILINE)
    assert made == [" && chmod 600 ~/.ray/auth_token"] * 2


def test_upload_of_a_job_is_small_and_complete(tmp_path):
    package = tmp_path / "package.zip"

    create_package(str(ROOT), package, include_gitignore=True)

    names = set(ZipFile(package).namelist())
    folders = {Path(name).parts[0] for name in names if "/" in name}
    assert {"jobs/train.py", "nanograd/cli.py", "jobs/requirements.txt", "constraints.txt"} <= names
    assert not folders & {"tests", "docs", "benchmarks", ".venv", ".git"}
    assert package.stat().st_size < 9_000_000  # most of it is the model and the line net


def test_newest_ray_allowed_is_the_one_tested():
    [ray] = [each for each in PROJECT["dependencies"] if each.startswith("ray[")]
    major, minor, _ = RAY.split(".")

    assert ray.rpartition("<")[2] == f"{major}.{int(minor) + 1}"


# Fields of KubeRay's v1 types, which refuse others.
FIELDS = """
    apiVersion kind metadata name spec entrypoint runtimeEnvYAML submissionMode
    shutdownAfterJobFinishes ttlSecondsAfterFinished backoffLimit submitterPodTemplate
    rayClusterSpec rayVersion authOptions mode secretName headGroupSpec workerGroupSpecs groupName
    replicas minReplicas maxReplicas rayStartParams template restartPolicy containers image ports
    containerPort env value envFrom secretRef resources requests limits cpu memory
"""


def fields(value: Any) -> Iterator[str]:
    """Yield the names of all fields below a value of a manifest."""
    for each in value if isinstance(value, list) else ():
        yield from fields(each)
    for name, each in value.items() if isinstance(value, dict) else ():
        yield name
        yield from () if name == "rayStartParams" else fields(each)


def test_job_of_kubernetes_conforms_to_its_schema_and_the_repository():
    text = (ROOT / "deploy/rayjob.yaml").read_text()
    manifest = yaml.safe_load(text)
    spec = manifest["spec"]
    cluster = spec["rayClusterSpec"]

    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    assert set(fields(manifest)) <= set(FIELDS.split())
    assert cluster["rayVersion"] == RAY
    assert (ROOT / spec["entrypoint"].split()[1]).is_file()
    assert "working_dir" in yaml.safe_load(spec["runtimeEnvYAML"])
    assert spec["backoffLimit"] == 0  # a job that failed for its own reason is not repeated
    # authOptions since 1.5.1, its secretName since 1.6.0, backoffLimit since 1.2.0
    for each in (text, (ROOT / "docs/cluster.md").read_text()):
        assert re.findall(r"KubeRay \(?(\d+\.\d+)", each) == ["1.6"]

    [secret] = re.findall(r"create secret generic (\S+) --from-literal=auth_token=", text)
    assert cluster["authOptions"] == {"mode": "token", "secretName": secret}
    templates = [cluster["headGroupSpec"]["template"], spec["submitterPodTemplate"]]
    templates += [group["template"] for group in cluster["workerGroupSpecs"]]
    head, *others = [c for template in templates for c in template["spec"]["containers"]]
    variables = {each["name"]: each["value"] for each in head["env"]}
    named = {*variables, *(each["name"] for c in others for each in c.get("env", []))}
    assert [name for name in named if name.startswith(("AWS_", "RAY_AUTH"))] == []
    # A lost pod is detected as soon as a lost host.
    checks = {name: value for name, value in variables.items() if name.startswith("RAY_health")}
    start = (ROOT / "cluster.yaml").read_text()
    assert checks == {f"RAY_health_check_{name}": value for name, value in HEALTH.findall(start)}


def test_dashboard_queries_every_metric_and_no_other():
    panels = json.loads((ROOT / "deploy/grafana.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    source = (ROOT / "nanograd/distributed/prometheus.py").read_text()

    # Ray and Prometheus add a prefix and suffixes to the name of a metric.
    exported = re.compile(r"ray_(nanograd_\w+?)(?:_total|_bucket|_sum|_count)?\b")
    queried = {name for query in queries for name in exported.findall(query)}
    assert queried == set(re.findall(r'"(nanograd_\w+)"', source))
    for query in queries:
        assert [query.count(each) for each in "([{"] == [query.count(each) for each in ")]}"]
        assert '{output=~"$output"}' in query
