"""The controller of all policies that follow the gradient's noise: measures, asks its policy, heeds the guards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.batching.coupling import averages_ratio
from orchestrator.batching.guards import Situation, guarded, half_life, limits_of
from orchestrator.core.gradient_stats import GroupNorms, RunningStatistic
from orchestrator.core.values import BatchPlan, ControllerParts, Decision, StepStats, Wish
from orchestrator.spec.methods.controllers import Adaptive, Statistic
from orchestrator.spec.scaling import rate_factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a policy decides by."""

    batch: int
    """At present, in samples."""
    statistic: RunningStatistic
    """Averages over the measured steps, the newest among them."""
    norms: GroupNorms
    """Of the newest measured step, alone."""


class Policy:
    """Which batch a policy asks for. Most are a function of what is seen; the others keep state."""

    inner_products = False
    """Whether measured steps must give the groups' inner products."""
    workers: int | None = None
    """That are asked for; None where the policy does not ask."""

    def target(self, seen: Seen) -> tuple[float, str]:
        """Samples per step, inf for as many as possible, and the rule in words."""
        raise NotImplementedError

    def wish(self, seen: Seen) -> Wish | None:
        """Ask for another number of ``workers``, with the batch as it has just been decided; None leaves it."""
        return None

    def watch(self, stats: StepStats) -> None:
        """Called before every step."""

    def take(self, norms: GroupNorms, samples: int) -> None:
        """Called with every measured step, before ``target``, and the samples that the training has seen."""

    def state_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``."""


class AdaptiveController:
    """Asks a policy after every measured step. Satisfies ``core.protocols.BatchController``.

    Args:
        config: of the controller, with statistic, guards and coupling.
        parts: of the job.
        policy: to ask.
    """

    def __init__(self, config: Adaptive, parts: ControllerParts, policy: Policy) -> None:
        batch = parts.spec.batch
        self._coupling = config.coupling
        self._config = config.statistic
        self._reference = self._batch = batch.global_size
        self._micro_size = batch.planned_micro_size
        self._lr_factor = 1.0
        self._changed_at: int | None = None
        self._limits = limits_of(config.guards, config.statistic, parts)
        self._statistic = RunningStatistic(half_life(config.statistic, batch.global_size))
        self._policy = policy

    def plan(self, stats: StepStats) -> BatchPlan:
        """See ``core.protocols.BatchController``."""
        self._policy.watch(stats)
        decision = wish = None
        if stats.gradient is not None and stats.gradient.num_groups > 1:
            self._statistic.update(stats.gradient, stats.samples)
            self._policy.take(stats.gradient, stats.samples)
            decision = self._decide(stats, stats.gradient)
            if self._statistic.num_observations >= self._limits.min_measurements:
                wish = self._policy.wish(Seen(batch=self._batch, statistic=self._statistic, norms=stats.gradient))
        is_due = is_measured(self._config, stats.step)
        return BatchPlan(
            global_batch_size=self._batch,
            micro_batch_size=self._micro_size,
            lr_factor=self._lr_factor,
            averages_ratio=averages_ratio(self._coupling, self._batch, self._reference),
            sample_statistic=is_due,
            inner_products=is_due and self._policy.inner_products,
            preconditioned=is_due and self._config.preconditioned,
            decision=decision,
            workers=self._policy.workers,
            wish=wish,
        )

    def _decide(self, stats: StepStats, norms: GroupNorms) -> Decision:
        statistic = self._statistic
        target, rule = self._policy.target(Seen(batch=self._batch, statistic=statistic, norms=norms))
        situation = Situation(
            batch=self._batch,
            measurements=statistic.num_observations,
            samples_since_change=None if self._changed_at is None else stats.samples - self._changed_at,
            is_warmup=stats.is_warmup,
            signal=statistic.signal,
            signal_error=statistic.signal_error,
        )
        size, guard = guarded(target, situation, self._limits)
        if size != self._batch:
            self._batch, self._changed_at = size, stats.samples
            self._lr_factor = rate_factor(self._coupling, size, self._reference, statistic.noise_scale)
        return decision_of(
            statistic,
            batch=size,
            target=target,
            lr_factor=self._lr_factor,
            reason=f"{rule}; {guard}" if guard else rule,
        )

    def state_dict(self) -> dict[str, Any]:
        """See ``core.protocols.BatchController``."""
        return {
            "batch": self._batch,
            "lr_factor": self._lr_factor,
            "changed_at": self._changed_at,
            "statistic": self._statistic.state_dict(),
            "policy": self._policy.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See ``core.protocols.BatchController``."""
        self._batch = int(state["batch"])
        self._lr_factor = float(state["lr_factor"])
        self._changed_at = state["changed_at"]
        self._statistic.load_state_dict(state["statistic"])
        self._policy.load_state_dict(state["policy"])


def is_measured(config: Statistic, step: int) -> bool:
    """Whether the step after so many is measured; there is no second moment before the first."""
    return step % config.every == 0 and not (config.preconditioned and step == 0)


def decision_of(
    statistic: RunningStatistic, *, batch: int, target: float | None, lr_factor: float, reason: str
) -> Decision:
    """A decision with the numbers of a statistic."""
    return Decision(
        batch=batch,
        target=target if target is not None and math.isfinite(target) else None,
        noise=statistic.noise,
        signal=statistic.signal,
        noise_scale=statistic.noise_scale,
        lr_factor=lr_factor,
        reason=reason,
    )
