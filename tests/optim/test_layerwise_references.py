"""LARS, LANS, NovoGrad and LAWN against independent NumPy float64 implementations of their equations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from orchestrator.optim.lans import Lans
from orchestrator.optim.lars import Lars
from orchestrator.optim.lawn import Lawn
from orchestrator.optim.novograd import NovoGrad

SHAPES = [(7, 5), (3, 2, 4), (1, 1), (64, 3), (11,), ()]
Step = Callable[[np.ndarray, np.ndarray, dict[str, Any], int], np.ndarray]


def norm(x: np.ndarray) -> float:
    return float(np.sqrt((x * x).sum()))


def ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if numerator > 0 and denominator > 0 else 1.0


def lars(style: str, *, lr: float, momentum: float, decay: float, trust: float) -> Step:
    def step(p, g, state, t):
        d = g + decay * p
        b = state.get("b", np.zeros_like(p))
        layer = 1.0 if norm(p) == 0 or norm(g) == 0 else trust * norm(p) / (norm(g) + decay * norm(p))
        if style == "lr_inside":
            state["b"] = momentum * b + lr * layer * d
            return p - state["b"]
        if style == "lr_outside":
            state["b"] = momentum * b + layer * d
            return p - lr * state["b"]
        state["b"] = momentum * b + (1 - momentum) * d
        return p - lr * ratio(norm(p), norm(state["b"])) * state["b"]

    return step


def lans(*, lr: float, betas: tuple[float, float], eps: float, decay: float) -> Step:
    def step(p, g, state, t):
        h = g / (norm(g) + eps)
        state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * h
        state["v"] = betas[1] * state.get("v", 0) + (1 - betas[1]) * h * h
        root = np.sqrt(state["v"] / (1 - betas[1] ** t)) + eps
        r = state["m"] / (1 - betas[0] ** t) / root + decay * p
        c = h / root + decay * p
        return p - lr * (betas[0] * ratio(norm(p), norm(r)) * r + (1 - betas[0]) * ratio(norm(p), norm(c)) * c)

    return step


def novograd(*, lr: float, betas: tuple[float, float], eps: float, decay: float, averaging: bool) -> Step:
    def step(p, g, state, t):
        square = norm(g) ** 2
        state["v"] = square if t == 1 else betas[1] * state["v"] + (1 - betas[1]) * square
        d = (g / (np.sqrt(state["v"]) + eps) + decay * p) * (1 - betas[0] if averaging else 1)
        state["m"] = d if t == 1 else betas[0] * state["m"] + d
        return p - lr * state["m"]

    return step


def lawn(*, lr: float, betas: tuple[float, float], eps: float, free: int, reset: bool, everything: bool) -> Step:
    def step(p, g, state, t):
        is_held = t > free and (p.ndim > 1 or everything)
        if is_held and t == free + 1:
            state["held"] = norm(p)
            if reset:
                state["m"] = state["v"] = 0
        square = norm(p) ** 2
        if is_held and square > 0:
            g = g - (g * p).sum() / square * p
        state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * g
        state["v"] = betas[1] * state.get("v", 0) + (1 - betas[1]) * g * g
        age = t - free if is_held and reset else t
        d = state["m"] / (1 - betas[0] ** age) / (np.sqrt(state["v"] / (1 - betas[1] ** age)) + eps)
        if is_held and square > 0:
            d = d - (d * p).sum() / square * p
        moved = p - lr * d
        return moved * (state["held"] / norm(moved)) if is_held and norm(moved) > 0 else moved

    return step


CASES: dict[str, tuple[Callable[[Any], torch.optim.Optimizer], Step]] = {
    **{
        f"lars {style}": (
            lambda params, style=style: Lars(
                params, lr=0.3, weight_decay=0.01, trust_coefficient=0.02, momentum_style=style, adapt="all"
            ),
            lars(style, lr=0.3, momentum=0.9, decay=0.01, trust=0.02),
        )
        for style in ("lr_inside", "lr_outside", "ema_normalized")
    },
    "lans": (
        lambda params: Lans(params, lr=0.01, weight_decay=0.01),
        lans(lr=0.01, betas=(0.9, 0.999), eps=1e-6, decay=0.01),
    ),
    **{
        f"novograd averaging {averaging}": (
            lambda params, averaging=averaging: NovoGrad(params, lr=0.01, weight_decay=0.01, grad_averaging=averaging),
            novograd(lr=0.01, betas=(0.95, 0.98), eps=1e-8, decay=0.01, averaging=averaging),
        )
        for averaging in (False, True)
    },
    **{
        f"lawn free {free} reset {reset} {constrain}": (
            lambda params, free=free, reset=reset, constrain=constrain: Lawn(
                params, lr=0.02, free_steps=free, reset_moments=reset, constrain=constrain
            ),
            lawn(lr=0.02, betas=(0.9, 0.999), eps=1e-8, free=free, reset=reset, everything=constrain == "all"),
        )
        for free, reset, constrain in (
            (0, False, "matrices"),
            (6, False, "all"),
            (6, True, "matrices"),
            (50, False, "matrices"),
        )
    },
}


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_match_the_equations(case: str) -> None:
    build, step = CASES[case]
    generator = torch.Generator().manual_seed(1)
    start = [torch.randn(shape, generator=generator) for shape in SHAPES] + [torch.zeros(4, 3)]
    params = [nn.Parameter(tensor.clone()) for tensor in start]
    expected = [tensor.double().numpy() for tensor in start]
    states: list[dict[str, Any]] = [{} for _ in start]
    optimizer = build(params)
    for t in range(1, 21):
        # A rate that moves tells LARS's forms apart.
        gradients = [torch.randn(p.shape, generator=generator) * (1 + 0.1 * t) for p in params]
        for parameter, gradient in zip(params, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(params, gradients, strict=True))
        expected = [
            step(p, g.double().numpy(), state, t) for p, g, state in zip(expected, gradients, states, strict=True)
        ]
    for parameter, reference in zip(params, expected, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), reference, rtol=3e-6, atol=3e-6)


def test_the_two_places_of_the_rate_differ_only_when_it_moves() -> None:
    def train(style: str, rates: list[float]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(2)
        parameter = nn.Parameter(torch.randn(5, 4, generator=generator))
        optimizer = Lars([parameter], weight_decay=0.1, momentum_style=style)
        for rate in rates:
            optimizer.param_groups[0]["lr"] = rate
            parameter.grad = torch.randn(5, 4, generator=generator)
            optimizer.step()
        return parameter.detach()

    steady, moving = [2.0] * 6, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    torch.testing.assert_close(train("lr_inside", steady), train("lr_outside", steady), rtol=1e-5, atol=1e-6)
    assert (train("lr_inside", moving) - train("lr_outside", moving)).abs().max() > 1e-3


def test_parameters_without_decay_take_the_steps_of_momentum_sgd() -> None:
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(6, 6, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    lars_optimizer = Lars([ours], lr=0.1, momentum=0.9, weight_decay=0.0, momentum_style="lr_outside")
    sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.9)
    for _ in range(5):
        ours.grad = torch.randn(6, 6, generator=generator)
        theirs.grad = ours.grad.clone()
        lars_optimizer.step()
        sgd.step()
    torch.testing.assert_close(ours, theirs)


def test_lawn_holds_norms_after_its_start() -> None:
    generator = torch.Generator().manual_seed(4)
    parameter = nn.Parameter(torch.randn(9, 5, generator=generator))
    optimizer = Lawn([parameter], lr=0.05, free_steps=3)
    norms = []
    for _ in range(8):
        parameter.grad = torch.randn(9, 5, generator=generator)
        optimizer.step()
        norms.append(float(parameter.detach().norm()))
    assert norms[0] != pytest.approx(norms[2], rel=1e-4)
    assert norms[3:] == pytest.approx([norms[2]] * 5, rel=1e-6)
