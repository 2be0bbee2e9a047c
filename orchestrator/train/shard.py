"""The entry of a shard: a rank of the served topology, which owns tensors and computes no gradient."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from orchestrator.core.collectives import Collectives
from orchestrator.core.links import ShardLinks
from orchestrator.core.run_directory import RunDirectory
from orchestrator.spec.load import load_recipe_job
from orchestrator.spec.methods.coded import Coded
from orchestrator.train.context import RankContext
from orchestrator.train.process import own_process
from orchestrator.train.rank import train_job

Result = dict[str, object]


def main(
    run_directory: str,
    attempt: int,
    tracking_uri: str,
    mlflow_run_id: str,
    node: str,
    shard: int,
    rendezvous: str,
    links: ShardLinks,
) -> Result:
    """Train as one of the job's shards until the job is finished or stopped.

    A failure is left in ``logs/<attempt>/failure_shard_<k>.json`` before it is raised.

    Args:
        run_directory: of the job, prepared by ``launch``.
        attempt: life of the job, from 1.
        tracking_uri: address of MLflow; it need not answer.
        mlflow_run_id: the job's MLflow run.
        node: name of the node that this shard runs on.
        shard: its number.
        rendezvous: where the shards meet, as ``tcp://host:port``.
        links: to the workers.

    Returns:
        ``outcome`` (finished or stopped) and ``step``.
    """
    directory = RunDirectory(run_directory)
    with own_process(directory.shard_log(attempt, shard)):
        spec = load_recipe_job(directory.resolved_spec)
        assert isinstance(spec.exchange, Coded)  # only served exchanges have shards
        torch.set_num_threads(max(1, int(spec.exchange.cpus_per_shard)))
        os.environ.update(RANK=str(shard), WORLD_SIZE=str(spec.exchange.shards))
        if spec.exchange.shards > 1:
            dist.init_process_group(
                "gloo", init_method=rendezvous, rank=shard, world_size=spec.exchange.shards
            )
        collectives = Collectives()
        context = RankContext(
            run_directory=directory,
            attempt=attempt,
            collectives=collectives,
            device=torch.device("cpu"),
            nodes=tuple(collectives.all_gather_object(node)),
            links=links,
        )
        return train_job(spec, context, tracking_uri, mlflow_run_id)
