"""What is handed to `ray up`, judged by the installed Ray itself; and every `ray start` anywhere, by its options."""

from pathlib import Path
from typing import Any

import pytest
from cluster_definitions import CLUSTER, DOCKER, commands_in, documents, options_of
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

FILES = [CLUSTER / "on_premises" / "cluster.yaml", CLUSTER / "cloud" / "aws.yaml"]
STARTERS = [*FILES, CLUSTER / "slurm" / "job.sh", DOCKER / "compose.yaml"]


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    (document,) = documents(request.param)
    return document


def test_ray_takes_it(config: dict[str, Any]) -> None:
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["head_node_type"] in prepared["available_node_types"]


def test_ray_refuses_a_field_that_it_does_not_know(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        validate_config(prepare_config({**config, "max_worker": 3}))
    assert "('max_worker' was unexpected)" in caught.value.message


def test_on_premises_all_machines_stay() -> None:
    (config,) = documents(FILES[0])
    prepared = prepare_config(config)
    (workers,) = prepared["available_node_types"].values()
    assert (workers["min_workers"], workers["max_workers"]) == (2, 2)
    assert len(config["provider"]["worker_ips"]) == 2


def test_in_the_cloud_the_head_trains_nothing_and_workers_come_on_demand() -> None:
    (config,) = documents(FILES[1])
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert config["available_node_types"]["gpu_worker"]["min_workers"] == 0


def test_every_node_gets_the_token(config: dict[str, Any]) -> None:
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert all("RAY_AUTH_MODE=token" in command for command in commands if "ray start" in command)


@pytest.mark.parametrize("path", STARTERS, ids=lambda path: path.name)
def test_ray_start_has_these_options(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("\n    --", " --").replace("\n      --", " --")
    known = {name for option in start.params for name in option.opts}
    calls = [options_of(arguments) for arguments in commands_in(text, "ray start")]
    assert len(calls) >= 1
    assert {name for call in calls for name in call} <= known
    assert "--head" in text
