"""VRGD against its equations on gradients side by side, alone and on four workers, and where it changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engines.training import engine_spec, largest_difference, prepare
from gloo import run_on_ranks
from modulate.side_by_side import ClippedMomentum, SideBySide
from support import assert_same_weights, train_here, weights

from orchestrator.core.run_directory import RunDirectory
from orchestrator.modulate.gradient.vrgd import confidence
from orchestrator.spec.check import check
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import load_recipe_job

STEPS = 8
SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}


def spec_of(workers: int, floor: float, **sections: Any) -> JobSpec:
    sections = {"optimizer": SGD, "batch": {"global_size": 16, "micro_size": 4}, **sections}
    modulators = [{"name": "vrgd", "floor": floor}]
    return engine_spec({"name": "ddp"}, workers, modulators=modulators, train={"steps": STEPS}, **sections)


def train_one(root: str) -> list[dict[str, Any]]:
    return train_here(root)[1]


def reference(directory: RunDirectory, floor: float) -> dict[str, torch.Tensor]:
    """Final weights, from the equations."""
    job = SideBySide(directory)
    optimizer = ClippedMomentum(job.named, lr=0.1, momentum=0.9, decay=0.01, bound=0.5)
    for _ in range(STEPS):
        gradients = job.next_gradients()
        means = optimizer.clipped({name: g.mean(0) for name, g in gradients.items()})
        for name, g in gradients.items():
            signal = g.double().mean(0).square()
            variance = g.double().square().mean(0) - signal
            ratio = torch.where(signal > 0, signal / variance.clamp_min(1e-12 * (signal + variance)), 0.0)
            means[name] *= (ratio / ratio.mean()).nan_to_num(1.0).clamp(floor, 1).float()
        optimizer.step(means)
    return {name: p.detach() for name, p in job.named.items()}


@pytest.mark.distributed
@pytest.mark.parametrize("workers", [1, 4])
def test_it_is_its_equations(tmp_path: Path, workers: int) -> None:
    directory = prepare(tmp_path / "job", spec_of(workers, 0.1))
    lines = run_on_ranks(workers, train_one, str(directory.root))[0]
    expected = reference(directory, 0.1)
    trained = weights(directory)
    assert max(float((trained[name] - w).abs().max()) for name, w in expected.items()) < 1e-5
    assert all(0.1 < line["vrgd_factor"] < 1 for line in lines)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_floor_of_one_changes_nothing(tmp_path: Path, workers: int) -> None:
    one = prepare(tmp_path / "one", spec_of(workers, 1.0))
    plain = prepare(tmp_path / "plain", spec_of(workers, 1.0).model_copy(update={"modulators": ()}))
    less = prepare(tmp_path / "less", spec_of(workers, 0.1))
    for directory in (one, plain, less):
        run_on_ranks(workers, train_one, str(directory.root))
    assert_same_weights(one, plain)
    assert largest_difference(plain, less) > 1e-3


def test_confidence_at_its_edges() -> None:
    assert confidence(torch.tensor([0.0, 0.0]), 0.1).tolist() == [1.0, 1.0]
    assert confidence(torch.tensor([0.0, 1e12, 1.0]), 0.25).tolist() == [0.25, 1.0, 0.25]
    assert confidence(torch.tensor([3.0]), 0.1).tolist() == [1.0]


@pytest.mark.parametrize(
    ("sections", "path"),
    [
        ({"exchange": {"name": "delayed", "steps": 2}}, "exchange.name"),
        ({"optimizer": {"name": "adahessian", "lr": 0.1}}, "optimizer.name"),
        ({"batch": {"global_size": 16}}, "batch.micro_size"),
    ],
)
def test_what_does_not_go_with_it_is_refused(tmp_path: Path, sections: dict[str, Any], path: str) -> None:
    directory = prepare(tmp_path / "job", spec_of(1, 0.1, **sections))
    assert path in [p.path for p in check(load_recipe_job(directory.resolved_spec), directory.code)]
