"""What keeps a batch from following its policy too far, too fast, or on too little evidence. Pure numbers."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.values import ControllerParts
from orchestrator.spec.methods.controllers import DEFAULT_GROWTH, DEFAULT_HALF_LIFE, Guards, Statistic


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The guards of a job, with their defaults worked out. All sizes are samples."""

    smallest: int
    largest: int
    shrink: bool
    growth: float
    hysteresis: float
    cooldown: int
    min_measurements: int
    confidence: float
    in_warmup: bool
    quantum: int | None
    """None is that of ``world_size`` and ``micro_size``."""
    world_size: int
    micro_size: int | None

    def quantum_at(self, size: float) -> int:
        """What a batch of about this size is a multiple of."""
        if self.quantum is not None:
            return self.quantum
        full = self.world_size * (self.micro_size or 1)
        return full if self.micro_size is not None and size > full else self.world_size

    def rounded(self, size: float, most: float) -> int:
        """The next multiple of the quantum, the one below where that is more than ``most``; never out of the limits."""
        quantum = self.quantum_at(size)
        found = -(-size // quantum) * quantum
        if found > most:
            found = most // quantum * quantum
        return int(min(max(found, self.smallest), self.largest))


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the guards look at."""

    batch: int
    """At present, in samples."""
    measurements: int
    samples_since_change: int | None
    """None where the batch never changed."""
    is_warmup: bool
    signal: float
    """Estimate of |G|^2."""
    signal_error: float
    """Its standard error."""


def half_life(statistic: Statistic, global_size: int) -> int:
    """Of the averages, in samples."""
    return statistic.half_life_samples or DEFAULT_HALF_LIFE * global_size


def limits_of(guards: Guards, statistic: Statistic, parts: ControllerParts) -> Limits:
    """The guards of a job with their defaults worked out."""
    batch = parts.spec.batch
    # Fewer samples would leave one group of them, which has no spread.
    least = max(parts.world_size, 1 if parts.world_size > 1 else (batch.planned_micro_size or 0) + 1)
    cooldown = guards.cooldown_samples
    return Limits(
        smallest=max(least, guards.min_size or batch.global_size),
        largest=guards.max_size or DEFAULT_GROWTH * batch.global_size,
        shrink=guards.shrink,
        growth=guards.growth,
        hysteresis=guards.hysteresis,
        cooldown=half_life(statistic, batch.global_size) if cooldown is None else cooldown,
        min_measurements=guards.min_measurements,
        confidence=guards.confidence,
        in_warmup=guards.in_warmup,
        quantum=guards.quantum,
        world_size=parts.world_size,
        micro_size=batch.planned_micro_size,
    )


def guarded(target: float, situation: Situation, limits: Limits) -> tuple[int, str]:
    """The next batch and, where it stays, why.

    Args:
        target: that the policy asks for, in samples; inf asks for as many as possible.
        situation: at present.
        limits: of the job.

    Returns:
        Samples, and the guard that kept the batch or cut the change short; empty where the target is taken.
    """
    batch = situation.batch
    held = _held(target, situation, limits)
    if held:
        return batch, held
    least, most = batch / limits.growth, batch * limits.growth
    size = limits.rounded(min(max(target, least), most), most)
    if size == batch:
        return batch, "at the limit" if target >= limits.largest or target <= limits.smallest else "rounding"
    cut = "limited by max_size" if size < target and size == limits.largest else ""
    if target > most or target < least:
        cut = cut or "limited by growth"
    return size, cut


def _held(target: float, situation: Situation, limits: Limits) -> str:
    """The guard that keeps the batch as it is; empty where none does."""
    since = situation.samples_since_change
    if situation.measurements < limits.min_measurements:
        return "kept: too few measurements"
    if situation.is_warmup and not limits.in_warmup:
        return "kept: warmup"
    if since is not None and since < limits.cooldown:
        return "kept: cooldown"
    if limits.confidence and not situation.signal > limits.confidence * situation.signal_error:
        return "kept: the gradient's own size is not certain"
    if situation.batch / limits.hysteresis <= target <= situation.batch * limits.hysteresis:
        return "kept: near enough"
    if target < situation.batch and not limits.shrink:
        return "kept: may not shrink"
    return ""
