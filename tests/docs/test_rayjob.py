"""deploy/rayjob.yaml conforms to the fields of KubeRay's v1 types that it uses.

The custom resource definition is not part of this repository. The subset below was written by hand
from its Go types; an unknown field is an error, as in KubeRay.

References:
    KubeRay, ray-operator/apis/ray/v1/rayjob_types.go and raycluster_types.go.
"""

import re
import tomllib
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import ROOT


def strict_object(required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def array(items: dict[str, Any], **limits: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **limits}


TEXT, COUNT = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
AMOUNTS = strict_object("cpu memory", cpu=TEXT, memory=TEXT)
GIVEN = strict_object("name value", name=TEXT, value={"type": "string"})
PORT = strict_object("containerPort", containerPort=COUNT, name={"maxLength": 15, **TEXT})
CONTAINER = strict_object(
    "name image",
    name=TEXT,
    image=TEXT,
    ports=array(PORT),
    env=array(GIVEN),
    envFrom=array(strict_object("secretRef", secretRef=strict_object("name", name=TEXT))),
    resources=strict_object("requests limits", requests=AMOUNTS, limits=AMOUNTS),
)
POD = strict_object(
    "spec",
    spec=strict_object(
        "containers",
        restartPolicy={"enum": ["Never", "OnFailure", "Always"]},
        containers=array(CONTAINER, minItems=1),
    ),
)
HEAD = strict_object("rayStartParams template", rayStartParams=TEXTS, template=POD)
WORKERS = strict_object(
    "groupName minReplicas maxReplicas rayStartParams template",
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    rayStartParams=TEXTS,
    template=POD,
)
RAY_JOB = strict_object(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=strict_object(
        "name", name={"pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47}
    ),
    spec=strict_object(
        "entrypoint rayClusterSpec",
        entrypoint=TEXT,
        runtimeEnvYAML=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=COUNT,
        backoffLimit=COUNT,
        submitterPodTemplate=POD,
        rayClusterSpec=strict_object(
            "headGroupSpec",
            rayVersion=TEXT,
            authOptions=strict_object(
                "mode", mode={"enum": ["disabled", "token"]}, secretName=TEXT
            ),
            headGroupSpec=HEAD,
            workerGroupSpecs=array(WORKERS),
        ),
    ),
)


@pytest.fixture
def manifest() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "deploy/rayjob.yaml").read_text())
    return loaded


def containers(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    spec = manifest["spec"]
    cluster = spec["rayClusterSpec"]
    pods = [spec["submitterPodTemplate"], cluster["headGroupSpec"]["template"]]
    pods += [group["template"] for group in cluster["workerGroupSpecs"]]
    return [container for pod in pods for container in pod["spec"]["containers"]]


def test_manifest_conforms_to_the_schema(manifest: dict[str, Any]) -> None:
    jsonschema.validate(manifest, RAY_JOB)


def test_unknown_field_is_an_error(manifest: dict[str, Any]) -> None:
    manifest["spec"]["rayClusterSpec"]["workerGroupSpec"] = []

    with pytest.raises(jsonschema.ValidationError, match="workerGroupSpec"):
        jsonschema.validate(manifest, RAY_JOB)


def test_versions_and_entry_point_are_those_of_the_repository(manifest: dict[str, Any]) -> None:
    pinned = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    job = manifest["spec"]["entrypoint"].split()[1]

    assert [manifest["spec"]["rayClusterSpec"]["rayVersion"]] == pinned
    assert (ROOT / job).is_file()
    assert "working_dir" in yaml.safe_load(manifest["spec"]["runtimeEnvYAML"])


def test_operator_is_told_the_secret_with_the_token(manifest: dict[str, Any]) -> None:
    file = (ROOT / "deploy/rayjob.yaml").read_text()
    [secret] = re.findall(r"create secret generic (\S+) --from-literal=auth_token=", file)

    options = manifest["spec"]["rayClusterSpec"]["authOptions"]

    assert options == {"mode": "token", "secretName": secret}


def test_no_secret_is_in_a_variable_of_the_file(manifest: dict[str, Any]) -> None:
    names = {each["name"] for c in containers(manifest) for each in c.get("env", [])}

    assert not [name for name in names if name.startswith(("AWS_", "RAY_AUTH"))]


def test_page_and_file_name_one_version_of_kuberay(manifest: dict[str, Any]) -> None:
    texts = [(ROOT / name).read_text() for name in ("deploy/rayjob.yaml", "docs/kubernetes.md")]

    # authOptions since 1.5.1, its secretName since 1.6.0, backoffLimit since 1.2.0
    assert [re.findall(r"KubeRay \(?(\d+\.\d+)", text) for text in texts] == [["1.6"], ["1.6"]]


def test_lost_pod_is_detected_as_soon_as_a_lost_host(manifest: dict[str, Any]) -> None:
    start = (ROOT / "cluster.yaml").read_text()
    [head] = [c for c in containers(manifest) if c["name"] == "ray-head"]

    checks = {e["name"]: e["value"] for e in head["env"] if e["name"].startswith("RAY_health")}

    assert checks == dict(re.findall(r"(RAY_health_check_\w+)=(\d+)", start))


def test_job_that_failed_for_its_own_reason_is_not_repeated(manifest: dict[str, Any]) -> None:
    assert manifest["spec"]["backoffLimit"] == 0


def test_newest_ray_allowed_is_the_one_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [ray] = [each for each in project["dependencies"] if each.startswith("ray[")]
    [(major, minor)] = re.findall(
        r"^ray==(\d+)\.(\d+)\.", (ROOT / "constraints.txt").read_text(), re.MULTILINE
    )

    assert ray.rpartition("<")[2] == f"{major}.{int(minor) + 1}"
