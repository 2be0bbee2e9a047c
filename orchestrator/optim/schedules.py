"""Learning-rate schedules as pure functions of samples seen, and the batch scaling rules.

With s samples seen before a step of B samples, W warmup samples and T samples in all:

    warmup:      min(1, (s + B) / W)            the first step already moves, the last warmup step reaches the peak
    progress:    (s - W) / (T - W) in [0, 1)    the first step after the warmup has the full rate
"""

from __future__ import annotations

import math

from orchestrator.core.tables import SCHEDULES, load
from orchestrator.spec.methods.schedules import Constant, Cosine, Polynomial, ScalingConfig, ScheduleConfig, Warmup


def constant(config: Constant, progress: float) -> float:
    """1 throughout."""
    return 1.0


def polynomial(config: Polynomial, progress: float) -> float:
    """The share (1 - progress)^power of what lies above the final fraction."""
    share: float = (1 - progress) ** config.power
    return config.final_fraction + (1 - config.final_fraction) * share


def cosine(config: Cosine, progress: float) -> float:
    """The share (1 + cos(pi progress)) / 2 of what lies above the final fraction."""
    return config.final_fraction + (1 - config.final_fraction) * (1 + math.cos(math.pi * progress)) / 2


def scaling_factor(config: ScalingConfig, global_batch_size: int) -> float:
    """Factor on the learning rate: 1, k or sqrt(k) with k = global_batch_size / reference_batch."""
    if config.rule == "none" or config.reference_batch is None:
        return 1.0
    ratio = global_batch_size / config.reference_batch
    return ratio if config.rule == "linear" else math.sqrt(ratio)


def warmup_samples(warmup: Warmup | None, *, global_batch_size: int, epoch_samples: int, total_samples: int) -> float:
    """Length of the warmup in samples; 0 without one."""
    if warmup is None:
        return 0.0
    if warmup.steps is not None:
        return float(warmup.steps * global_batch_size)
    if warmup.epochs is not None:
        return warmup.epochs * epoch_samples
    if warmup.samples is not None:
        return float(warmup.samples)
    return (warmup.fraction or 0.0) * total_samples


class SampleSchedule:
    """The learning rate of each step: base rate x scaling rule x warmup x schedule.

    Args:
        schedule: the schedule and its warmup.
        peak_lr: base rate times the scaling factor.
        warmup_samples: W in samples.
        total_samples: T in samples.
    """

    def __init__(self, schedule: ScheduleConfig, *, peak_lr: float, warmup_samples: float, total_samples: int) -> None:
        self._schedule = schedule
        self._shape = load(SCHEDULES, schedule.name)
        self._peak_lr = peak_lr
        self._warmup_samples = warmup_samples
        self._total_samples = total_samples

    def lr(self, samples_seen: int, step_samples: int) -> float:
        """Rate of the step that takes ``step_samples`` after ``samples_seen``."""
        warmup = 1.0
        if self._warmup_samples > 0:
            warmup = min(1.0, (samples_seen + step_samples) / self._warmup_samples)
        span = self._total_samples - self._warmup_samples
        progress = min(1.0, max(0.0, (samples_seen - self._warmup_samples) / span)) if span > 0 else 0.0
        return self._peak_lr * warmup * float(self._shape(self._schedule, progress))
