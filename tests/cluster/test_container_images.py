"""Images and the composition of containers: lint-clean, legal, non-root, from one list of pins, secrets from outside.

There is no Docker engine here, so nothing is built.
"""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_definitions import DOCKER, ROOT, documents, linter
from jsonschema import Draft7Validator

SCHEMA = json.loads((Path(__file__).parent / "schemas" / "compose.json").read_text(encoding="utf-8"))
DOCKERFILES = [DOCKER / "Dockerfile.cpu", DOCKER / "Dockerfile.cuda"]
COMPOSITIONS = [DOCKER / "compose.yaml", DOCKER / "compose.cuda.yaml"]
OURS = ("mlflow", "head", "worker")


@pytest.fixture
def compose() -> dict[str, Any]:
    (document,) = documents(COMPOSITIONS[0])
    return document


def instructions(path: Path) -> list[str]:
    lines = re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8")).splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_has_nothing_to_say(path: Path) -> None:
    result = subprocess.run([linter("hadolint"), str(path)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_both_images_are_made_alike_from_one_list_of_pins() -> None:
    cpu, cuda = map(instructions, DOCKERFILES)
    assert [line for line in cuda if line not in cpu] == [
        "ENV ORCHESTRATOR_STORAGE=/runs NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility"
    ]
    assert len(cpu) == len(cuda)
    assert any("pip install --constraint constraints.txt" in line and '".[server]"' in line for line in cpu)
    users = [line for line in cpu if line.startswith("USER ")]
    assert users == ["USER 1000:1000"]


def test_the_images_get_what_they_copy() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = {name for line in instructions(DOCKERFILES[0]) if line.startswith("COPY ") for name in line.split()[1:-1]}
    assert copied == {"pyproject.toml", "constraints.txt", "README.md", "orchestrator"}
    assert {f"!{name}" for name in copied} <= set(ignored)
    assert all((ROOT / name).exists() for name in copied)


def test_the_servers_driver_of_postgresql_is_pinned() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(r"^psycopg==", pins, re.MULTILINE)
    assert f"ray=={metadata.version('ray')}" in pins
    assert f"mlflow=={metadata.version('mlflow')}" in pins


@pytest.mark.parametrize("path", COMPOSITIONS, ids=lambda path: path.name)
def test_the_composition_is_legal(path: Path) -> None:
    (document,) = documents(path)
    assert [f"{e.json_path}: {e.message}" for e in Draft7Validator(SCHEMA).iter_errors(document)] == []
    document["services"]["worker"]["imag"] = "x"
    assert len(list(Draft7Validator(SCHEMA).iter_errors(document))) == 1


def test_every_service_is_watched_and_waits_for_what_it_needs(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services.keys() == {"postgres", *OURS}
    needs = {name: list(service.get("depends_on", {})) for name, service in services.items()}
    assert needs == {"postgres": [], "mlflow": ["postgres"], "head": ["mlflow"], "worker": ["head"]}
    for service in services.values():
        assert service["healthcheck"]["test"]
        for condition in service.get("depends_on", {}).values():
            assert condition == {"condition": "service_healthy"}


def test_only_mlflow_reaches_the_database_and_only_this_machine_the_ports(compose: dict[str, Any]) -> None:
    networks = {name: service["networks"] for name, service in compose["services"].items()}
    assert [name for name, joined in networks.items() if "database" in joined] == ["postgres", "mlflow"]
    assert compose["networks"]["database"] == {"internal": True}
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for name in OURS:
        assert compose["services"][name]["cap_drop"] == ["ALL"]
        assert compose["services"][name]["security_opt"] == ["no-new-privileges:true"]


ASK_MLFLOW = """
import json, sys
from mlflow.cli import server
from mlflow.server.security_utils import is_allowed_host_header
arguments, hosts = json.loads(sys.argv[1])
found = server.make_context("server", arguments).params  # parses, and runs no server
allowed = found["allowed_hosts"].split(",")
print(json.dumps([found, {host: is_allowed_host_header(allowed, host) for host in hosts}]))
"""
"""In a process of its own, because mlflow.cli warns when it is imported."""


def test_mlflow_answers_to_the_name_that_workers_use(compose: dict[str, Any]) -> None:
    services = compose["services"]
    program, command, *arguments = services["mlflow"]["command"].split()
    assert (program, command) == ("mlflow", "server")
    uris = {services[name]["environment"]["MLFLOW_TRACKING_URI"] for name in ("head", "worker")}
    assert uris == {"http://mlflow:5000"}
    given = json.dumps([arguments, ["mlflow:5000", "localhost:5000", "elsewhere:5000", "mlflow:80"]])
    asked = subprocess.run([sys.executable, "-c", ASK_MLFLOW, given], capture_output=True, text=True, check=True)
    found, allowed = json.loads(asked.stdout)
    assert found["serve_artifacts"]
    assert (found["host"], found["port"], found["artifacts_destination"]) == ("0.0.0.0", 5000, "/artifacts")
    assert allowed == {"mlflow:5000": True, "localhost:5000": True, "elsewhere:5000": False, "mlflow:80": False}
    assert "http://mlflow:5000/api/" in services["mlflow"]["healthcheck"]["test"][-1]


def test_secrets_come_from_the_environment_and_are_asked_for(compose: dict[str, Any]) -> None:
    text = COMPOSITIONS[0].read_text(encoding="utf-8")
    wanted = set(re.findall(r"\$\{([A-Z_]+)", text))
    example = (DOCKER / ".env.example").read_text(encoding="utf-8")
    offered = dict(re.findall(r"^([A-Z_]+)=(.*)$", example, re.MULTILINE))
    assert wanted - offered.keys() == {"TORCH_INDEX"}
    assert {name for name, value in offered.items() if not value} == {"POSTGRES_PASSWORD", "RAY_AUTH_TOKEN"}
    for name in ("POSTGRES_PASSWORD", "RAY_AUTH_TOKEN"):
        assert len(re.findall(rf"\$\{{{name}(?!:\?)", text)) == 0, "an empty secret must be refused"
    assert "docker/.env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_containers_share_the_runs(compose: dict[str, Any]) -> None:
    for name in ("head", "worker"):
        service = compose["services"][name]
        assert "runs:/runs" in service["volumes"]
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
    assert yaml.safe_load(COMPOSITIONS[1].read_text())["services"]["worker"]["image"] == "orchestrator:cuda"
