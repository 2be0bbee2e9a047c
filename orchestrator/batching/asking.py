"""Asks for as many workers as a step's samples are enough for, whatever controller chooses the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestrator.core.protocols import BatchController
from orchestrator.core.values import BatchPlan, StepStats, Wish
from orchestrator.spec.elastic import workers_for
from orchestrator.spec.job import WorkerRange

SLACK = 1.25
"""Times its samples that a batch must leave fewer workers enough for, before they are asked for: each change costs a
restart, and the batch may come back."""


def asked_for(present: int | None, batch: int, samples_per_worker: int, limits: WorkerRange) -> int:
    """Workers to ask for: those that have at most ``samples_per_worker`` each; fewer where the batch is well below.

    Args:
        present: asked for before; None before the first time.
        batch: samples per step over all workers.
        samples_per_worker: that are enough for one.
        limits: how many there may be.
    """
    wanted = workers_for(batch, samples_per_worker, limits)
    if present is None or wanted >= present:
        return wanted
    if workers_for(round(SLACK * batch), samples_per_worker, limits) < present:
        return wanted
    return min(present, limits.max)  # A resumed job may have been given other limits.


class AskingController:
    """Another controller's plans, with the workers that they call for. Satisfies ``core.protocols.BatchController``.

    Args:
        controller: that chooses the batch.
        limits: how many workers there may be.
        samples_per_worker: samples of a step that are enough for one.
    """

    def __init__(self, controller: BatchController, limits: WorkerRange, samples_per_worker: int) -> None:
        self._controller = controller
        self._limits = limits
        self._samples = samples_per_worker
        self._wanted: int | None = None

    def plan(self, stats: StepStats) -> BatchPlan:
        """See ``core.protocols.BatchController``."""
        plan = self._controller.plan(stats)
        if plan.branches is not None:  # no step is taken by it
            return plan
        batch = plan.global_batch_size
        before, self._wanted = self._wanted, asked_for(self._wanted, batch, self._samples, self._limits)
        wish = None
        if self._wanted != before:
            noise_scale = None if plan.decision is None else plan.decision.noise_scale
            reason = f"{self._samples} samples are enough for a worker"
            wish = Wish(workers=self._wanted, batch=batch, noise_scale=noise_scale, reason=reason)
        return replace(plan, workers=self._wanted, wish=wish)

    def state_dict(self) -> dict[str, Any]:
        """The other controller's, which a job without this one takes over too, and the workers asked for."""
        return {**self._controller.state_dict(), "workers_wanted": self._wanted}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See ``core.protocols.BatchController``."""
        self._controller.load_state_dict(state)
        self._wanted = state.get("workers_wanted")
