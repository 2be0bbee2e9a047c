"""Gap-Aware: an element's gradient counts the less, the further its weight has moved since."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from orchestrator.core.staleness import Staleness
from orchestrator.exchange.compensation.stepped import CompensationBase, stepped
from orchestrator.spec.methods.compensations import GapAware

EPS = 1e-8
"""Added to the root mean square of the velocity."""


def penalty(moved: Tensor, usual_step: Tensor) -> Tensor:
    """1 + |w_now - w_read| / C, one for each element."""
    return 1 + moved.abs() / usual_step


class GapPenalty(CompensationBase):
    """Gap-Aware (Barkai et al., arXiv 1909.10802), around the step of ``torch.optim.SGD`` with momentum.

    One update::

        C = lr_max (sqrt(mean of v * v) + 1e-8)         the mean running, without bias, of the steps so far
        g + wd w <- (g + wd w) / (1 + |w_now - w_read| / C)

    lr_max is the largest learning rate so far. Weight decay is divided like the rest of the gradient.

    Args:
        config: ``decay`` of the running mean.
        num_workers: not needed.
    """

    def __init__(self, config: GapAware, num_workers: int) -> None:
        self._decay = config.decay

    def attach(self, optimizer: torch.optim.Optimizer, staleness: Staleness) -> None:
        """See ``core.protocols.Compensation``."""
        super().attach(optimizer, staleness)
        optimizer.register_step_pre_hook(self._before_step)
        optimizer.register_step_post_hook(self._after_step)

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for each in stepped(optimizer):
            largest_lr = float(each.number("largest_lr").clamp_(min=each.lr))
            moved = self._moved(each.parameter)
            if moved is None or largest_lr == 0:
                continue
            correction = 1 - self._decay ** float(each.number("num_velocities"))
            usual_step = largest_lr * ((each.zeros("velocity_square") / correction).sqrt() + EPS)
            decayed = each.gradient.add(each.parameter, alpha=each.weight_decay)
            decayed.div_(penalty(moved, usual_step)).sub_(each.parameter, alpha=each.weight_decay)
            each.gradient.copy_(decayed)

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for each in stepped(optimizer):
            velocity = each.state["momentum_buffer"]
            each.zeros("velocity_square").mul_(self._decay).addcmul_(velocity, velocity, value=1 - self._decay)
            each.number("num_velocities").add_(1)
