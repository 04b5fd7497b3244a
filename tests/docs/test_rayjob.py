"""deploy/rayjob.yaml against what KubeRay's v1 types say about the fields it uses.

The custom resource definition itself is not part of this repository: what is checked is the subset
below, written by hand from its Go types, in which an unknown field is an error as it is there.

References:
    KubeRay, ray-operator/apis/ray/v1/rayjob_types.go and raycluster_types.go.
"""

import re
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import ROOT


def closed(required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


TEXT, COUNT = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
AMOUNTS = closed("cpu memory", cpu=TEXT, memory=TEXT)
KEY = closed("secretKeyRef", secretKeyRef=closed("name key", name=TEXT, key=TEXT))
CONTAINER = closed(
    "name image",
    name=TEXT,
    image=TEXT,
    ports={
        "type": "array",
        "items": closed("containerPort", containerPort=COUNT, name={"maxLength": 15, **TEXT}),
    },
    env={
        "type": "array",
        "items": {
            "oneOf": [
                closed("name value", name=TEXT, value={"type": "string"}),
                closed("name valueFrom", name=TEXT, valueFrom=KEY),
            ]
        },
    },
    envFrom={
        "type": "array",
        "items": closed("secretRef", secretRef=closed("name", name=TEXT)),
    },
    resources=closed("requests limits", requests=AMOUNTS, limits=AMOUNTS),
)
POD = closed(
    "spec",
    spec=closed(
        "containers",
        restartPolicy={"enum": ["Never", "OnFailure", "Always"]},
        containers={"type": "array", "items": CONTAINER, "minItems": 1},
    ),
)
HEAD = closed("rayStartParams template", rayStartParams=TEXTS, template=POD)
WORKERS = closed(
    "groupName minReplicas maxReplicas rayStartParams template",
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    rayStartParams=TEXTS,
    template=POD,
)
RAY_JOB = closed(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=closed("name", name={"pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47}),
    spec=closed(
        "entrypoint rayClusterSpec",
        entrypoint=TEXT,
        runtimeEnvYAML=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=COUNT,
        backoffLimit=COUNT,
        submitterPodTemplate=POD,
        rayClusterSpec=closed(
            "headGroupSpec",
            rayVersion=TEXT,
            headGroupSpec=HEAD,
            workerGroupSpecs={"type": "array", "items": WORKERS},
        ),
    ),
)


@pytest.fixture
def manifest() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ROOT / "deploy/rayjob.yaml").read_text())
    return read


def containers(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    spec = manifest["spec"]
    cluster = spec["rayClusterSpec"]
    pods = [spec["submitterPodTemplate"], cluster["headGroupSpec"]["template"]]
    pods += [group["template"] for group in cluster["workerGroupSpecs"]]
    return [container for pod in pods for container in pod["spec"]["containers"]]


def test_manifest_uses_only_known_fields_as_they_are_meant(manifest: dict[str, Any]) -> None:
    jsonschema.validate(manifest, RAY_JOB)


def test_unknown_field_is_an_error(manifest: dict[str, Any]) -> None:
    manifest["spec"]["rayClusterSpec"]["workerGroupSpec"] = []

    with pytest.raises(jsonschema.ValidationError, match="workerGroupSpec"):
        jsonschema.validate(manifest, RAY_JOB)


def test_versions_and_entry_point_are_ours(manifest: dict[str, Any]) -> None:
    pinned = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    job = manifest["spec"]["entrypoint"].split()[1]

    assert [manifest["spec"]["rayClusterSpec"]["rayVersion"]] == pinned
    assert (ROOT / job).is_file()
    assert "working_dir" in yaml.safe_load(manifest["spec"]["runtimeEnvYAML"])


def test_every_pod_asks_for_the_token_and_none_has_it_in_clear(manifest: dict[str, Any]) -> None:
    environments = [{each["name"]: each for each in c["env"]} for c in containers(manifest)]

    assert len(environments) == 3
    for environment in environments:
        assert environment["RAY_AUTH_MODE"]["value"] == "token"
        assert "valueFrom" in environment["RAY_AUTH_TOKEN"]
        assert not [name for name in environment if name.startswith("AWS_")]


def test_lost_pod_is_noticed_as_soon_as_a_lost_host(manifest: dict[str, Any]) -> None:
    start = (ROOT / "cluster.yaml").read_text()
    [head] = [c for c in containers(manifest) if c["name"] == "ray-head"]

    checks = {e["name"]: e["value"] for e in head["env"] if e["name"].startswith("RAY_health")}

    assert checks == dict(re.findall(r"(RAY_health_check_\w+)=(\d+)", start))
