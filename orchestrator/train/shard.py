"""The entry of a shard: a rank of the served topology, which owns tensors and computes no gradient."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import torch
import torch.distributed as dist

from orchestrator.checkpoint.listing import latest_checkpoint, step_of
from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import DivergedError
from orchestrator.core.links import ShardLinks
from orchestrator.core.run_directory import RunDirectory, write_atomically
from orchestrator.core.worker_watch import WorkerWatch
from orchestrator.exchange.asynchronous.push_log import PushLog
from orchestrator.exchange.asynchronous.pushes import Pushes
from orchestrator.exchange.served.place import ServedPlace
from orchestrator.exchange.served.rounds import Rounds
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import load_recipe_job
from orchestrator.spec.methods.asynchronous import Asynchronous
from orchestrator.spec.methods.coded import Coded
from orchestrator.spec.methods.served import Served
from orchestrator.spec.problems import shown
from orchestrator.spec.push_order import read_order
from orchestrator.spec.sweep import assignments_of, trials_of
from orchestrator.tracking.tracker import EventTracker
from orchestrator.train.context import RankContext
from orchestrator.train.process import own_process
from orchestrator.train.rank import Training, watch_node


def main(
    run_directory: str,
    attempt: int,
    tracking_uri: str,
    mlflow_run_id: str,
    node: str,
    shard: int,
    rendezvous: str,
    links: ShardLinks,
) -> dict[str, Any]:
    """Train as one of the job's shards until all its models are finished or stopped.

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
        ``outcome`` (finished or stopped) and ``step``, the least over the models.
    """
    directory = RunDirectory(run_directory)
    with own_process(directory.shard_log(attempt, shard)):
        spec = load_recipe_job(directory.resolved_spec)
        assert isinstance(spec.exchange, Served)  # only served exchanges have shards
        torch.set_num_threads(max(1, int(spec.exchange.cpus_per_shard)))
        os.environ.update(RANK=str(shard), WORLD_SIZE=str(spec.exchange.shards))
        if spec.exchange.shards > 1:
            dist.init_process_group("gloo", init_method=rendezvous, rank=shard, world_size=spec.exchange.shards)
        collectives = Collectives()
        nodes = tuple(collectives.all_gather_object(node))
        with watch_node(spec, nodes, collectives.rank, tracking_uri, mlflow_run_id):
            trainings = [
                Training(trial, context, tracking_uri, run_id or mlflow_run_id)
                for trial, context, run_id in _trials(spec, directory, attempt, collectives, nodes, links)
            ]
            if not spec.sweep:
                return trainings[0].run()
            note = TrialFailures(directory, attempt) if shard == 0 else None
            results, diverged = train_side_by_side([training.run for training in trainings], note)
            return _joined(spec, results, diverged if shard == 0 else {})


def _trials(
    spec: JobSpec,
    directory: RunDirectory,
    attempt: int,
    collectives: Collectives,
    nodes: tuple[str, ...],
    links: ShardLinks,
) -> list[tuple[JobSpec, RankContext, str | None]]:
    """Each model's job, what this shard is told of it, and its MLflow run where it has its own."""
    trials = trials_of(spec)
    directories = [directory.trial(k) for k in range(len(trials))] if spec.sweep else [directory]
    is_coordinator = collectives.rank == 0
    is_coded = isinstance(spec.exchange, Coded)
    rounds = open_rounds(spec, directory, directories, links) if is_coordinator and is_coded else None
    pushes = open_pushes(spec, directory, links) if is_coordinator and not is_coded else None
    return [
        (
            trial,
            RankContext(
                run_directory=place,
                attempt=attempt,
                # Models train in threads: each needs messages of its own.
                collectives=collectives.apart() if spec.sweep else collectives,
                device=torch.device("cpu"),
                nodes=nodes,
                served=ServedPlace(links=links, rounds=rounds, pushes=pushes, model=model),
            ),
            place.read_state().get("mlflow_run_id") if spec.sweep else None,
        )
        for model, (trial, place) in enumerate(zip(trials, directories, strict=True))
    ]


def open_rounds(spec: JobSpec, directory: RunDirectory, trials: list[RunDirectory], links: ShardLinks) -> Rounds:
    """The rounds that the models' steps are computed in, on the shard of rank 0."""
    assert isinstance(spec.exchange, Coded)
    checkpoints = [latest_checkpoint(trial.checkpoints) for trial in trials]
    last_step = min(0 if checkpoint is None else step_of(checkpoint) for checkpoint in checkpoints) * len(trials)
    watch = _watch(directory, links, last_step)
    return Rounds(spec.exchange, links, watch, num_models=len(trials))


def open_pushes(spec: JobSpec, directory: RunDirectory, links: ShardLinks) -> Pushes:
    """What takes the workers' pushes, on the shard of rank 0."""
    assert isinstance(spec.exchange, Asynchronous)
    checkpoint = latest_checkpoint(directory.checkpoints)
    last_step = 0 if checkpoint is None else step_of(checkpoint)
    order = spec.exchange.order
    return Pushes(
        spec.exchange,
        links,
        _watch(directory, links, last_step),
        PushLog(directory.pushes_file, version=last_step),
        EventTracker(directory),
        order=None if order is None else read_order(directory.code / order),
    )


def _watch(directory: RunDirectory, links: ShardLinks, last_step: int) -> WorkerWatch:
    return WorkerWatch(directory, EventTracker(directory), links.nodes, last_step=last_step)


class TrialFailures:
    """Leaves in a trial's run directory why it has ended, for the driver, while the other trials go on.

    Args:
        directory: of the job.
        attempt: life of the job, from 1.
    """

    def __init__(self, directory: RunDirectory, attempt: int) -> None:
        self._directory = directory
        self._attempt = attempt

    def __call__(self, number: int, message: str) -> None:
        """Note that a trial has diverged."""
        trial = self._directory.trial(number)
        note = {"attempt": self._attempt, "reason": "diverged", "message": message}
        write_atomically(trial.failure_file, json.dumps(note))
        trial.event("diverged", {"message": message})


def train_side_by_side(
    runs: Sequence[Callable[[], dict[str, Any]]], note: Callable[[int, str], None] | None
) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Train all models of a sweep at the same time; one that diverges ends alone.

    Any other failure is raised at once; what still trains then ends with the process.

    Args:
        runs: trains each model to its end.
        note: told of a model that has diverged, and why.

    Returns:
        What the trainings returned, those that diverged left out; and why each of these did, by number.
    """
    threads = ThreadPoolExecutor(len(runs), thread_name_prefix="model")
    results: list[dict[str, Any]] = []
    diverged: dict[int, str] = {}
    try:
        numbers = {threads.submit(run): number for number, run in enumerate(runs)}
        for future in as_completed(numbers):
            try:
                results.append(future.result())
            except DivergedError as error:
                diverged[numbers[future]] = str(error)
                if note is not None:
                    note(numbers[future], str(error))
    finally:
        threads.shutdown(wait=False)
    return results, diverged


def _joined(spec: JobSpec, results: list[dict[str, Any]], diverged: dict[int, str]) -> dict[str, Any]:
    """What has become of a sweep.

    Raises:
        DivergedError: where all other trials are finished, naming those that diverged.
    """
    is_stopped = any(result["outcome"] == "stopped" for result in results)
    if diverged and not is_stopped:
        assignments = assignments_of(spec)
        told = [
            f"trial {number} ({', '.join(f'{path} = {shown(value)}' for path, value in assignments[number].items())}): "
            f"{message}"
            for number, message in sorted(diverged.items())
        ]
        raise DivergedError(f"{len(diverged)} of {len(assignments)} trials diverged: {' '.join(told)}")
    return {"outcome": "stopped" if is_stopped else "finished", "step": min((r["step"] for r in results), default=0)}
