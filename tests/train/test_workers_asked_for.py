"""What a controller asks for reaches every line and is told once; what is computed stays as it is."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gloo import run_on_ranks
from support import ListTracker, assert_same_weights, context_here, export_here, make_run_directory, tiny_spec

from orchestrator.core.run_directory import RunDirectory
from orchestrator.spec.job import WorkerRange
from orchestrator.spec.load import load_recipe_job
from orchestrator.train.assemble import assemble
from orchestrator.train.loop import train

STEPS = 12
RANGE = WorkerRange(min=1, max=4, samples_per_worker=24)
SCHEDULE = {"name": "schedule", "sizes": "96:48 288:96", "coupling": "linear"}


def prepared(root: Path, workers: int = 1, like: RunDirectory | None = None, step: int = 0) -> RunDirectory:
    spec = tiny_spec(
        train={"steps": STEPS, "log_every": 100},
        batch={"global_size": 24, "micro_size": 6, "controller": SCHEDULE},
        checkpoint={"every": 6, "keep": 9},
        resources={"workers": workers},
    )
    directory = make_run_directory(root, spec)
    if like is not None:
        shutil.copytree(like.checkpoints / f"step_{step}", directory.checkpoints / f"step_{step}")
    return directory


def run(root: str, limits: WorkerRange | None) -> tuple[list[dict[str, Any]], list[tuple[str, dict[str, Any]]]]:
    """Train as this process's rank; lines and events."""
    tracker = ListTracker()
    context = replace(context_here(root), worker_range=limits)
    job = next(assemble(load_recipe_job(context.run_directory.resolved_spec), context, tracker)).job
    with closing(job.data):
        train(job)
    export_here(job, root)
    return tracker.lines, tracker.events


@pytest.mark.distributed
@pytest.mark.parametrize("workers", [1, 2])
def test_every_change_is_an_event_and_a_line_and_no_weight_is_another(tmp_path: Path, workers: int) -> None:
    asking, plain = prepared(tmp_path / "asking", workers), prepared(tmp_path / "plain", workers)
    ranks = run_on_ranks(workers, run, str(asking.root), RANGE)
    told = [fields for name, fields in ranks[0][1] if name == "workers_wanted"]
    numbers = [(event["step"], event["wanted"], event["workers"], event["batch"]) for event in told]
    assert numbers == [(1, 1, workers, 24), (5, 2, workers, 48), (9, 4, workers, 96)]
    assert told[0]["reason"] == "24 samples are enough for a worker"
    assert told[0]["noise_scale"] is None
    lines = {line["step"]: line for line in ranks[0][0]}
    assert set(lines) == {1, 5, 9, 12}  # with so few lines the driver would hear of it late
    assert [lines[step]["workers_wanted"] for step in (1, 5, 9, 12)] == [1, 2, 4, 4]
    others, _ = run_on_ranks(workers, run, str(plain.root), None)[0]
    assert all("workers_wanted" not in line for line in others)
    assert_same_weights(asking, plain)


def test_a_resumed_job_goes_on_asking_and_tells_nothing_twice(tmp_path: Path) -> None:
    whole = prepared(tmp_path / "whole")
    run(str(whole.root), RANGE)
    resumed = prepared(tmp_path / "resumed", 1, whole, 6)
    lines, events = run(str(resumed.root), RANGE)
    assert [(fields["step"], fields["wanted"]) for name, fields in events if name == "workers_wanted"] == [(9, 4)]
    assert lines[-1]["workers_wanted"] == 4
    assert_same_weights(whole, resumed)
