"""Seesaw (arXiv:2510.14717): a growing batch in place of most of the learning rate's decay.

With the schedule at a share s of its peak, n = floor(log(1 / s) / log(a)) cuts by the factor a have passed:

    B = B0 a^n        lr = peak x a^(-n / 2)

where the schedule alone has lr = peak x a^-n. Steps of Adam and other normalized methods depend on lr / sqrt(B) while
noise dominates. From the largest batch on the rate falls as scheduled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from orchestrator.core.values import BatchPlan, ControllerParts, Decision, StepStats
from orchestrator.spec.methods.controllers import DEFAULT_GROWTH, Seesaw

# A share of exactly a^-n has had n cuts, whatever the logarithms round to.
_TOLERANCE = 1e-9


def seesaw(share: float, factor: float, *, most: float = math.inf) -> tuple[float, float]:
    """What the batch and the rate are of their starts.

    Args:
        share: scheduled rate over its peak, in (0, 1].
        factor: a, above 1.
        most: largest batch over the first one.

    Returns:
        Batch over the first one, and rate over its peak.
    """
    cuts = math.floor(math.log(1 / share) / math.log(factor) + _TOLERANCE)
    most_cuts = math.inf if math.isinf(most) else math.floor(math.log(most) / math.log(factor) + _TOLERANCE)
    if cuts < most_cuts:
        return factor**cuts, factor ** (-cuts / 2)
    return factor**most_cuts, share * factor ** (most_cuts / 2)


class SeesawController:
    """Trades the schedule's cuts for samples. Satisfies ``core.protocols.BatchController``."""

    def __init__(self, parts: ControllerParts) -> None:
        batch = parts.spec.batch
        config = batch.controller
        assert isinstance(config, Seesaw)
        self._batch = batch
        self._factor = config.factor
        self._most = (config.max_size or DEFAULT_GROWTH * batch.global_size) / batch.global_size
        self._peak = parts.peak_lr
        self._size = batch.global_size

    def plan(self, stats: StepStats) -> BatchPlan:
        """See ``core.protocols.BatchController``."""
        growth, factor = 1.0, 1.0
        if not stats.is_warmup and stats.lr:
            share = min(1.0, stats.lr / self._peak)
            growth, rate = seesaw(share, self._factor, most=self._most)
            factor = rate / share
        size = round(self._batch.global_size * growth)
        decision = None
        if size != self._size:
            reason = f"seesaw, rate at {stats.lr / self._peak:.4g} of its peak" if stats.lr else "seesaw"
            decision = Decision(
                batch=size,
                target=float(size),
                noise=None,
                signal=None,
                noise_scale=None,
                lr_factor=factor,
                reason=reason,
            )
        self._size = size
        return BatchPlan(
            global_batch_size=size,
            micro_batch_size=self._batch.planned_micro_size,
            lr_factor=factor,
            decision=decision,
        )

    def state_dict(self) -> dict[str, Any]:
        """See ``core.protocols.BatchController``."""
        return {"size": self._size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See ``core.protocols.BatchController``."""
        self._size = int(state["size"])
