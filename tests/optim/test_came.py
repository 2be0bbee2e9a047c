"""CAME against an independent NumPy float64 implementation of its paper, and against pytorch_optimizer's."""

from typing import Any

import numpy as np
import pytest
import pytorch_optimizer
import torch
from optim.test_adafactor import SHAPES, take_steps, twins
from torch import nn

from orchestrator.core.collectives import Collectives
from orchestrator.optim.came import Came, build_came
from orchestrator.spec.methods.factored_optimizers import Came as CameConfig


class NumpyCame:
    """arXiv 2307.02047 in float64, written from the equations; vectors and scalars as in the authors' code."""

    def __init__(self, tensors, *, lr, betas=(0.9, 0.999, 0.9999), eps=(1e-30, 1e-16), clip=1.0, weight_decay=0.0):
        self.p = [t.astype(np.float64) for t in tensors]
        self.m = [np.zeros_like(p) for p in self.p]
        self.moments = [self.zeros(p) for p in self.p]
        self.residuals = [self.zeros(p) for p in self.p]
        self.lr, self.betas, self.eps, self.clip, self.weight_decay = lr, betas, eps, clip, weight_decay

    @staticmethod
    def zeros(p):
        return (0.0, 0.0) if p.ndim > 1 else np.zeros_like(p)

    @staticmethod
    def average(old, x, beta):
        if x.ndim < 2:
            return beta * old + (1 - beta) * x
        new = x.mean(axis=-1, keepdims=True), x.mean(axis=-2, keepdims=True)
        return tuple(beta * a + (1 - beta) * b for a, b in zip(old, new, strict=True))

    @staticmethod
    def whole(factors):
        if not isinstance(factors, tuple):
            return factors
        row, col = factors
        return row * col / row.mean(axis=-2, keepdims=True)

    def step(self, gradients):
        beta1, beta2, beta3 = self.betas
        for i, g in enumerate(gradient.astype(np.float64) for gradient in gradients):
            self.moments[i] = self.average(self.moments[i], g**2 + self.eps[0], beta2)
            u = g / np.sqrt(self.whole(self.moments[i]))
            u = u / max(1.0, np.sqrt((u**2).mean()) / self.clip)
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * u
            step = self.m[i]
            if g.ndim > 1:
                self.residuals[i] = self.average(self.residuals[i], (u - self.m[i]) ** 2 + self.eps[1], beta3)
                step = step / np.sqrt(self.whole(self.residuals[i]))
            self.p[i] = self.p[i] - self.lr * self.weight_decay * self.p[i] - self.lr * step


OPTIONS: list[dict[str, Any]] = [
    {"lr": 2e-4},
    {"lr": 2e-3, "weight_decay": 0.1, "betas": (0.8, 0.95, 0.99)},
    {"lr": 1e-3, "betas": (0.0, 0.0, 0.5), "eps": (1e-8, 1e-4)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["defaults", "decay", "others"])
def test_twenty_steps_match_the_equations(options: dict[str, Any]) -> None:
    params, _ = twins()
    reference = NumpyCame([p.detach().numpy() for p in params], **options)
    generator = torch.Generator().manual_seed(2)
    optimizer = Came(params, **options)
    for scale in [1.0, 1e-2, 10.0, 1e-6] * 5:
        gradients = [torch.randn(p.shape, generator=generator) * scale for p in params]
        for parameter, gradient in zip(params, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        reference.step([g.numpy() for g in gradients])
    for parameter, expected in zip(params, reference.p, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-12)])
def test_twenty_steps_are_pytorch_optimizers(dtype: torch.dtype, tolerance: float) -> None:
    ours, theirs = twins(dtype)
    options = {"lr": 1e-3, "weight_decay": 0.05}
    optimizers = [Came(ours, **options), pytorch_optimizer.CAME(theirs, **options, foreach=False)]
    take_steps(optimizers, [ours, theirs], [1.0, 1e-2, 10.0, 1e-6] * 5)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_zero_gradients_move_nothing_and_gradients_are_left_alone() -> None:
    ours, _ = twins()
    before = [p.detach().clone() for p in ours]
    optimizer = Came(ours, lr=0.1)
    take_steps([optimizer], [ours], [0.0, 0.0])
    assert all(torch.equal(p, b) for p, b in zip(ours, before, strict=True))
    gradient = torch.full((7, 5), 2.0)
    ours[4].grad = gradient.clone()
    optimizer.step()
    assert torch.equal(ours[4].grad, gradient)
    assert all(bool(p.isfinite().all()) for p in ours)


def test_without_averages_vectors_move_by_the_sign() -> None:
    """With beta1 = beta2 = 0 a vector's update is g / |g|, whose root mean square is 1."""
    parameter = nn.Parameter(torch.zeros(5))
    parameter.grad = torch.tensor([3.0, -2.0, 1e-3, -1e3, 7.0])
    Came([parameter], lr=0.5, betas=(0.0, 0.0, 0.0)).step()
    torch.testing.assert_close(parameter.detach(), -0.5 * parameter.grad.sign())


def test_the_first_step_of_a_matrix_has_a_known_length() -> None:
    """For gradients of one size u = sign(g) and u - m = beta1 u, and r c / mean(r) = (1 - beta3) beta1^2."""
    parameter = nn.Parameter(torch.zeros(4, 3))
    parameter.grad = torch.full((4, 3), 5.0) * torch.tensor([1.0, -1.0, 1.0])
    Came([parameter], lr=1e-3).step()
    expected = -1e-3 * (1 - 0.9) / (0.9 * (1 - 0.9999) ** 0.5) * parameter.grad.sign()
    torch.testing.assert_close(parameter.detach(), expected)


def test_no_step_waits_for_the_device() -> None:
    """On the meta device nothing has a value: a step that asks for one fails."""
    parameters = [nn.Parameter(torch.empty(shape, device="meta")) for shape in SHAPES]
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    Came(parameters, weight_decay=0.1).step()


def test_decay_is_that_of_the_groups() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = build_came(CameConfig(name="came", weight_decay=0.01), model, Collectives())
    assert [(len(g["params"]), g["weight_decay"]) for g in optimizer.param_groups] == [(1, 0.01), (3, 0.0)]
