"""The entry of a worker of the served topology."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from orchestrator.core.run_directory import RunDirectory
from orchestrator.spec.load import load_recipe_job
from orchestrator.spec.methods.asynchronous import Asynchronous
from orchestrator.tracking.system_metrics import SystemMetrics
from orchestrator.train.chunk_worker import ChunkWorker
from orchestrator.train.lease_worker import LeaseWorker
from orchestrator.train.process import device_of, own_process


def main(
    run_directory: str,
    attempt: int,
    tracking_uri: str,
    mlflow_run_id: str,
    node: str,
    watches_node: bool,
    port: Any,
    on_ready: Callable[[], None],
) -> None:
    """Compute what this worker is assigned until the job ends.

    A failure is left in ``logs/<attempt>/failure_rank_<k>.json`` before it is raised.

    Args:
        run_directory: of the job, prepared by ``launch``.
        attempt: life of the job, from 1.
        tracking_uri: address of MLflow; it need not answer.
        mlflow_run_id: the job's MLflow run.
        node: name of the node that this worker runs on.
        watches_node: whether the node's system metrics are this worker's to send.
        port: to the shards; a ``LeasePort`` in asynchronous training, else a ``WorkerPort``.
        on_ready: called once the model is built and assignments may come.
    """
    directory = RunDirectory(run_directory)
    worker = port.sender.worker
    with own_process(directory.rank_log(attempt, worker)):
        spec = load_recipe_job(directory.resolved_spec)
        torch.set_num_threads(max(1, int(spec.resources.cpus_per_worker)))
        os.environ.update(RANK=str(worker), WORLD_SIZE=str(spec.resources.num_workers))
        kind = LeaseWorker if isinstance(spec.exchange, Asynchronous) else ChunkWorker
        computing = kind(spec, directory.code, port, device_of(spec))
        every_s = spec.tracking.system_metrics_every_s if watches_node else None
        with nullcontext() if every_s is None else SystemMetrics(tracking_uri, mlflow_run_id, node, every_s):
            on_ready()
            computing.serve()
