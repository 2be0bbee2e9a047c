"""SWATS against its equations in NumPy, at its switch, and under every form of division."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines.test_layerwise import SETTINGS, STEPS
from engines.training import engine_spec, prepare, run_cases
from torch import nn

from orchestrator.optim.swats import Swats, settled_rate

SHAPES = [(7, 5), (3, 2, 4), (1, 1), (64, 3), (11,), ()]
NUM_STEPS = 30


def step_in_float64(
    p: np.ndarray, g: np.ndarray, state: dict[str, Any], t: int, *, lr: float, decay: float, decouples: bool, tol: float
) -> np.ndarray:
    """Algorithm 1 of arXiv 1712.07628 as the class states it, for one tensor."""
    beta1, beta2, eps = 0.8, 0.9, 1e-9
    if decouples:
        p = p * (1 - lr * decay)
    else:
        g = g + decay * p
    if "sgd_rate" in state:
        state["momentum"] = beta1 * state["momentum"] + g
        return p - (1 - beta1) * lr * state["sgd_rate"] * state["momentum"]
    state["m"] = beta1 * state.get("m", 0) + (1 - beta1) * g
    state["a"] = beta2 * state.get("a", 0) + (1 - beta2) * g**2
    move = -lr * np.sqrt(1 - beta2**t) / (1 - beta1**t) * state["m"] / (np.sqrt(state["a"]) + eps)
    if (move * g).sum() != 0:
        gamma = (move**2).sum() / -(move * g).sum() / lr
        state["lambda"] = beta2 * state.get("lambda", 0) + (1 - beta2) * gamma
        corrected = state["lambda"] / (1 - beta2**t)
        if t > 1 and corrected > 0 and abs(corrected - gamma) < tol * corrected:
            state["sgd_rate"], state["momentum"] = corrected, np.zeros_like(p)
    return p + move


@pytest.mark.parametrize(("decay", "decouples"), [(0.0, False), (0.1, False), (0.1, True)])
@pytest.mark.parametrize("tolerance", [0.03, 1e-12])
def test_thirty_steps_match_the_equations(decay: float, decouples: bool, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(1)
    start = [torch.randn(shape, generator=generator) for shape in SHAPES] + [torch.zeros(4, 3)]
    params = [nn.Parameter(tensor.clone()) for tensor in start]
    expected = [tensor.double().numpy() for tensor in start]
    states: list[dict[str, Any]] = [{} for _ in start]
    options: dict[str, Any] = {"decoupled_weight_decay": decouples, "switch_tolerance": tolerance}
    optimizer = Swats(params, betas=(0.8, 0.9), weight_decay=decay, **options)
    for t in range(1, NUM_STEPS + 1):
        # A falling rate: what is kept at the switch is a multiple of it.
        lr = optimizer.param_groups[0]["lr"] = 0.02 * (1 - t / 40)
        gradients = [0.3 * p.detach() + torch.randn(p.shape, generator=generator) for p in params]
        for parameter, gradient in zip(params, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(params, gradients, strict=True))
        expected = [
            step_in_float64(p, g.double().numpy(), state, t, lr=lr, decay=decay, decouples=decouples, tol=tolerance)
            for p, g, state in zip(expected, gradients, states, strict=True)
        ]
    for parameter, reference, state in zip(params, expected, states, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), reference, rtol=1e-5, atol=1e-5)
        assert float(optimizer.state[parameter]["sgd_rate"]) == pytest.approx(state.get("sgd_rate", 0.0), rel=1e-5)
    num_switched = sum("sgd_rate" in state for state in states)
    assert (0 < num_switched < len(states)) if tolerance > 1e-3 else num_switched == 0
    assert float(optimizer.report()["sgd_share"]) == pytest.approx(num_switched / len(states))


def test_a_rate_has_settled_when_it_is_near_its_positive_average() -> None:
    averages = torch.tensor([1.0, 1.0, 1.0, -1.0, 0.0], dtype=torch.float64)
    rates = torch.tensor([1.009, 0.991, 1.011, -1.0, 0.0], dtype=torch.float64)
    assert settled_rate(averages, rates, 0.01).tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_with_one_gradient_for_ever_sgd_goes_on_at_adams_pace() -> None:
    """The limiting case: all projections are the same, and SGD's first step is 1 - beta1 of Adam's."""
    parameter = nn.Parameter(torch.zeros(4))
    optimizer = Swats([parameter], lr=0.1, betas=(0.9, 0.9), switch_tolerance=1e-3)
    moved = []
    for _ in range(40):
        before = parameter.detach().clone()
        parameter.grad = torch.full((4,), 2.0)
        optimizer.step()
        moved.append(float((before - parameter.detach())[0]))
    assert moved[:2] == pytest.approx([0.1, 0.1], rel=1e-5)
    # Its momentum starts anew, and is as long as the gradient again after some steps.
    assert moved[2:5] == pytest.approx([0.1 * (1 - 0.9**k) for k in (1, 2, 3)], rel=1e-4)
    assert moved[-1] == pytest.approx(0.1, rel=0.02)


def test_a_schedule_goes_on_after_the_switch() -> None:
    parameter = nn.Parameter(torch.zeros(4))
    optimizer = Swats([parameter], lr=0.1, betas=(0.0, 0.9), switch_tolerance=1e-3)
    for lr in (0.1, 0.1, 0.1, 0.05, 0.0):
        optimizer.param_groups[0]["lr"] = lr
        before = parameter.detach().clone()
        parameter.grad = torch.full((4,), 2.0)
        optimizer.step()
        assert float((before - parameter.detach())[0]) == pytest.approx(lr, rel=1e-5)
    assert float(optimizer.report()["sgd_share"]) == 1.0


def test_no_step_to_project_on_a_gradient_leaves_the_average() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = Swats([parameter], lr=0.1)
    assert optimizer.report() == {}
    for gradient in (torch.zeros(3), torch.zeros(3)):
        parameter.grad = gradient
        optimizer.step()
    assert float(optimizer.state[parameter]["rate_average"]) == 0.0
    assert parameter.tolist() == [1.0, 1.0, 1.0]


def test_some_tensors_switch_in_the_training_that_is_compared_under_every_engine(tmp_path: Path) -> None:
    directory = prepare(tmp_path / "run", engine_spec({"name": "ddp"}, 1, optimizer=SETTINGS["swats"]))
    (lines,) = run_cases(1, [(directory, STEPS)])
    shares = [line["sgd_share"] for line in lines]
    assert shares[0] == 0.0
    assert shares == sorted(shares)
    assert 0.0 < shares[-1] < 1.0
