"""The entry of a rank: one worker process of one attempt. Knows torch.distributed, not Ray."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from orchestrator.checkpoint.listing import latest_checkpoint, step_of
from orchestrator.core.collectives import Collectives
from orchestrator.core.protocols import Tracker
from orchestrator.core.run_directory import RunDirectory
from orchestrator.spec.elastic import with_workers
from orchestrator.spec.job import JobSpec, WorkerRange
from orchestrator.spec.load import load_recipe_job
from orchestrator.tracking.metrics_file import trim_metrics
from orchestrator.tracking.system_metrics import SystemMetrics
from orchestrator.tracking.tracker import NullTracker, RunTracker
from orchestrator.train.assemble import assemble
from orchestrator.train.context import RankContext
from orchestrator.train.export import export_weights
from orchestrator.train.phases import train_phases
from orchestrator.train.process import device_of, own_process


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
    with own_process(directory.rank_log(attempt, int(os.environ.get("RANK", "0")))):
        whole = load_recipe_job(directory.resolved_spec)
        workers = whole.resources.workers
        torch.set_num_threads(max(1, int(whole.resources.cpus_per_worker)))
        collectives = Collectives()
        # Of a range the workers that there are now: nothing below knows of others.
        spec = with_workers(whole, collectives.world_size)
        context = RankContext(
            run_directory=directory,
            attempt=attempt,
            collectives=collectives,
            device=device_of(spec),
            nodes=tuple(collectives.all_gather_object(node)),
            worker_range=workers if isinstance(workers, WorkerRange) else None,
        )
        with watch_node(spec, context.nodes, collectives.rank, tracking_uri, mlflow_run_id):
            return Training(spec, context, tracking_uri, mlflow_run_id).run()


class Training:
    """One rank's training of one model, restored from its latest checkpoint where there is one.

    Args:
        spec: the job.
        context: of this rank.
        uri: address of MLflow.
        run_id: the job's MLflow run.

    Raises:
        OrchestratorError: where it cannot be assembled.
    """

    def __init__(self, spec: JobSpec, context: RankContext, uri: str, run_id: str) -> None:
        self._context = context
        directory = context.run_directory
        self._tracker = _open_tracker(directory, uri, run_id) if context.collectives.rank == 0 else NullTracker()
        try:
            self._phases = assemble(spec, context, self._tracker)
        except BaseException:
            self._tracker.close()
            raise

    def run(self) -> dict[str, Any]:
        """Train until the job is finished or stopped; ``outcome`` and ``step``."""
        directory = self._context.run_directory
        try:
            outcome, step = train_phases(self._phases, self._context, self._tracker)
            if outcome == "finished" and self._context.collectives.rank == 0:
                export_weights(directory.checkpoints / f"step_{step}", directory.model_file)
            return {"outcome": outcome, "step": step}
        finally:
            self._tracker.close()


def _open_tracker(directory: RunDirectory, uri: str, run_id: str) -> Tracker:
    """The tracker, with the metrics cut back to the checkpoint: the steps after it are taken again."""
    checkpoint = latest_checkpoint(directory.checkpoints)
    trim_metrics(directory, 0 if checkpoint is None else step_of(checkpoint))
    return RunTracker(directory, uri, run_id)


def watch_node(spec: JobSpec, nodes: tuple[str, ...], rank: int, uri: str, run_id: str) -> AbstractContextManager[Any]:
    """System metrics of this rank's node, from the first of its ranks."""
    every_s = spec.tracking.system_metrics_every_s
    if every_s is None or nodes.index(nodes[rank]) != rank:
        return nullcontext()
    return SystemMetrics(uri, run_id, nodes[rank], every_s)
