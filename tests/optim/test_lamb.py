"""LAMB against an independent NumPy float64 implementation of its paper, and against closed forms."""

import numpy as np
import pytest
import torch
from torch import nn

from orchestrator.core.collectives import Collectives
from orchestrator.optim.lamb import Lamb, build_lamb
from orchestrator.spec.methods.optimizers import Lamb as LambConfig

SHAPES = [(7, 5), (3, 2, 4), (1, 1), (64, 3)]


class NumpyLamb:
    """Algorithm 2 of arXiv 1904.00962v5 in float64, written from the equations."""

    def __init__(self, tensors, *, lr, betas, eps, weight_decay):
        self.p = [t.astype(np.float64) for t in tensors]
        self.m = [np.zeros_like(p) for p in self.p]
        self.v = [np.zeros_like(p) for p in self.p]
        self.t = 0
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay

    def step(self, gradients):
        self.t += 1
        beta1, beta2 = self.betas
        for i, gradient in enumerate(g.astype(np.float64) for g in gradients):
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * gradient
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * gradient**2
            r = (self.m[i] / (1 - beta1**self.t)) / (np.sqrt(self.v[i] / (1 - beta2**self.t)) + self.eps)
            u = r + self.weight_decay * self.p[i]
            norms = np.linalg.norm(self.p[i]), np.linalg.norm(u)
            ratio = norms[0] / norms[1] if min(norms) > 0 else 1.0
            self.p[i] = self.p[i] - self.lr * ratio * u


def parameters(generator: torch.Generator) -> list[nn.Parameter]:
    tensors = [torch.randn(shape, generator=generator) for shape in SHAPES]
    return [nn.Parameter(t) for t in [*tensors, torch.zeros(4, 3)]]


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.66, 0.996), (0.0, 0.0)])
def test_twenty_steps_match_the_equations(betas: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(1)
    params = parameters(generator)
    arguments = {"lr": 0.01, "betas": betas, "eps": 1e-6, "weight_decay": 0.01}
    reference = NumpyLamb([p.detach().numpy() for p in params], **arguments)
    optimizer = Lamb(params, **arguments)
    for _ in range(20):
        gradients = [torch.randn(p.shape, generator=generator) for p in params]
        for parameter, gradient in zip(params, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        reference.step([g.numpy() for g in gradients])
    for parameter, expected in zip(params, reference.p, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=2e-6, atol=2e-6)


def test_an_adapted_step_has_the_length_of_lr_times_the_norm() -> None:
    """Because u is normalized, ||p' - p|| = lr ||p|| at every step: wrong debiasing or a sharded norm fails here."""
    generator = torch.Generator().manual_seed(2)
    parameter = nn.Parameter(torch.randn(50, 20, generator=generator))
    optimizer = Lamb([parameter], lr=0.1)
    for _ in range(5):
        before = parameter.detach().clone()
        parameter.grad = torch.randn(50, 20, generator=generator)
        optimizer.step()
        moved = (parameter.detach() - before).norm()
        torch.testing.assert_close(moved, 0.1 * before.norm(), rtol=1e-5, atol=0)


def test_without_averages_it_is_the_sign_of_the_gradient() -> None:
    generator = torch.Generator().manual_seed(3)
    parameter = nn.Parameter(torch.randn(8, 8, generator=generator, dtype=torch.float64))
    before = parameter.detach().clone()
    parameter.grad = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    # A decay of nearly nothing keeps the tensor adapted without moving the direction.
    Lamb([parameter], lr=0.01, betas=(0.0, 0.0), eps=0.0, weight_decay=1e-300).step()
    expected = before - 0.01 * before.norm() * parameter.grad.sign() / 8
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-12)


def test_tensors_without_decay_take_adams_step() -> None:
    generator = torch.Generator().manual_seed(4)
    start = torch.randn(6, 6, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    lamb = Lamb([ours], lr=0.01, eps=1e-8, weight_decay=0.0)
    adam = torch.optim.Adam([theirs], lr=0.01, eps=1e-8)
    for _ in range(10):
        ours.grad = torch.randn(6, 6, generator=generator)
        theirs.grad = ours.grad.clone()
        lamb.step()
        adam.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_left_alone_and_zero_norms_are_safe() -> None:
    parameter = nn.Parameter(torch.zeros(3, 3))
    parameter.grad = torch.zeros(3, 3)
    Lamb([parameter], lr=0.1).step()
    assert torch.equal(parameter.detach(), torch.zeros(3, 3))
    gradient = torch.full((3, 3), 2.0)
    parameter.grad = gradient.clone()
    Lamb([parameter], lr=0.1).step()
    assert torch.equal(parameter.grad, gradient)
    assert torch.isfinite(parameter).all()


def test_state_survives_a_round_trip() -> None:
    generator = torch.Generator().manual_seed(5)
    start = torch.randn(4, 4, generator=generator)
    gradients = [torch.randn(4, 4, generator=generator) for _ in range(6)]
    straight, broken = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    first, second = Lamb([straight]), Lamb([broken])
    for i, gradient in enumerate(gradients):
        straight.grad, broken.grad = gradient.clone(), gradient.clone()
        first.step()
        second.step()
        if i == 2:
            saved = second.state_dict()
            second = Lamb([broken])
            second.load_state_dict(saved)
    assert torch.equal(straight, broken)


def test_biases_and_gains_are_neither_decayed_nor_adapted_by_default() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = build_lamb(LambConfig(name="lamb"), model, Collectives())
    assert [(len(g["params"]), g["weight_decay"]) for g in optimizer.param_groups] == [(1, 0.01), (3, 0.0)]
    everything = build_lamb(LambConfig(name="lamb", decay_one_dimensional=True), model, Collectives())
    assert [(len(g["params"]), g["weight_decay"]) for g in everything.param_groups] == [(4, 0.01)]
