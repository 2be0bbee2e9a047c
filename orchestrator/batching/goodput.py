"""Pollux's goodput (Qiao et al., OSDI 2021): the batch with the most progress per second.

    goodput(B)    = B / seconds(B) x efficiency(B)
    efficiency(B) = (phi + B0) / (phi + B)          phi the noise scale, B0 = batch.global_size

The number of workers is the job's. A batch is divided into as few backwards as batch.micro_size allows: in the model of
a step's time more of them never pay.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from orchestrator.batching.adaptive import AdaptiveController, Policy, Seen
from orchestrator.batching.guards import Limits, limits_of
from orchestrator.batching.throughput import StepTime, Timing, fit
from orchestrator.core.values import ControllerParts, StepStats
from orchestrator.spec.batch_arithmetic import divide_step
from orchestrator.spec.methods.controllers import Goodput

NUM_CANDIDATES = 50
KEPT_STEPS = 32
"""Newest steps of each division whose median counts."""


def efficiency(batch: float, noise_scale: float, reference: int) -> float:
    """What a sample of a step of ``batch`` is worth in samples of ``reference``: 1 there, and falling."""
    return 1.0 if math.isinf(noise_scale) else (noise_scale + reference) / (noise_scale + batch)


def division(batch: int, world_size: int, micro_size: int | None) -> tuple[int, int]:
    """Samples of the largest backward, and backwards per worker."""
    divided = divide_step(batch, world_size, micro_size)
    return divided.largest_micro_batch, divided.num_micro_batches


def goodput(
    batch: int, step_time: StepTime, noise_scale: float, *, reference: int, world_size: int, micro_size: int | None
) -> float:
    """Samples per second, each by its worth."""
    seconds = step_time.seconds(*division(batch, world_size, micro_size))
    return batch / seconds * efficiency(batch, noise_scale, reference)


class GoodputPolicy(Policy):
    """Keeps how long steps took, and chooses among batches in geometric steps between the smallest and the largest.

    Args:
        config: of the controller.
        limits: smallest and largest batch.
        reference: batch whose samples are worth 1.
    """

    def __init__(self, config: Goodput, limits: Limits, reference: int) -> None:
        self._config = config
        self._limits = limits
        self._reference = reference
        self._seconds: dict[tuple[int, int], list[float]] = {}

    def watch(self, stats: StepStats) -> None:
        """See the base class."""
        plan = stats.timed_plan
        if stats.step_seconds is None or plan is None:
            return
        divided = division(plan.global_batch_size, self._limits.world_size, plan.micro_batch_size)
        seconds = self._seconds.setdefault(divided, [])
        seconds.append(stats.step_seconds)
        del seconds[:-KEPT_STEPS]

    def timings(self) -> list[Timing]:
        """The median of each division."""
        return [Timing(*divided, statistics.median(seconds)) for divided, seconds in self._seconds.items()]

    def target(self, seen: Seen) -> tuple[float, str]:
        """See the base class."""
        timings = self.timings()
        if not timings:
            return float(seen.batch), "goodput; no step was timed yet"
        # A batch that can go back may simply try what a larger one takes.
        step_time = fit(timings, unknown_share=0.0 if self._limits.shrink else 0.5)
        worth = {size: self._goodput(size, step_time, seen) for size in {*self._candidates(), seen.batch}}
        # Of equals the smaller: the same on all ranks.
        best = min(worth, key=lambda size: (-worth[size], size))
        speedup = worth[best] / worth[seen.batch]
        if speedup <= self._config.min_speedup:
            return float(seen.batch), f"goodput, at most x {speedup:.3g}"
        return float(best), f"goodput x {speedup:.3g}"

    def _goodput(self, size: int, step_time: StepTime, seen: Seen) -> float:
        return goodput(
            size,
            step_time,
            seen.statistic.noise_scale,
            reference=self._reference,
            world_size=self._limits.world_size,
            micro_size=self._limits.micro_size,
        )

    def _candidates(self) -> set[int]:
        low, high = self._limits.smallest, self._limits.largest
        ratio = (high / low) ** (1 / (NUM_CANDIDATES - 1))
        return {self._limits.rounded(low * ratio**index, high) for index in range(NUM_CANDIDATES)}

    def state_dict(self) -> dict[str, Any]:
        """See the base class."""
        return {"seconds": [[*divided, seconds] for divided, seconds in self._seconds.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See the base class."""
        self._seconds = {(int(micro), int(num)): list(seconds) for micro, num, seconds in state["seconds"]}


def build_goodput(parts: ControllerParts) -> AdaptiveController:
    """The controller of a job."""
    batch = parts.spec.batch
    config = batch.controller
    assert isinstance(config, Goodput)
    policy = GoodputPolicy(config, limits_of(config.guards, config.statistic, parts), batch.global_size)
    return AdaptiveController(config, parts, policy)
