"""Noise scales of modules, and of whole models in Adam's metric, against gathered gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines.training import prepare
from gloo import run_on_ranks
from modulate.side_by_side import ClippedMomentum, SideBySide
from modulate.test_agvm import BATCH, ENGINES, MODULES, SGD, STEPS, spec_of, train_all
from support import assert_same_weights, train_here

from orchestrator.core.run_directory import RunDirectory
from orchestrator.spec.check import check
from orchestrator.spec.load import load_recipe_job

NOISE = {"name": "module_noise", "modules": MODULES, "every": 2, "half_life_steps": 4}
ADAMW = {"name": "adamw", "lr": 0.01, "weight_decay": 0.0}
UNCLIPPED = {"steps": 8, "clip_grad_norm": None}
MICRO, NUM_SAMPLES = 4, 16


def estimates(groups: np.ndarray) -> tuple[float, float]:
    """The trace of one sample's covariance and the squared length of the true gradient, from [groups, elements]."""
    trace = MICRO * float(groups.var(axis=0, ddof=1).sum())
    mean = groups.mean(axis=0)
    return trace, float(mean @ mean) - trace / NUM_SAMPLES


def flat(gradients: dict[str, torch.Tensor], own: list[str] | None = None) -> np.ndarray:
    members = [g.flatten(1) for name, g in gradients.items() if own is None or name.split(".")[0] in own]
    return torch.cat(members, dim=1).double().numpy()


def expected_lines(directory: RunDirectory) -> list[dict[str, float]]:
    """What every step's line is to say, from the equations."""
    job = SideBySide(directory)
    optimizer = ClippedMomentum(job.named, lr=SGD["lr"], momentum=SGD["momentum"], decay=SGD["weight_decay"], bound=0.5)
    taken: list[tuple[int, dict[str, tuple[float, float]]]] = []
    lines = []
    for step in range(STEPS):
        gradients = job.next_gradients()
        known = [found for at, found in taken if at + 2 <= step]
        line = {}
        if known:
            weights = 0.5 ** (2 * np.arange(len(known))[::-1] / 4)
            for name in MODULES:
                noise, signal = (np.average([found[name][k] for found in known], weights=weights) for k in (0, 1))
                line |= {f"module_noise/{name}/noise": noise, f"module_noise/{name}/signal": signal}
                if signal > 0:
                    line[f"module_noise/{name}/scale"] = noise / signal
        lines.append(line)
        if step % 2 == 0:
            taken.append((step, {name: estimates(flat(gradients, own)) for name, own in MODULES.items()}))
        optimizer.step(optimizer.clipped({name: g.mean(0) for name, g in gradients.items()}))
    return lines


def told(lines: list[dict[str, Any]]) -> list[dict[str, float]]:
    return [{name: value for name, value in line.items() if name.startswith("module_noise/")} for line in lines]


def test_it_is_its_equations_and_changes_nothing(tmp_path: Path) -> None:
    directory = prepare(tmp_path / "job", spec_of({"name": "ddp"}, 1, NOISE))
    _, lines = train_here(str(directory.root))
    expected = expected_lines(directory)
    assert told(lines) == [pytest.approx(line, rel=1e-4, abs=1e-4) for line in expected]
    assert [len(line) >= 6 for line in expected] == [False, False, *[True] * (STEPS - 2)]
    plain = prepare(tmp_path / "plain", spec_of({"name": "ddp"}, 1, {}))
    train_all([str(plain.root)])
    assert_same_weights(plain, directory)


@pytest.mark.distributed
@pytest.mark.timeout(600)
def test_every_engine_tells_the_same(tmp_path: Path) -> None:
    jobs = {title: prepare(tmp_path / title, spec_of(engine, 4, NOISE)) for title, engine in ENGINES.items()}
    of_jobs = run_on_ranks(4, train_all, [str(directory.root) for directory in jobs.values()])[0]
    (alone,) = train_all([str(prepare(tmp_path / "alone", spec_of({"name": "ddp"}, 1, NOISE)).root)])
    for title, lines in zip(jobs, of_jobs, strict=True):
        assert told(lines) == [pytest.approx(line, rel=1e-3, abs=1e-3) for line in told(alone)], title


def test_modules_add_up_to_the_model(tmp_path: Path) -> None:
    controller = {"name": "noise_scale", "statistic": {"every": 2, "half_life_samples": 4 * NUM_SAMPLES}}
    controller |= {"guards": {"min_measurements": 1000, "max_size": NUM_SAMPLES}}
    spec = spec_of({"name": "ddp"}, 1, NOISE, batch={**BATCH, "controller": controller})
    _, lines = train_here(str(prepare(tmp_path / "job", spec).root))
    measured = [line for line in lines if "batch/noise" in line]
    assert len(measured) == (STEPS - 1) // 2
    for line in measured:
        for kind in ("noise", "signal"):
            total = sum(line[f"module_noise/{name}/{kind}"] for name in MODULES)
            assert line[f"batch/{kind}"] == pytest.approx(total, rel=1e-5)


@pytest.mark.distributed
@pytest.mark.parametrize("workers", [1, 4])
def test_a_controller_measures_in_adams_metric(tmp_path: Path, workers: int) -> None:
    controller = {"name": "noise_scale", "statistic": {"every": 1, "half_life_samples": 1, "preconditioned": True}}
    controller |= {"guards": {"min_measurements": 1000, "max_size": NUM_SAMPLES}}
    sections = {"batch": {**BATCH, "controller": controller}, "optimizer": ADAMW, "train": UNCLIPPED}
    directory = prepare(tmp_path / "job", spec_of({"name": "ddp"}, workers, {}, **sections))
    lines = run_on_ranks(workers, train_all, [str(directory.root)])[0][0]
    measured = [(line["batch/noise"], line["batch/signal"]) for line in lines if "batch/noise" in line]

    job = SideBySide(directory)
    optimizer = torch.optim.AdamW(job.named.values(), lr=0.01, weight_decay=0.0)
    found = []
    for step in range(UNCLIPPED["steps"] - 2):
        gradients = job.next_gradients()
        if step > 0:  # before the first step there is no second moment
            moments = {name: optimizer.state[p]["exp_avg_sq"] for name, p in job.named.items()}
            found.append(estimates(flat({n: g / (moments[n].sqrt() + 1e-8) for n, g in gradients.items()})))
        for name, p in job.named.items():
            p.grad = gradients[name].mean(0)
        optimizer.step()
    # A half-life of one sample leaves 2^-16 of the measurement before; of units that hardly move that may be much.
    ages = [np.arange(count)[::-1] for count in range(1, len(found) + 1)]
    expected = [np.average(found[: len(age)], axis=0, weights=0.5 ** (NUM_SAMPLES * age)) for age in ages]
    # Of units that hardly move Adam's moment is nearly 0: what is left of the difference of two large numbers.
    assert measured == [pytest.approx(pair, rel=2e-3, abs=1e-6 * pair[0]) for pair in expected]


@pytest.mark.parametrize(
    ("sections", "path"),
    [
        ({"modulators": [NOISE, {"name": "agvm", "modules": MODULES}]}, "modulators.1.name"),
        ({"modulators": [{**NOISE, "preconditioned": True}]}, "modulators.0.preconditioned"),
        ({"statistic": {"preconditioned": True}}, "batch.controller.statistic.preconditioned"),
        (
            {"statistic": {"preconditioned": True}, "optimizer": ADAMW, "engine": {"name": "fsdp2"}},
            "batch.controller.statistic.preconditioned",
        ),
        (
            {"statistic": {"preconditioned": True}, "optimizer": ADAMW, "modulators": [NOISE]},
            "batch.controller.statistic.preconditioned",
        ),
        (
            {"statistic": {"preconditioned": True}, "optimizer": ADAMW, "controller": "inner_product_test"},
            "batch.controller.statistic.preconditioned",
        ),
        ({"exchange": {"name": "asynchronous"}, "modulators": [NOISE]}, "modulators.0.name"),
    ],
)
def test_what_does_not_go_with_it_is_refused(tmp_path: Path, sections: dict[str, Any], path: str) -> None:
    sections = dict(sections)
    engine = sections.pop("engine", {"name": "ddp"})
    if "statistic" in sections:
        name = sections.pop("controller", "noise_scale")
        sections["batch"] = {**BATCH, "controller": {"name": name, "statistic": sections.pop("statistic")}}
    modulators = sections.pop("modulators", [])
    spec = spec_of(engine, 4, {}, **sections).model_dump(mode="json")
    directory = prepare(
        tmp_path / "job", type(spec_of(engine, 4, {})).model_validate({**spec, "modulators": modulators})
    )
    problems = [problem.path for problem in check(load_recipe_job(directory.resolved_spec), directory.code)]
    assert path in problems
