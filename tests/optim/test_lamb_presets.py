"""Each variant of LAMB against the library that it is named after, or a NumPy port of that library's rule."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pytorch_optimizer import Lamb as ForeignLamb
from torch import nn

from orchestrator.core.collectives import Collectives
from orchestrator.optim.lamb import build_lamb
from orchestrator.spec.methods.optimizers import Lamb as LambConfig

LR, BETAS, DECAY = 0.02, (0.9, 0.999), 0.1
Rule = Callable[[np.ndarray, np.ndarray, np.ndarray, int, float], np.ndarray]


def norm(x: np.ndarray) -> float:
    return float(np.sqrt((x * x).sum()))


def addons(p, m, v, t, decay):
    """TensorFlow Addons: nothing clamped; the layers it is told to leave out are those without decay."""
    update = (m / (1 - BETAS[0] ** t)) / (np.sqrt(v / (1 - BETAS[1] ** t)) + 1e-6) + decay * p
    ratio = norm(p) / norm(update) if decay and norm(p) and norm(update) else 1.0
    return p - LR * ratio * update


def nvlamb(p, m, v, t, decay):
    """apex with use_nvlamb, after its gradients are clipped: every layer is adapted."""
    update = (m / (1 - BETAS[0] ** t)) / (np.sqrt(v / (1 - BETAS[1] ** t)) + 1e-6) + decay * p
    ratio = norm(p) / norm(update) if norm(p) and norm(update) else 1.0
    return p - LR * ratio * update


def fused_lamb(p, m, v, t, decay):
    """DeepSpeed's three kernels: the correction on the step size, the coefficient within [0.01, 10]."""
    size = LR * np.sqrt(1 - BETAS[1] ** t) / (1 - BETAS[0] ** t)
    update = m / (np.sqrt(v) + 1e-8) + decay * p
    coefficient = min(10.0, max(0.01, norm(p) / norm(update))) if norm(p) and norm(update) else 1.0
    return p - size * coefficient * update


def third_version(p, m, v, t, decay):
    """cybertronai: no correction, the weight norm at most 10."""
    update = m / (np.sqrt(v) + 1e-6) + decay * p
    weight_norm = min(norm(p), 10.0)
    ratio = weight_norm / norm(update) if weight_norm and norm(update) else 1.0
    return p - LR * ratio * update


RULES: dict[str, Rule] = {
    "paper": addons,
    "apex": addons,
    "nvlamb": nvlamb,
    "deepspeed": fused_lamb,
    "v3_clamp10": third_version,
}


class Net(nn.Module):
    """A large layer (norm above 10), a small one, a bias, and a layer that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.large = nn.Parameter(torch.randn(40, 20, generator=generator))
        self.small = nn.Parameter(torch.randn(5, 3, generator=generator) * 1e-3)
        self.bias = nn.Parameter(torch.randn(9, generator=generator))
        self.zero = nn.Parameter(torch.zeros(4, 4))


def gradients(net: nn.Module, step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator) for p in net.parameters()]


@pytest.mark.parametrize("preset", RULES)
def test_a_preset_is_the_rule_of_its_library(preset: str) -> None:
    net = Net()
    config = LambConfig.model_validate({"name": "lamb", "lr": LR, "weight_decay": DECAY, "preset": preset})
    optimizer = build_lamb(config, net, Collectives())
    weights = [p.detach().double().numpy() for p in net.parameters()]
    means = [np.zeros_like(w) for w in weights]
    squares = [np.zeros_like(w) for w in weights]
    for step in range(1, 21):
        for parameter, gradient in zip(net.parameters(), gradients(net, step), strict=True):
            parameter.grad = gradient
        optimizer.step()
        for i, gradient in enumerate(g.double().numpy() for g in gradients(net, step)):
            means[i] = BETAS[0] * means[i] + (1 - BETAS[0]) * gradient
            squares[i] = BETAS[1] * squares[i] + (1 - BETAS[1]) * gradient**2
            decay = DECAY if gradient.ndim > 1 else 0.0
            weights[i] = RULES[preset](weights[i], means[i], squares[i], step, decay)
    for parameter, expected in zip(net.parameters(), weights, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-5, atol=1e-6 * abs(expected).max())


def test_the_third_version_is_pytorch_optimizers() -> None:
    ours, theirs = Net(), Net()
    config = LambConfig.model_validate({"name": "lamb", "lr": LR, "weight_decay": DECAY, "preset": "v3_clamp10"})
    optimizer = build_lamb(config.model_copy(update={"decay_one_dimensional": True}), ours, Collectives())
    foreign = ForeignLamb(
        theirs.parameters(),
        lr=LR,
        betas=BETAS,
        weight_decay=DECAY,
        weight_decouple=False,
        adam_debias=True,
        foreach=False,
    )
    for step in range(1, 11):
        for mine, other, gradient in zip(ours.parameters(), theirs.parameters(), gradients(ours, step), strict=True):
            mine.grad, other.grad = gradient, gradient.clone()
        optimizer.step()
        foreign.step()
    # Theirs adds eps to the norm of the update.
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_the_correction_on_the_rate_is_a_hidden_warmup() -> None:
    lengths = {}
    for place in ("direction", "learning_rate"):
        net = Net()
        config = LambConfig.model_validate({"name": "lamb", "lr": LR, "bias_correction": place})
        optimizer = build_lamb(config, net, Collectives())
        before = net.large.detach().clone()
        for parameter, gradient in zip(net.parameters(), gradients(net, 1), strict=True):
            parameter.grad = gradient
        optimizer.step()
        lengths[place] = float((net.large.detach() - before).norm() / before.norm())
    assert lengths["direction"] == pytest.approx(LR, rel=1e-5)
    assert lengths["learning_rate"] == pytest.approx(LR * (1 - BETAS[1]) ** 0.5 / (1 - BETAS[0]), rel=1e-4)


def test_an_argument_takes_the_place_of_the_presets() -> None:
    config = LambConfig.model_validate(
        {"name": "lamb", "preset": "deepspeed", "trust_ratio_range": [0.08, 0.5], "adapt": "decayed", "eps": 1e-4}
    )
    optimizer = build_lamb(config, Net(), Collectives())
    assert optimizer.variant.trust_ratio_range == (0.08, 0.5)
    assert (optimizer.variant.adapt, optimizer.variant.bias_correction) == ("decayed", "learning_rate")
    assert {group["eps"] for group in optimizer.param_groups} == {1e-4}


@pytest.mark.parametrize(
    ("preset", "field", "bounds"),
    [("deepspeed", "trust_ratio_range", (0.01, 10.0)), ("v3_clamp10", "weight_norm_range", (0.0, 10.0))],
)
def test_a_presets_bounds_can_be_taken_away(preset: str, field: str, bounds: tuple[float, float]) -> None:
    for value, expected in ((None, bounds), ("none", (0.0, float("inf")))):
        config = LambConfig.model_validate({"name": "lamb", "preset": preset, field: value})
        assert getattr(build_lamb(config, Net(), Collectives()).variant, field) == expected
