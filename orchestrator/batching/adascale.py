"""AdaScale (Johnson et al., ICML 2020): the batch stays, the rate follows what the batch gains.

    r = (S / B0 + G2) / (S / B + G2)      with B0 = reference_batch and k = B / B0, 1 <= r <= k
    lr = scheduled rate x r^exponent

A step counts for r steps of the reference batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from orchestrator.batching.adaptive import decision_of, is_measured
from orchestrator.batching.coupling import gain
from orchestrator.batching.guards import half_life
from orchestrator.core.gradient_stats import RunningStatistic
from orchestrator.core.values import BatchPlan, ControllerParts, StepStats
from orchestrator.spec.methods.controllers import AdaScale


def adascale_gain(noise: float, signal: float, *, batch: int, reference: int) -> float:
    """The gain r.

    Args:
        noise: estimate of tr(Sigma), at least 0.
        signal: estimate of |G|^2; one below 0 is taken for 0.
        batch: of the steps, in samples.
        reference: batch whose gain is 1, in samples.
    """
    if signal <= 0:
        return batch / reference
    return gain(batch / reference, noise / signal / reference)


class AdaScaleController:
    """Plans the same batch for every step, with the newest gain. Satisfies ``core.protocols.BatchController``."""

    def __init__(self, parts: ControllerParts) -> None:
        batch = parts.spec.batch
        config = batch.controller
        assert isinstance(config, AdaScale)
        self._config = config
        self._batch = batch
        self._statistic = RunningStatistic(half_life(config.statistic, batch.global_size))
        self._gain = 1.0
        self._progress = 0.0

    def plan(self, stats: StepStats) -> BatchPlan:
        """See ``core.protocols.BatchController``."""
        size, reference = self._batch.global_size, self._config.reference_batch
        is_new = stats.gradient is not None and stats.gradient.num_groups > 1
        if stats.gradient is not None and is_new:
            self._statistic.update(stats.gradient, stats.samples)
            noise, signal = self._statistic.noise, self._statistic.signal
            self._gain = adascale_gain(noise, signal, batch=size, reference=reference)
        factor = math.pow(self._gain, self._config.exponent)
        # What the steps so far, and the one that is planned, are worth.
        self._progress += self._gain
        decision = None
        if is_new:
            reason = (
                f"gain {self._gain:.4g} of {size / reference:.4g}; {self._progress:.6g} steps of {reference} so far"
            )
            decision = decision_of(self._statistic, batch=size, target=None, lr_factor=factor, reason=reason)
        is_due = is_measured(self._config.statistic, stats.step)
        return BatchPlan(
            global_batch_size=size,
            micro_batch_size=self._batch.planned_micro_size,
            lr_factor=factor,
            sample_statistic=is_due,
            preconditioned=is_due and self._config.statistic.preconditioned,
            decision=decision,
        )

    def state_dict(self) -> dict[str, Any]:
        """See ``core.protocols.BatchController``."""
        return {"gain": self._gain, "progress": self._progress, "statistic": self._statistic.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See ``core.protocols.BatchController``."""
        self._gain, self._progress = float(state["gain"]), float(state["progress"])
        self._statistic.load_state_dict(state["statistic"])
