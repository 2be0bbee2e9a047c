"""Short trainings under any engine, with a batch that changes from step to step."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from gloo import run_on_ranks
from support import ListTracker, export_here, job_here, make_run_directory, weights
from torch import Tensor

from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.values import BatchPlan
from orchestrator.spec.job import JobSpec
from orchestrator.train.loop import _take_step

UNEVEN = (13, 13, 22, 22, 9)
"""Samples of the steps, over and over."""
TEXT = Path(__file__).parents[2] / "jobs" / "text" / "recipe.py"

MLP = {"target": "odd.py:Odd"}
AWKWARD = {"target": "odd.py:Odd", "args": {"awkward": True}}
SMALL_TEXT = {
    "target": "text.py:Text",
    "args": {"width": 24, "depth": 2, "num_heads": 2, "sequence_length": 16, "max_bytes": 60_000},
}


def engine_spec(engine: dict[str, Any], workers: int, recipe: dict[str, Any] = MLP, **sections: Any) -> JobSpec:
    """AdamW with clipping under an engine; keyword arguments replace sections."""
    train = {"steps": 1000, "clip_grad_norm": 0.5, **sections.pop("train", {})}
    return JobSpec.model_validate(
        {
            "name": "engines",
            "recipe": recipe,
            "train": train,
            "batch": {"global_size": 13, "micro_size": 4},
            "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1},
            "engine": engine,
            "resources": {"workers": workers},
            "checkpoint": {"every": None},
            **sections,
        }
    )


def prepare(root: Path, spec: JobSpec, checkpoint: Path | None = None) -> RunDirectory:
    """A run directory that starts from a copy of ``checkpoint``."""
    directory = make_run_directory(root, spec)
    shutil.copyfile(TEXT, directory.code / "text.py")
    if checkpoint is not None:
        shutil.copytree(checkpoint, directory.checkpoints / checkpoint.name)
    return directory


def take_steps(root: str, until: int, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Train as this process's rank up to a step, save, and leave ``model.safetensors``; returns the metrics."""
    tracker = ListTracker()
    job = job_here(root, tracker)
    with closing(job.data):
        while job.step < until:
            plan = BatchPlan(global_batch_size=sizes[job.step % len(sizes)], micro_batch_size=4)
            _take_step(job, plan)
        job.recorder.flush(always=True)
        job.saver.save(job.step)
        job.saver.wait()
    export_here(job, root)
    return tracker.lines


def take_steps_of_all(cases: list[tuple[str, int, Sequence[int]]]) -> list[list[dict[str, Any]]]:
    """``take_steps`` of several jobs one after another in one process group, which costs more than the training."""
    return [take_steps(*case) for case in cases]


def run_cases(world_size: int, cases: list[tuple[RunDirectory, int]], sizes: Sequence[int] = UNEVEN) -> list[Any]:
    """Train several jobs up to a step each on that many gloo processes; metrics of rank 0 by job."""
    arguments = [(str(directory.root), until, tuple(sizes)) for directory, until in cases]
    return run_on_ranks(world_size, take_steps_of_all, arguments)[0]


def largest_difference(first: RunDirectory, second: RunDirectory) -> float:
    """Largest absolute difference between two jobs' final weights, which must have the same names."""
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    return max(_difference(one[name], other[name]) for name in one)


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).abs().max())
