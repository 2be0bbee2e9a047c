"""What is handed to KubeRay: legal by the schema of its operator, which refuses what it does not know."""

import json
import shlex
from collections.abc import Iterator
from copy import deepcopy
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from cluster_definitions import CLUSTER, documents
from jsonschema import Draft202012Validator
from typer.main import get_command

from orchestrator.cli.main import app
from orchestrator.spec.load import load_spec

SCHEMA = json.loads((Path(__file__).parent / "schemas" / "kuberay.json").read_text(encoding="utf-8"))
FOLDER = CLUSTER / "kuberay"


def closed(schema: Any) -> Any:
    """The schema with unknown fields refused wherever fields are listed, as `kubectl apply` does."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


def problems(kind: str, spec: dict[str, Any]) -> list[str]:
    schema = {"$ref": f"#/$defs/{kind}", "$defs": {name: closed(part) for name, part in SCHEMA["$defs"].items()}}
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(spec)]


@pytest.fixture
def cluster() -> dict[str, Any]:
    (document,) = documents(FOLDER / "raycluster.yaml")
    return document


@pytest.fixture
def job() -> dict[str, Any]:
    return documents(FOLDER / "rayjob.yaml")[0]


def test_the_cluster_is_legal(cluster: dict[str, Any]) -> None:
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    assert problems("clusterSpec", cluster["spec"]) == []


def test_the_job_is_legal(job: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert problems("jobSpec", job["spec"]) == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["workerGroupSpecs", 0, "maxReplica"], 3, "'maxReplica' was unexpected"),
        (["headGroupSpec", "template", "spec", "containers", 0, "imag"], "x", "'imag' was unexpected"),
        (["autoscalerOptions", "version"], "v3", "'v3' is not one of"),
        (["rayVersion"], 2.6, "is not of type 'string'"),
        (["headGroupSpec", "rayStartParams", "num-cpus"], 0, "is not of type 'string'"),
    ],
)
def test_the_schema_notices_mistakes(path: list[Any], value: Any, message: str, cluster: dict[str, Any]) -> None:
    spec = deepcopy(cluster["spec"])
    place = spec
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert any(message in problem for problem in problems("clusterSpec", spec))


def groups(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield spec["headGroupSpec"]
    yield from spec["workerGroupSpecs"]


def test_all_pods_share_the_storage_and_run_as_nobody_special(cluster: dict[str, Any], job: dict[str, Any]) -> None:
    (claim,) = documents(FOLDER / "storage.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for spec in (cluster["spec"], job["spec"]["rayClusterSpec"]):
        assert spec["rayVersion"] == metadata.version("ray")
        assert spec["authOptions"] == {"mode": "token"}
        for group in groups(spec):
            pod = group["template"]["spec"]
            claims = {v["name"]: v.get("persistentVolumeClaim", {}).get("claimName") for v in pod["volumes"]}
            assert claims["runs"] == claim["metadata"]["name"]
            assert pod["securityContext"]["runAsNonRoot"]
            for container in pod["containers"]:
                mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
                assert mounts["runs"] == "/runs"
                assert mounts.keys() <= claims.keys()
                assert {"name": "ORCHESTRATOR_STORAGE", "value": "/runs"} in container["env"]
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_entrypoint_is_a_command_of_ours(job: dict[str, Any]) -> None:
    program, name, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert program == "orchestrator"
    command = get_command(app).commands[name]
    context = command.make_context(name, list(arguments))
    assert context.params["follow"]
    assert context.params["resume"]
    assert str(context.params["spec"]) == "/job/job.yaml"


def test_the_job_in_the_config_map_is_in_order(tmp_path: Path) -> None:
    job, config = documents(FOLDER / "rayjob.yaml")
    volumes = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    assert config["metadata"]["name"] in [volume.get("configMap", {}).get("name") for volume in volumes]
    for name, text in config["data"].items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    spec = load_spec(tmp_path / "job.yaml").spec
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert spec.resources.workers == workers["replicas"]
