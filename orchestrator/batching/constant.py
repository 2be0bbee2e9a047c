"""The batch controller that never changes its mind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.core.values import BatchPlan, ControllerParts, StepStats


class ConstantController:
    """Plans ``batch.global_size`` samples for every step."""

    def __init__(self, parts: ControllerParts) -> None:
        batch = parts.spec.batch
        self._plan = BatchPlan(global_batch_size=batch.global_size, micro_batch_size=batch.planned_micro_size)

    def plan(self, stats: StepStats) -> BatchPlan:
        """The same plan whatever the statistics say."""
        return self._plan

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""
