"""Warns where the learning rate is too high for the delay: before the loss says so."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from orchestrator.core.collectives import Collectives
from orchestrator.core.protocols import Tracker
from orchestrator.core.stability import largest_stable_rate
from orchestrator.core.staleness import Staleness

SAMPLE_EVERY = 100
"""Updates between two gradients that are compared."""
_DECAY = 0.5
"""Of what the samples before say."""


class RateWatch:
    """Measures the curvature along the path of the weights, and compares learning rate x curvature with its bound.

    The curvature is <g' - g, w' - w> / |w' - w|^2 of gradients so many updates apart, each at the weights that it was
    computed at. The noise of g is in w' - w too, which adds at most (1 - momentum) / (updates apart) to the product:
    that is taken off. For SGD, which the bound is known of.

    Args:
        collectives: over the shards.
        tracker: is told of ``rate_above_stability``.
    """

    def __init__(self, collectives: Collectives, tracker: Tracker) -> None:
        self._collectives = collectives
        self._tracker = tracker
        self._num_steps = 0
        self._sampled: list[tuple[Tensor, Tensor]] = []
        self._product = self._square = 0.0
        self._has_warned = False

    def attach(self, optimizer: torch.optim.Optimizer, staleness: Staleness) -> None:
        """Watch the steps of an optimizer."""
        self._staleness = staleness
        if isinstance(optimizer, torch.optim.SGD):
            optimizer.register_step_pre_hook(self._before_step)

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._num_steps += 1
        read = self._staleness.read_weights
        if self._num_steps % SAMPLE_EVERY or read is None or not self._staleness.counts:
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        now = [(p.grad.detach().clone(), read(p).clone()) for p in parameters if p.grad is not None]
        if self._sampled:
            self._compare(now, optimizer.param_groups[0])
        self._sampled = now

    def _compare(self, now: list[tuple[Tensor, Tensor]], group: dict[str, Any]) -> None:
        sums = torch.zeros(2, dtype=torch.float64)
        for (gradient, weights), (gradient_before, weights_before) in zip(now, self._sampled, strict=True):
            moved = (weights - weights_before).double()
            sums[0] += ((gradient - gradient_before).double() * moved).sum()
            sums[1] += moved.square().sum()
        self._collectives.sum_(sums)
        self._product = _DECAY * self._product + (1 - _DECAY) * float(sums[0])
        self._square = _DECAY * self._square + (1 - _DECAY) * float(sums[1])
        if self._square == 0.0:
            return
        rate, momentum, delay = float(group["lr"]), float(group["momentum"]), self._staleness.quantile(0.95)
        curvature = self._product / self._square - (1 - momentum) / (SAMPLE_EVERY * rate) if rate else 0.0
        bound = largest_stable_rate(delay, momentum)
        is_above = curvature > 0 and rate * curvature > bound
        if is_above and not self._has_warned and self._collectives.rank == 0:
            fields = {"lr": rate, "curvature": curvature, "delay_p95": delay, "largest_stable_lr": bound / curvature}
            self._tracker.event("rate_above_stability", fields)
        self._has_warned = is_above
