"""MoMo against its equations in NumPy, against what it minimizes, and under every engine that it is admitted to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines.test_equal import ENGINES, HYBRID
from engines.training import AWKWARD, MLP, engine_spec, largest_difference, prepare, run_cases
from pydantic import ValidationError
from scipy.optimize import minimize
from torch import nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import UnsupportedLayoutError
from orchestrator.core.layout import ShardLayout
from orchestrator.optim.momo import Momo, share_of_rate
from orchestrator.spec.methods.loss_optimizers import Momo as MomoConfig

SHAPES = [(7, 5), (3, 2, 4), (1, 1), (11,), ()]
NUM_STEPS = 20


class Reference:
    """Algorithm 1 of arXiv 2305.07583 on one vector, with one rate and one decay."""

    def __init__(self, *, beta: float, bound: float, corrects: bool, decay: float) -> None:
        self.beta, self.bound, self.corrects, self.decay = beta, bound, corrects, decay
        self.f = self.gamma = 0.0
        self.d: Any = 0.0
        self.t = 0
        self.shares: list[float] = []

    def step(self, p: np.ndarray, g: np.ndarray, loss: float, lr: float) -> np.ndarray:
        self.t += 1
        rest = 1.0 if self.t == 1 and not self.corrects else 1 - self.beta
        self.f = (1 - rest) * self.f + rest * loss
        self.d = (1 - rest) * self.d + rest * g
        self.gamma = (1 - rest) * self.gamma + rest * (g @ p)
        rho = 1 - self.beta**self.t if self.corrects else 1.0
        grown = 1 + lr * self.decay
        top = grown * (self.f - rho * self.bound - self.gamma) + self.d @ p
        tau = min(lr / rho, max(0.0, top) / (self.d @ self.d))
        self.shares.append(tau * rho / lr)
        return (p - tau * self.d) / grown


def flat(tensors: list[Any]) -> np.ndarray:
    return np.concatenate([np.asarray(t.detach().double()).reshape(-1) for t in tensors])


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("corrects", [False, True])
@pytest.mark.parametrize("bound", [0.0, -30.0, 5.0])
def test_twenty_steps_match_the_equations(bound: float, corrects: bool, decay: float) -> None:
    generator = torch.Generator().manual_seed(1)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    optimizer = Momo(params, beta=0.8, lower_bound=bound, bias_correction=corrects, weight_decay=decay)
    reference = Reference(beta=0.8, bound=bound, corrects=corrects, decay=decay)
    expected = flat(params)
    for t in range(NUM_STEPS):
        lr = optimizer.param_groups[0]["lr"] = 0.3 / (1 + 0.1 * t)
        gradients = [0.5 * p.detach() + 0.1 * torch.randn(p.shape, generator=generator) for p in params]
        loss = 0.25 * float(flat(params) @ flat(params))
        for parameter, gradient in zip(params, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.take_loss(torch.tensor(loss, dtype=torch.float64))
        optimizer.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(params, gradients, strict=True))
        expected = reference.step(expected, flat(gradients), loss, lr)
        np.testing.assert_allclose(flat(params), expected, rtol=3e-6, atol=3e-6)
    # Far from the bound all of the rate is taken, near it a share, and with a decay towards it nothing is left to gain.
    least = {-30.0: 1.0, 0.0: pytest.approx(0.4, abs=0.2), 5.0: pytest.approx(0.025, abs=0.025)}
    assert min(reference.shares) == least[bound]
    assert max(reference.shares) == 1.0


def test_a_step_minimizes_the_model_of_the_loss() -> None:
    """With a rate and a decay for each group, where the package has one for all."""
    rates, decays = np.array([0.4, 0.4, 0.1, 0.1, 0.1]), np.array([0.5, 0.5, 0.0, 0.0, 0.0])
    generator = torch.Generator().manual_seed(2)
    first, second = (nn.Parameter(torch.randn(size, generator=generator)) for size in (2, 3))
    groups = [{"params": [first], "lr": 0.4, "weight_decay": 0.5}, {"params": [second], "lr": 0.1}]
    optimizer = Momo(groups, beta=0.7, lower_bound=0.2)
    planes: list[tuple[float, float, np.ndarray]] = []
    seen = []
    for loss in (1.0, 0.8, 0.25, 0.15):
        before = flat([first, second])
        for parameter in (first, second):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        g = flat([first.grad, second.grad])
        weight = 1.0 if not planes else 0.3
        planes = [(share * (1 - weight), height, slope) for share, height, slope in planes]
        planes.append((weight, loss - g @ before, g))
        optimizer.take_loss(torch.tensor(loss, dtype=torch.float64))
        optimizer.step()
        height = sum(share * h for share, h, _ in planes)
        slope = sum(share * s for share, _, s in planes)

        def goal(w: np.ndarray, height: Any = height, slope: Any = slope, before: np.ndarray = before) -> float:
            near = ((w[:5] - before) ** 2 / (2 * rates)).sum() + (decays * w[:5] ** 2 / 2).sum()
            return float(w[5] + near)

        # The maximum of two planes as a bound from below on one more variable.
        above = {"type": "ineq", "fun": lambda w, h=height, s=slope: w[5] - h - s @ w[:5]}
        bounded = {"type": "ineq", "fun": lambda w: w[5] - 0.2}
        start = np.append(before, 10.0)
        found = minimize(goal, start, constraints=[above, bounded], method="SLSQP", options={"ftol": 1e-14})
        np.testing.assert_allclose(flat([first, second]), found.x[:5], atol=2e-5)
        seen.append(found.x[5] > 0.2 + 1e-6)
    assert set(seen) == {True, False}


def test_where_the_model_is_flat_there_is_no_step() -> None:
    zero, one = torch.tensor(0.0), torch.tensor(1.0)
    assert [float(share_of_rate(h, s)) for h, s in ((one, zero), (-one, one), (one, 2 * one), (2 * one, one))] == [
        0.0,
        0.0,
        0.5,
        1.0,
    ]
    assert share_of_rate(torch.tensor(float("nan")), one).isnan()


def test_a_step_without_its_loss_is_an_error() -> None:
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    optimizer = Momo([parameter])
    optimizer.take_loss(torch.tensor(1.0, dtype=torch.float64))
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"not told the loss of this step: call take_loss\(loss\) before step"):
        optimizer.step()


def test_flat_partitions_are_refused() -> None:
    with pytest.raises(UnsupportedLayoutError, match="Momo steps on all parameters at once"):
        Momo([nn.Parameter(torch.ones(3))]).attach(ShardLayout(runs={}, collectives=Collectives()))


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        Momo([nn.Parameter(torch.ones(3))], beta=1.0)
    with pytest.raises(ValidationError):
        MomoConfig.model_validate({"name": "momo", "beta": 1.0})


UNCLIPPED = {"clip_grad_norm": None}
"""With clipped gradients every step would take the whole rate, whatever the loss."""
ADMITTED = {title: ENGINES[title] for title in ("ddp", "fsdp2", "zero 0", "accelerate fsdp2")}
OPTIMIZER = {
    "name": "momo",
    "lr": 1.0,
    "weight_decay": 0.01,
    "lower_bound": 0.5,
    "param_groups": [{"match": ["outlet"], "lr_multiplier": 0.5}],
}


@pytest.mark.distributed
@pytest.mark.timeout(600)
def test_engines_take_one_and_the_same_step(tmp_path: Path) -> None:
    """Micro-batches of uneven sizes, ranks with uneven shares: what the optimizer is told is the loss of the batch."""
    alone = {
        recipe["args"]["awkward"] if "args" in recipe else False: prepare(
            tmp_path / f"alone {index}", engine_spec({"name": "ddp"}, 1, recipe, optimizer=OPTIMIZER, train=UNCLIPPED)
        )
        for index, recipe in enumerate((MLP, AWKWARD))
    }
    run_cases(1, [(directory, NUM_STEPS) for directory in alone.values()])
    for world_size, engines in ((2, ADMITTED), (4, {"hybrid": HYBRID})):
        jobs = {
            (title, awkward): prepare(
                tmp_path / f"{title} {awkward}",
                engine_spec(engine, world_size, AWKWARD if awkward else MLP, optimizer=OPTIMIZER, train=UNCLIPPED),
            )
            for title, engine in engines.items()
            for awkward in (False, True)
            if not (awkward and title in ("accelerate fsdp2", "hybrid"))
        }
        run_cases(world_size, [(directory, NUM_STEPS) for directory in jobs.values()])
        differences = {job: largest_difference(alone[job[1]], directory) for job, directory in jobs.items()}
        assert differences == pytest.approx(dict.fromkeys(jobs, 0.0), abs=1e-6)


@pytest.mark.distributed
def test_a_checkpoint_goes_on_under_another_engine(tmp_path: Path) -> None:
    whole = prepare(tmp_path / "whole", engine_spec({"name": "ddp"}, 1, optimizer=OPTIMIZER, train=UNCLIPPED))
    run_cases(1, [(whole, 8)])
    checkpoint = None
    for title, world_size, until in (("fsdp2", 2, 3), ("ddp", 2, 5), ("zero 0", 3, 8)):
        spec = engine_spec(ENGINES[title], world_size, optimizer=OPTIMIZER, train=UNCLIPPED)
        directory = prepare(tmp_path / title, spec, checkpoint=checkpoint)
        run_cases(world_size, [(directory, until)])
        checkpoint = directory.checkpoints / f"step_{until}"
    assert largest_difference(whole, directory) == pytest.approx(0.0, abs=1e-6)
