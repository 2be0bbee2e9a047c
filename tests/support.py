"""Run directories and short trainings for tests, without Ray or MLflow in between."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gloo import run_on_ranks
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.seeding import seed_everything
from orchestrator.data.sampler import GlobalOrder
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import dump_resolved, load_recipe_job
from orchestrator.train.assemble import assemble
from orchestrator.train.context import RankContext
from orchestrator.train.export import export_weights
from orchestrator.train.job import Job
from orchestrator.train.phases import train_phases

RECIPES = Path(__file__).parent / "recipes"


def tiny_spec(**sections: Any) -> JobSpec:
    """A spec of the tiny recipe; keyword arguments replace sections."""
    return JobSpec.model_validate(
        {
            "name": "tiny",
            "recipe": {"target": "tiny.py:Digits"},
            "train": {"steps": 6},
            "batch": {"global_size": 48},
            "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
            "checkpoint": {"every": None},
            **sections,
        }
    )


@dataclass(frozen=True, slots=True)
class ByHand:
    """What a loop without the product needs for the training of ``tiny_spec``, in its first state."""

    recipe: Any
    samples: Any
    model: nn.Module
    optimizer: torch.optim.Optimizer
    order: GlobalOrder


def tiny_by_hand() -> ByHand:
    """See ``ByHand``; the recipe is importable once a job with it has been built in this process."""
    from tiny import Digits

    recipe = Digits()
    samples, _ = recipe.build_datasets()
    seed_everything(0)
    model = recipe.build_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return ByHand(recipe, samples, model, optimizer, GlobalOrder(len(samples), 0))


def make_run_directory(root: Path, spec: JobSpec) -> RunDirectory:
    """A run directory as ``launch`` prepares it, with the test recipes as its code."""
    directory = RunDirectory(root)
    root.mkdir(parents=True)
    shutil.copytree(RECIPES, directory.code)
    directory.resolved_spec.write_text(dump_resolved(spec), encoding="utf-8")
    if spec.data.source.name == "hugging_face":
        _write_digits(directory.code / "digits.jsonl")
    directory.update_state(phase="running", attempts=1)
    return directory


def _write_digits(path: Path) -> None:
    bunch = load_digits()
    rows = zip(bunch.data[:200] / 16, bunch.target[:200], strict=True)
    lines = [json.dumps({"id": i, "image": list(image), "label": int(label)}) for i, (image, label) in enumerate(rows)]
    path.write_text("\n".join(lines), encoding="utf-8")


class ListTracker:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.events: list[tuple[str, dict[str, Any]]] = []

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.lines.append({"step": step, **metrics})

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        self.events.append((name, dict(fields)))

    def close(self) -> None:
        pass


def context_here(root: str) -> RankContext:
    """What this process's rank is told of the prepared job."""
    directory = RunDirectory(root)
    # A process imports a recipe once; a test process that trains several jobs must forget the one before.
    for path in directory.code.glob("*.py"):
        sys.modules.pop(path.stem, None)
    sys.path[:] = [path for path in sys.path if not path.endswith("/code")]
    collectives = Collectives()
    return RankContext(
        run_directory=directory,
        attempt=1,
        collectives=collectives,
        device=torch.device("cpu"),
        nodes=("here",) * collectives.world_size,
    )


def job_here(root: str, tracker: ListTracker) -> Job:
    """The prepared job's first phase, assembled as this process's rank."""
    context = context_here(root)
    return next(assemble(load_recipe_job(context.run_directory.resolved_spec), context, tracker)).job


def export_here(job: Job, root: str) -> None:
    """Leave ``model.safetensors`` of the checkpoint of the job's last step."""
    _export(root, job.step, job.rank)


def _export(root: str, step: int, rank: int) -> None:
    if rank == 0:
        directory = RunDirectory(root)
        export_weights(directory.checkpoints / f"step_{step}", directory.model_file)


def train_here(root: str) -> tuple[str, list[dict[str, Any]]]:
    """Train the prepared job as this process's rank; leaves ``model.safetensors`` and returns outcome and metrics."""
    tracker = ListTracker()
    context = context_here(root)
    spec = load_recipe_job(context.run_directory.resolved_spec)
    outcome, step = train_phases(assemble(spec, context, tracker), context, tracker)
    _export(root, step, context.collectives.rank)
    return outcome, tracker.lines


def train_on(world_size: int, directory: RunDirectory) -> list[tuple[str, list[dict[str, Any]]]]:
    """``train_here`` on that many gloo processes; in this process for one, and where threads compute for it."""
    if load_recipe_job(directory.resolved_spec).exchange.topology == "served":
        from served.threads import train_served

        outcome, tracker, _ = train_served(directory)
        return [(outcome, tracker.lines)]
    if world_size == 1:
        return [train_here(str(directory.root))]
    return run_on_ranks(world_size, train_here, str(directory.root))


def weights(directory: RunDirectory) -> dict[str, Tensor]:
    """The final weights."""
    return load_file(directory.model_file)


def assert_same_weights(first: RunDirectory, second: RunDirectory, *, atol: float = 0.0) -> None:
    """Equal within ``atol``; bitwise by default."""
    expected, got = weights(first), weights(second)
    assert expected.keys() == got.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            got[name], tensor, rtol=0.0, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )
