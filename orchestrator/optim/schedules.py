"""Learning-rate schedules as pure functions of samples seen. What the batch does to them is in ``spec.scaling``.

With s samples seen before a step of B samples, W warmup samples and T samples in all, each counted from the start of
the training's phase:

    warmup:      min(1, (s + B) / W)            the first step already moves, the last warmup step reaches the peak
    progress:    (s - W) / (T - W) in [0, 1)    the first step after the warmup has the full rate
"""

from __future__ import annotations

import math

from orchestrator.core.tables import SCHEDULES, load
from orchestrator.spec.methods.schedules import Constant, Cosine, Polynomial, ScheduleConfig


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


class SampleSchedule:
    """The learning rate of each step: peak rate x warmup x schedule.

    Args:
        schedule: the schedule and its warmup.
        peak_lr: base rate times the scaling factor.
        warmup_samples: W in samples.
        total_samples: T in samples.
        start_samples: samples that the training had seen when its present phase began.
    """

    def __init__(
        self,
        schedule: ScheduleConfig,
        *,
        peak_lr: float,
        warmup_samples: float,
        total_samples: int,
        start_samples: int = 0,
    ) -> None:
        self._schedule = schedule
        self._shape = load(SCHEDULES, schedule.name)
        self._peak_lr = peak_lr
        self._warmup_samples = warmup_samples
        self._total_samples = total_samples
        self._start_samples = start_samples

    def is_warmup(self, samples_seen: int) -> bool:
        """Whether a step after ``samples_seen`` is of the warmup."""
        return samples_seen - self._start_samples < self._warmup_samples

    def lr(self, samples_seen: int, step_samples: int) -> float:
        """Rate of the step that takes ``step_samples`` after ``samples_seen`` since the start of the training."""
        seen = samples_seen - self._start_samples
        warmup = 1.0
        if self._warmup_samples > 0:
            warmup = min(1.0, (seen + step_samples) / self._warmup_samples)
        span = self._total_samples - self._warmup_samples
        progress = min(1.0, max(0.0, (seen - self._warmup_samples) / span)) if span > 0 else 0.0
        return self._peak_lr * warmup * float(self._shape(self._schedule, progress))
