"""Which worker is slow, out of each step's times: values in, values out.

A worker's time in a step is taken relative to its fellows', and so is its time per element, both smoothed over steps.
It is as slow as the smaller of the two says. Who takes long because it got more data has an ordinary time per
element; who got less data than the others may have a long time per element and still holds nobody up.

Relative means: divided by the median over the workers. The median of two would be their mean, which a slow worker
raises itself, so of two workers the faster one is the measure. Smoothed times are divided by the same measure once
more: where every worker has bad moments all of them are above the median now and then, and none is slower than the
others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

SLOW_RATIO = 1.2
"""A worker is slow while it takes more than this many times what the others take."""
MIN_SLOW_STEPS = 20
"""A worker that is slow for more steps in a row than this is named."""
NEWEST_WEIGHT = 0.25
"""Of the newest step in the smoothed times. One step a hundred times too long is forgotten after 17, so never named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowWorker:
    """One stretch of steps in which a worker was slow."""

    name: Literal["straggler", "straggler_over"]
    """Whether it goes on or has just ended."""
    worker: int
    ratio: float
    """Mean of its relative times in these steps."""
    since_step: int
    """The first of these steps."""
    num_steps: int
    """Those of these steps in which its time is known."""


@dataclass(slots=True)
class _Streak:
    since_step: int
    sum_by_time: float = 0.0
    """Relative times, added up."""
    sum_by_element: float = 0.0
    """Relative times per element, added up."""
    num_steps: int = 0

    def seen(self, worker: int, name: Literal["straggler", "straggler_over"]) -> SlowWorker:
        ratio = min(self.sum_by_time, self.sum_by_element) / self.num_steps
        return SlowWorker(name=name, worker=worker, ratio=ratio, since_step=self.since_step, num_steps=self.num_steps)


class StragglerDetector:
    """Follows the times of a fixed set of workers and names those that stay slow, once per stretch.

    Args:
        num_workers: with fewer than two nobody is ever slow.
    """

    def __init__(self, num_workers: int) -> None:
        self._num_needed = min(num_workers, 3)
        self._by_time = [1.0] * num_workers
        self._by_element = [1.0] * num_workers
        self._streaks: dict[int, _Streak] = {}
        self.ratios: list[float] = []
        """How many times longer than the others each worker takes now, smoothed; empty before the first known step."""

    @property
    def slow(self) -> list[SlowWorker]:
        """The stretches that were named and go on."""
        return [s.seen(w, "straggler") for w, s in self._streaks.items() if s.num_steps > MIN_SLOW_STEPS]

    def update(self, step: int, seconds: Sequence[float | None], elements: Sequence[float | None]) -> list[SlowWorker]:
        """Take the times of one step.

        A worker whose time is not known stays as it was, and a step tells nothing where fewer than three are known
        (of one or two workers: all).

        Args:
            step: optimizer steps taken, this one included.
            seconds: each worker's own computing; None, NaN and 0 are not known.
            elements: of each worker's micro-batches; where they are not known, or 0, its seconds alone count.

        Returns:
            The stretches that became long enough to be named with this step, and the named ones that have ended.
        """
        times = {worker: value for worker, value in enumerate(seconds) if value is not None and value > 0}
        if len(times) < self._num_needed:
            return []
        per_element = {w: times[w] / count for w in times if (count := elements[w]) is not None and count > 0}
        by_time = relative_times(times)
        has_elements = len(per_element) >= self._num_needed
        by_element = {**by_time, **relative_times(per_element)} if has_elements else by_time
        _smooth(self._by_time, by_time)
        _smooth(self._by_element, by_element)
        self.ratios = list(map(min, _relative(self._by_time), _relative(self._by_element)))
        if not self._streaks and max(self.ratios) <= SLOW_RATIO:
            return []
        changes = (self._judge(step, worker, by_time[worker], by_element[worker]) for worker in times)
        return [change for change in changes if change is not None]

    def _judge(self, step: int, worker: int, by_time: float, by_element: float) -> SlowWorker | None:
        if self.ratios[worker] > SLOW_RATIO:
            streak = self._streaks.setdefault(worker, _Streak(step))
            streak.sum_by_time += by_time
            streak.sum_by_element += by_element
            streak.num_steps += 1
            return streak.seen(worker, "straggler") if streak.num_steps == MIN_SLOW_STEPS + 1 else None
        ended = self._streaks.pop(worker, None)
        return ended.seen(worker, "straggler_over") if ended and ended.num_steps > MIN_SLOW_STEPS else None


def relative_times(times: Mapping[int, float]) -> dict[int, float]:
    """Each worker's time divided by the median of all, of two workers by the smaller one."""
    return dict(zip(times, _relative(times.values()), strict=True))


def _relative(values: Collection[float]) -> list[float]:
    ordered = sorted(values)
    middle = (len(ordered) - 1) // 2
    measure = ordered[0] if len(ordered) < 3 else (ordered[middle] + ordered[len(ordered) // 2]) / 2
    return [value / measure for value in values]


def _smooth(smoothed: list[float], newest: Mapping[int, float]) -> None:
    for worker, value in newest.items():
        smoothed[worker] += NEWEST_WEIGHT * (value - smoothed[worker])
