"""DC-ASGD: a first-order guess of what the gradient would be at the present weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from orchestrator.core.staleness import Staleness
from orchestrator.exchange.compensation.stepped import CompensationBase, stepped
from orchestrator.spec.methods.compensations import DcAsgd

EPS = 1e-7
"""Under the root of the adaptive form."""


def compensated(gradient: Tensor, moved: Tensor, strength: float | Tensor) -> Tensor:
    """The gradient g + strength x g * g * (w_now - w_read); ``strength`` a number, or one for each element."""
    return gradient + strength * gradient * gradient * moved


class DelayCompensation(CompensationBase):
    """Delay-compensated ASGD (Zheng et al., arXiv 1609.08326), before the step of ``torch.optim.SGD``.

    One update::

        constant:  lambda
        adaptive:  MS <- d MS + (1 - d) g * g ;  lambda / sqrt(MS + 1e-7)
        g <- g + lambda g * g * (w_now - w_read)

    g is without weight decay. The diagonal of g g^T stands for the Hessian's.

    Args:
        config: ``strength`` is lambda, ``decay`` d.
        num_workers: not needed.
    """

    def __init__(self, config: DcAsgd, num_workers: int) -> None:
        self._is_adaptive = config.variance == "adaptive"
        default = 2.0 if self._is_adaptive else 0.04
        self._strength = default if config.strength is None else config.strength
        self._decay = config.decay

    def attach(self, optimizer: torch.optim.Optimizer, staleness: Staleness) -> None:
        """See ``core.protocols.Compensation``."""
        super().attach(optimizer, staleness)
        optimizer.register_step_pre_hook(self._before_step)

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for each in stepped(optimizer):
            strength: float | Tensor = self._strength
            if self._is_adaptive:
                mean_square = each.zeros("mean_square")
                mean_square.mul_(self._decay).addcmul_(each.gradient, each.gradient, value=1 - self._decay)
                strength = self._strength / (mean_square + EPS).sqrt()
            moved = self._moved(each.parameter)
            if moved is not None:
                each.gradient.copy_(compensated(each.gradient, moved, strength))
