"""Pollux's goodput (Qiao et al., OSDI 2021): the batch, and the workers, with the most progress per second.

    goodput(B, K)    = B / seconds(B, K) x efficiency(B)
    efficiency(B)    = (phi + B0) / (phi + B)          phi the noise scale, B0 = batch.global_size
    utility(K)       = (goodput(K) / K) / (goodput(K0) / K0)     each of its best batch, K0 = resources.workers.min

The batch is the best one for the workers that there are. Where they are a range, those with the most goodput of all
whose utility is at least ``min_utility`` are asked for. A batch is divided into as few backwards as batch.micro_size
allows: in the model of a step's time more of them never pay.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestrator.batching.adaptive import AdaptiveController, Policy, Seen
from orchestrator.batching.guards import Limits, limits_of
from orchestrator.batching.throughput import StepTime, Timing, fit
from orchestrator.core.values import ControllerParts, StepStats, Wish
from orchestrator.spec.batch_arithmetic import divide_step
from orchestrator.spec.job import WorkerRange
from orchestrator.spec.methods.controllers import Goodput

NUM_CANDIDATES = 50
KEPT_STEPS = 32
"""Newest steps of each division whose median counts."""
MOST_GROWTH = 2
"""Times the most workers that have been timed that are asked for: what is beyond has never been seen."""
UTILITY_SLACK = 0.9
"""Of ``min_utility``, what workers that were asked for may fall to before fewer are: each change costs a restart."""


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
    seconds = step_time.seconds(*division(batch, world_size, micro_size), world_size)
    return batch / seconds * efficiency(batch, noise_scale, reference)


def candidates(limits: Limits) -> set[int]:
    """Batches in geometric steps from the smallest to the largest, rounded."""
    low, high = limits.smallest, limits.largest
    ratio = (high / low) ** (1 / (NUM_CANDIDATES - 1))
    return {limits.rounded(low * ratio**index, high) for index in range(NUM_CANDIDATES)}


def workers_that_pay(
    worth: Mapping[int, float], *, min_utility: float, present: int | None = None, min_speedup: float = 1.0
) -> int:
    """The number of workers with the most goodput of those whose utility is at least ``min_utility``.

    Args:
        worth: goodput by number of workers; utility is goodput per worker over that of the least number.
        min_utility: in (0, 1].
        present: asked for so far, which stays as long as its utility is ``UTILITY_SLACK`` of that and no other number
            has ``min_speedup`` times its goodput; None where none was asked for.
        min_speedup: at least 1.
    """
    least = min(worth)

    def utility(workers: int) -> float:
        return worth[workers] / workers / (worth[least] / least)

    # Of equals the fewer: the same on all ranks.
    best = max(
        (workers for workers in worth if utility(workers) >= min_utility), key=lambda number: (worth[number], -number)
    )
    if present is None or present not in worth or utility(present) < UTILITY_SLACK * min_utility:
        return best
    return best if worth[best] > min_speedup * worth[present] else present


class GoodputPolicy(Policy):
    """Keeps how long steps took, and chooses among batches in geometric steps between the smallest and the largest.

    Args:
        config: of the controller.
        limits: smallest and largest batch.
        reference: batch whose samples are worth 1.
        worker_range: how many workers it may ask for; None where it does not ask.
    """

    def __init__(
        self, config: Goodput, limits: Limits, reference: int, worker_range: WorkerRange | None = None
    ) -> None:
        self._config = config
        self._limits = limits
        self._reference = reference
        self._range = worker_range if config.min_utility is not None else None
        self._seconds: dict[tuple[int, int, int], list[float]] = {}
        self._fitted: StepTime | None = None
        """To all of them; None where a step has been timed since."""

    def watch(self, stats: StepStats) -> None:
        """See the base class."""
        plan, workers = stats.timed_plan, self._limits.world_size
        if stats.step_seconds is None or plan is None:
            return
        divided = division(plan.global_batch_size, workers, plan.micro_batch_size)
        seconds = self._seconds.setdefault((*divided, workers), [])
        seconds.append(stats.step_seconds)
        del seconds[:-KEPT_STEPS]
        self._fitted = None

    def timings(self) -> list[Timing]:
        """The median of each division, on any number of workers."""
        return [
            Timing(micro, num, statistics.median(seconds), workers)
            for (micro, num, workers), seconds in self._seconds.items()
        ]

    def target(self, seen: Seen) -> tuple[float, str]:
        """See the base class."""
        step_time = self._step_time()
        if step_time is None:
            return float(seen.batch), "goodput; no step was timed yet"
        worth = self._worth({*candidates(self._limits), seen.batch}, step_time, seen, self._limits.world_size)
        # Of equals the smaller: the same on all ranks.
        best = min(worth, key=lambda size: (-worth[size], size))
        speedup = worth[best] / worth[seen.batch]
        if speedup <= self._config.min_speedup:
            return float(seen.batch), f"goodput, at most x {speedup:.3g}"
        return float(best), f"goodput x {speedup:.3g}"

    def wish(self, seen: Seen) -> Wish | None:
        """See the base class."""
        step_time, limits, min_utility = self._step_time(), self._range, self._config.min_utility
        if limits is None or min_utility is None or step_time is None:
            return None
        most = max(limits.min, min(limits.max, MOST_GROWTH * max(workers for _, _, workers in self._seconds)))
        numbers = range(limits.min, most + 1)
        worth = {number: max(self._within_reach(number, step_time, seen).values()) for number in numbers}
        before = self.workers
        self.workers = workers_that_pay(
            worth, min_utility=min_utility, present=before, min_speedup=self._config.min_speedup
        )
        if self.workers == before:
            return None
        share = worth[self.workers] / self.workers / (worth[limits.min] / limits.min)
        reason = f"goodput x {worth[self.workers] / worth[limits.min]:.3g} of {limits.min}, utility {share:.3g}"
        noise_scale = seen.statistic.noise_scale
        return Wish(workers=self.workers, batch=seen.batch, noise_scale=noise_scale, reason=reason)

    def _step_time(self) -> StepTime | None:
        """The model; None before a step has been timed."""
        if self._fitted is None and (timings := self.timings()):
            # A batch that can go back may simply try what a larger one takes.
            self._fitted = fit(timings, unknown_share=0.0 if self._limits.shrink else 0.5)
        return self._fitted

    def _within_reach(self, workers: int, step_time: StepTime, seen: Seen) -> dict[int, float]:
        """Goodput of the batches that the next change may lead to, were there so many workers."""
        growth = self._limits.growth
        low = max(self._limits.smallest, seen.batch / growth if self._limits.shrink else seen.batch)
        high = max(low, min(self._limits.largest, seen.batch * growth))
        limits = replace(self._limits, smallest=math.ceil(low), largest=math.floor(high), world_size=workers)
        return self._worth({*candidates(limits), seen.batch}, step_time, seen, workers)

    def _worth(self, sizes: set[int], step_time: StepTime, seen: Seen, workers: int) -> dict[int, float]:
        """Goodput by batch."""
        return {
            size: goodput(
                size,
                step_time,
                seen.statistic.noise_scale,
                reference=self._reference,
                world_size=workers,
                micro_size=self._limits.micro_size,
            )
            for size in sizes
        }

    def state_dict(self) -> dict[str, Any]:
        """See the base class."""
        timed = [[*divided, seconds] for divided, seconds in self._seconds.items()]
        return {"timed": timed, "workers": self.workers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See the base class."""
        # Checkpoints of before have times of unknown numbers of workers, under another name.
        timed = state.get("timed", ())
        self._seconds = {(int(m), int(n), int(k)): list(seconds) for m, n, k, seconds in timed}
        self._fitted = None
        self.workers = None if self._range is None else state.get("workers")


def build_goodput(parts: ControllerParts) -> AdaptiveController:
    """The controller of a job."""
    batch = parts.spec.batch
    config = batch.controller
    assert isinstance(config, Goodput)
    limits = limits_of(config.guards, config.statistic, parts)
    return AdaptiveController(config, parts, GoodputPolicy(config, limits, batch.global_size, parts.worker_range))
