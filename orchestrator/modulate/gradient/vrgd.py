"""VRGD: elements of the gradient that are mostly noise take smaller steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from orchestrator.core.collectives import Collectives
from orchestrator.core.signal_to_noise import SignalToNoise
from orchestrator.core.staleness import Staleness
from orchestrator.spec.methods.gradient_modulators import Vrgd


def confidence(ratio: Tensor, floor: float) -> Tensor:
    """R / mean(r) clamped to [floor, 1], elementwise; all 1 where the mean is 0.

    Args:
        ratio: gbar^2 / sigma^2 of one tensor, at least 0.
        floor: in (0, 1].
    """
    mean = ratio.mean()
    relative = torch.where(mean > 0, ratio / mean.clamp_min(torch.finfo(ratio.dtype).tiny), torch.ones_like(ratio))
    return relative.clamp(floor, 1.0)


class VarianceReduction:
    """Gradient descent by signal-to-noise ratio (VRGD; VR-SGD, VR-LARS, VR-LAMB, ...) before any optimizer's step.

    Satisfies ``core.protocols.Modulator``. For each element j of a tensor, from the gradients g_d of K groups of the
    step's samples (workers; micro-batches where there is one worker), all parts of their mean gbar::

        r_j = gbar_j^2 / sigma_j^2,    sigma_j^2 = mean_d(g_dj^2) - gbar_j^2
        r_j <- clamp(r_j / mean_j(r), floor, 1)
        g_j <- r_j g_j

    Args:
        config: ``floor`` in (0, 1].
        noise: told of each step by the engine.

    Differences from the paper: groups of unequal size weigh by their samples; the variance of a step's elements is at
    least 1e-12 of their mean square, so that ratios are finite. The running average of r that the paper's VR-Adam keeps
    is left out.
    """

    def __init__(self, config: Vrgd, noise: SignalToNoise) -> None:
        self._config = config
        self._noise = noise
        self._mean: Tensor | None = None

    def attach(self, optimizer: torch.optim.Optimizer, staleness: Staleness, collectives: Collectives | None) -> None:
        """See ``core.protocols.Modulator``."""
        optimizer.register_step_pre_hook(self._before_step)

    def report(self) -> dict[str, Tensor]:
        """``vrgd_factor``: the mean of r over all elements."""
        return {} if self._mean is None else {"vrgd_factor": self._mean}

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        sums = []
        for parameter, ratio in self._noise.ratios.items():
            factor = confidence(ratio, self._config.floor)
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
            sums.append(torch.stack([factor.sum(), factor.new_tensor(float(factor.numel()))]))
        if sums:
            total = torch.stack(sums).sum(dim=0)
            self._mean = total[0] / total[1]
