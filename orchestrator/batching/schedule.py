"""A batch that follows the samples seen: in steps, as Megatron's step schedule, or along straight lines."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.batching.coupling import averages_ratio
from orchestrator.core.values import BatchPlan, ControllerParts, Decision, StepStats
from orchestrator.spec.methods.controllers import ScheduledBatch
from orchestrator.spec.scaling import rate_factor

RAMP_STAGES = 16
"""Parts of the largest batch that a ramp stops at, where the spec does not say."""


def scheduled_size(pairs: Sequence[tuple[int, int]], position: float, *, ramp: bool = False, quantum: int = 1) -> int:
    """The batch at a position.

    Args:
        pairs: position and batch, in the order of increasing positions, the first at 0.
        position: samples or tokens seen, at least 0.
        ramp: whether the batch moves along a straight line from one pair to the next.
        quantum: a ramp stops at multiples of it between pairs.
    """
    index = bisect_right(pairs, position, key=lambda pair: pair[0]) - 1
    start, size = pairs[index]
    if not ramp or index + 1 == len(pairs):
        return size
    end, next_size = pairs[index + 1]
    between = size + (next_size - size) * (position - start) / (end - start)
    low, high = sorted((size, next_size))
    return min(max(int(between // quantum) * quantum, low), high)


class ScheduleController:
    """The batch by the samples seen since the phase's start. Satisfies ``core.protocols.BatchController``."""

    def __init__(self, parts: ControllerParts) -> None:
        batch = parts.spec.batch
        config = batch.controller
        assert isinstance(config, ScheduledBatch)
        self._config = config
        self._batch = batch
        self._start = parts.start.samples
        first = [] if config.pairs[0][0] == 0 else [(0, batch.global_size)]
        self._pairs = [*first, *config.pairs]
        most = max(size for _, size in self._pairs)
        self._quantum = config.quantum or max(1, most // RAMP_STAGES)
        self._size: int | None = None

    def plan(self, stats: StepStats) -> BatchPlan:
        """See ``core.protocols.BatchController``."""
        config, reference = self._config, self._batch.global_size
        position = (stats.samples - self._start) * (config.tokens_per_sample or 1)
        size = scheduled_size(self._pairs, position, ramp=config.ramp, quantum=self._quantum)
        factor = rate_factor(config.coupling, size, reference)
        decision = None
        if size != self._size and self._size is not None:
            decision = _decided(
                size, factor, f"schedule at {position} {'tokens' if config.tokens_per_sample else 'samples'}"
            )
        self._size = size
        return BatchPlan(
            global_batch_size=size,
            micro_batch_size=self._batch.planned_micro_size,
            lr_factor=factor,
            averages_ratio=averages_ratio(config.coupling, size, reference),
            decision=decision,
        )

    def state_dict(self) -> dict[str, Any]:
        """See ``core.protocols.BatchController``."""
        return {"size": self._size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See ``core.protocols.BatchController``."""
        self._size = state["size"]


def _decided(size: int, factor: float, reason: str) -> Decision:
    return Decision(
        batch=size, target=float(size), noise=None, signal=None, noise_scale=None, lr_factor=factor, reason=reason
    )
