"""The entry of a rank: one worker process of one attempt. Knows torch.distributed, not Ray."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from orchestrator.checkpoint.listing import latest_checkpoint, step_of
from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import OrchestratorError, RecipeError
from orchestrator.core.protocols import Tracker
from orchestrator.core.run_directory import RunDirectory, write_atomically
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import load_recipe_job
from orchestrator.tracking.metrics_file import trim_metrics
from orchestrator.tracking.system_metrics import SystemMetrics
from orchestrator.tracking.tracker import NullTracker, RunTracker
from orchestrator.train.assemble import assemble
from orchestrator.train.context import RankContext
from orchestrator.train.export import export_weights
from orchestrator.train.host_memory import keep_freed_memory
from orchestrator.train.phases import train_phases


def main(run_directory: str, attempt: int, tracking_uri: str, mlflow_run_id: str, node: str) -> dict[str, Any]:
    """Train as this process's rank until the job is finished or stopped.

    The process group, and RANK, WORLD_SIZE and LOCAL_RANK in the environment, are set up by the caller, as torchrun
    and Ray Train do. A failure is left in ``logs/<attempt>/failure_rank_<k>.json`` before it is raised.

    Args:
        run_directory: of the job, prepared by ``launch``.
        attempt: life of the job, from 1.
        tracking_uri: address of MLflow; it need not answer.
        mlflow_run_id: the job's MLflow run.
        node: name of the node that this rank runs on, different on each.

    Returns:
        ``outcome`` (finished or stopped) and ``step``.
    """
    directory = RunDirectory(run_directory)
    rank = int(os.environ.get("RANK", "0"))
    log = directory.rank_log(attempt, rank)
    _redirect_output(log)
    keep_freed_memory()
    # What libraries call of torch is theirs to change; their every call would be a line of the log.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    try:
        spec = load_recipe_job(directory.resolved_spec)
        return _train(spec, directory, attempt, tracking_uri, mlflow_run_id, node)
    except Exception as error:
        _leave_failure(log.with_name(f"failure_rank_{rank}.json"), error)
        raise


def _train(spec: JobSpec, directory: RunDirectory, attempt: int, uri: str, run_id: str, node: str) -> dict[str, Any]:
    torch.set_num_threads(max(1, int(spec.resources.cpus_per_worker)))
    collectives = Collectives()
    nodes = tuple(collectives.all_gather_object(node))
    context = RankContext(
        run_directory=directory, attempt=attempt, collectives=collectives, device=_device(spec), nodes=nodes
    )
    tracker = _open_tracker(directory, uri, run_id) if collectives.rank == 0 else NullTracker()
    try:
        with _watch_node(spec, context, uri, run_id):
            outcome, step = train_phases(assemble(spec, context, tracker), context, tracker)
            if outcome == "finished" and collectives.rank == 0:
                export_weights(directory.checkpoints / f"step_{step}", directory.model_file)
            return {"outcome": outcome, "step": step}
    finally:
        tracker.close()


def _open_tracker(directory: RunDirectory, uri: str, run_id: str) -> Tracker:
    """The tracker, with the metrics cut back to the checkpoint: the steps after it are taken again."""
    checkpoint = latest_checkpoint(directory.checkpoints)
    trim_metrics(directory, 0 if checkpoint is None else step_of(checkpoint))
    return RunTracker(directory, uri, run_id)


def _watch_node(spec: JobSpec, context: RankContext, uri: str, run_id: str) -> AbstractContextManager[Any]:
    """System metrics of this node, from the first of its ranks."""
    every_s = spec.tracking.system_metrics_every_s
    node = context.nodes[context.collectives.rank]
    if every_s is None or context.nodes.index(node) != context.collectives.rank:
        return nullcontext()
    return SystemMetrics(uri, run_id, node, every_s)


def _device(spec: JobSpec) -> torch.device:
    if spec.resources.gpus_per_worker == 0:
        return torch.device("cpu")
    # Ray names the device of a worker that may see all GPUs of its node; torchrun counts by local rank.
    device = torch.device(os.environ.get("ACCELERATE_TORCH_DEVICE", f"cuda:{os.environ.get('LOCAL_RANK', '0')}"))
    torch.cuda.set_device(device)
    return device


def _redirect_output(log: Path) -> None:
    """Send everything that this process prints, C libraries included, to the rank's own log file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    # Ray replaces sys.stdout by a wrapper with its own file; ours must write to the descriptors again.
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _leave_failure(path: Path, error: Exception) -> None:
    cause = "user_error" if isinstance(error, RecipeError) else "worker_crash"
    details = traceback.format_exc()
    message = str(error) if isinstance(error, OrchestratorError) else f"{type(error).__name__}: {error}"
    write_atomically(path, json.dumps({"cause": cause, "message": message, "details": details}))
    print(details, file=sys.stderr, flush=True)
