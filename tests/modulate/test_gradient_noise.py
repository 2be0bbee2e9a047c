"""Multiplicative gradient noise: what it multiplies by, how often it draws, and where it must change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import assert_same_weights, make_run_directory, tiny_spec, train_here, weights
from torch import Tensor, nn

from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.seeding import seed_everything
from orchestrator.modulate.loss.gradient_noise import NoisyLoss
from orchestrator.spec.methods.loss_modulators import GradientNoise


def squares(model: nn.Module, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    value = (model(batch) ** 2).mean()
    return value, {"twice": 2 * value.detach()}


def factors(sigma: float, number: int, seed: int = 0) -> Tensor:
    """What the gradients of that many micro-batches have been multiplied by, one after another."""
    model, batch = nn.Linear(3, 1, bias=False).double(), torch.ones(2, 3, dtype=torch.float64)
    loss = NoisyLoss(GradientNoise(name="gradient_noise", sigma=sigma)).around(squares)
    value, _ = squares(model, batch)
    (plain,) = torch.autograd.grad(value, model.weight)
    seed_everything(seed)
    found = []
    for _ in range(number):
        noisy, metrics = loss(model, batch)
        assert torch.equal(noisy, value)
        assert torch.equal(metrics["twice"], 2 * value)
        (gradient,) = torch.autograd.grad(noisy, model.weight)
        ratios = gradient / plain
        torch.testing.assert_close(ratios, ratios.mean().expand_as(ratios), rtol=0, atol=1e-12)  # one number for all
        found.append(ratios.mean())
    return torch.stack(found)


@pytest.mark.parametrize("sigma", [0.1, 0.7])
def test_factors_are_normal_around_one(sigma: float) -> None:
    number = 4000
    found = factors(sigma, number)
    assert abs(float(found.mean()) - 1) < 4 * sigma / number**0.5
    assert float(found.std()) == pytest.approx(sigma, rel=4 / (2 * number) ** 0.5)
    normal = (found - 1) / sigma
    assert float((normal.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.03)


def test_every_micro_batch_has_a_factor_of_its_own() -> None:
    found = factors(0.5, 1000)
    assert len(set(found.tolist())) == 1000
    neighbors = torch.corrcoef(torch.stack([found[:-1], found[1:]]))[0, 1]
    assert abs(float(neighbors)) < 4 / 1000**0.5


def test_a_seed_repeats_them() -> None:
    assert torch.equal(factors(0.5, 5), factors(0.5, 5))
    assert not torch.equal(factors(0.5, 5), factors(0.5, 5, seed=1))


def trained(root: Path, sigma: float | None, seed: int = 0) -> RunDirectory:
    noise = [] if sigma is None else [{"name": "gradient_noise", "sigma": sigma}]
    spec = tiny_spec(train={"steps": 6, "seed": seed}, batch={"global_size": 48, "micro_size": 12}, modulators=noise)
    directory = make_run_directory(root, spec)
    train_here(str(directory.root))
    return directory


def test_no_noise_is_the_plain_training_to_the_bit(tmp_path: Path) -> None:
    assert_same_weights(trained(tmp_path / "plain", None), trained(tmp_path / "none", 0.0))


def test_a_job_repeats_its_noise(tmp_path: Path) -> None:
    first, second = trained(tmp_path / "first", 0.5), trained(tmp_path / "second", 0.5)
    assert_same_weights(first, second)
    plain = trained(tmp_path / "plain", None)
    assert not torch.allclose(weights(first)["0.weight"], weights(plain)["0.weight"], atol=1e-3)
