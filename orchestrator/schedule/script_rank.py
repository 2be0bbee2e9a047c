"""What a Ray Train worker runs for a job with a script: the part that torchrun has elsewhere."""

from __future__ import annotations

import json
import os
import random
import socket
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray.train import get_context
from ray.train.backend import Backend, BackendConfig
from ray.train.collective import broadcast_from_rank_zero

from orchestrator.core.errors import OrchestratorError
from orchestrator.core.run_directory import RunDirectory, write_atomically
from orchestrator.schedule.script_process import ScriptEnd, last_words, run_script
from orchestrator.schedule.worker import node_name
from orchestrator.spec.job import ScriptJobSpec
from orchestrator.spec.load import load_resolved
from orchestrator.tracking.system_metrics import SystemMetrics
from orchestrator.tracking.uri import redact

# Above the ports of Ray's workers, below those that the system gives to outgoing connections: the port that is found
# here stays free until the script has imported torch and listens.
_PORTS = range(20000, 32768)


class ScriptError(OrchestratorError):
    """The script of a rank did not end well."""


class _SharedGpus(Backend):  # type: ignore[misc]  # Ray has no types
    """Every worker sees the GPUs of all workers of its node, as under torchrun; ``LOCAL_RANK`` picks one."""

    share_cuda_visible_devices = True


class ScriptBackendConfig(BackendConfig):  # type: ignore[misc]
    """Leaves the process group and MASTER_PORT to the script."""

    @property
    def backend_cls(self) -> type[Backend]:
        """What Ray sets up in the workers."""
        return _SharedGpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a rank stands among all; the fields are torchrun's variables."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    node_rank: int
    master_addr: str
    master_port: int

    def variables(self) -> dict[str, str]:
        """The place as environment variables."""
        names = {name.upper(): str(value) for name, value in asdict(self).items()}
        return {**names, "GROUP_RANK": names["NODE_RANK"]}


def run_script_rank(config: dict[str, Any]) -> dict[str, Any]:
    """Run the job's script as this worker's rank.

    Args:
        config: ``run_directory``, ``attempt``, ``tracking_uri`` and ``mlflow_run_id``, as ``train.rank.main`` has them.

    Returns:
        ``outcome`` (finished or stopped) and ``message``.

    Raises:
        ScriptError: where the script failed; its cause is left in ``logs/<attempt>/failure_rank_<k>.json`` before.
    """
    directory, attempt = RunDirectory(config["run_directory"]), config["attempt"]
    uri, run_id = config["tracking_uri"], config["mlflow_run_id"]
    spec = load_resolved(directory.resolved_spec)
    assert isinstance(spec, ScriptJobSpec)  # the driver has looked
    place = _place()
    log = directory.rank_log(attempt, place.rank)
    log.parent.mkdir(parents=True, exist_ok=True)
    with _watch_node(spec, place, uri, run_id):
        end = run_script(
            # -u as torchrun has it: what is printed is in the log, also of a script that is killed.
            [sys.executable, "-u", spec.script.path, *spec.script.command_line],
            folder=directory.code,
            env=script_environment(os.environ, spec, place, directory, attempt, uri, run_id),
            log=log,
            stop_requested=directory.stop_file.exists,
        )
    name = f"{spec.script.path} on rank {place.rank}"
    if end.stopped:
        return {"outcome": "stopped", "message": f"stopped; {name} {end}"}
    if end.exit_code != 0:
        cause, message = explain(name, end, redact(last_words(log)))
        write_atomically(
            log.with_name(f"failure_rank_{place.rank}.json"),
            json.dumps({"cause": cause, "message": message, "exit_code": end.shell_code}),
        )
        raise ScriptError(message)
    return {"outcome": "finished", "message": f"{spec.script.path} finished on {place.world_size} workers"}


def explain(name: str, end: ScriptEnd, words: str) -> tuple[str, str]:
    """Cause and message for a script that failed: a process that a signal ended is lost, like a worker's own."""
    return "worker_lost" if end.exit_code < 0 else "user_error", f"{name} {end}{f': {words}' if words else ''}"


def script_environment(
    environ: Mapping[str, str],
    spec: ScriptJobSpec,
    place: Place,
    directory: RunDirectory,
    attempt: int,
    tracking_uri: str,
    mlflow_run_id: str,
) -> dict[str, str]:
    """The environment of a rank's script: the worker's, with torchrun's and MLflow's variables over it.

    ``ORCHESTRATOR_RUN_DIRECTORY`` and ``ORCHESTRATOR_ATTEMPT`` (from 1) tell a script that wants to know.
    """
    # MLflow takes this one before the name.
    inherited = {name: value for name, value in environ.items() if name != "MLFLOW_EXPERIMENT_ID"}
    share = {"OMP_NUM_THREADS": str(max(1, int(spec.resources.cpus_per_worker)))}
    if spec.resources.gpus_per_worker == 0:
        share["CUDA_VISIBLE_DEVICES"] = ""
    return {
        **inherited,
        **{name: value for name, value in share.items() if name not in spec.env},
        **place.variables(),
        "TORCHELASTIC_RESTART_COUNT": str(attempt - 1),
        "MLFLOW_TRACKING_URI": tracking_uri,
        "MLFLOW_EXPERIMENT_NAME": spec.tracking.experiment or spec.name,
        "MLFLOW_RUN_ID": mlflow_run_id,
        "ORCHESTRATOR_RUN_DIRECTORY": str(directory.root),
        "ORCHESTRATOR_ATTEMPT": str(attempt),
    }


def free_port() -> int:
    """A port of this node that nobody listens on.

    Raises:
        OrchestratorError: where there is none.
    """
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise OrchestratorError(
        f"MASTER_PORT: no port from {_PORTS.start} to {_PORTS.stop - 1} is free on {socket.gethostname()}"
    )


def _place() -> Place:
    context = get_context()
    rank = context.get_world_rank()
    meeting = (ray.util.get_node_ip_address(), free_port()) if rank == 0 else None
    master_addr, master_port = broadcast_from_rank_zero(meeting)
    return Place(
        rank=rank,
        world_size=context.get_world_size(),
        local_rank=context.get_local_rank(),
        local_world_size=context.get_local_world_size(),
        node_rank=context.get_node_rank(),
        master_addr=master_addr,
        master_port=master_port,
    )


def _watch_node(spec: ScriptJobSpec, place: Place, uri: str, run_id: str) -> AbstractContextManager[Any]:
    """System metrics of this node, from the first of its ranks."""
    every_s = spec.tracking.system_metrics_every_s
    if every_s is None or place.local_rank != 0:
        return nullcontext()
    return SystemMetrics(uri, run_id, node_name(), every_s)
