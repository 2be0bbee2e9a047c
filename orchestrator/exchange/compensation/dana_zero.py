"""DANA-Zero: a momentum for each worker, and weights sent out where all of them will take them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.core.staleness import Staleness
from orchestrator.exchange.compensation.stepped import LookAhead, stepped
from orchestrator.spec.methods.compensations import DanaZero


class WorkerMomentum(LookAhead):
    """DANA-Zero (Hakimi et al., arXiv 1907.11612), around the step of ``torch.optim.SGD`` with momentum.

    One update, by a gradient g of worker i::

        v_i <- m v_i + g ;  w <- w - lr v_i
        S = sum_j v_j ;  sent out is w - lr m S

    Between steps the optimizer's ``momentum_buffer`` is S, within one it is v_i.

    Args:
        config: has no arguments.
        num_workers: velocities are kept for workers 0 to this, less 1.
    """

    def __init__(self, config: DanaZero, num_workers: int) -> None:
        self._num_workers = num_workers
        self._sums: dict[nn.Parameter, Tensor] = {}
        """S without the velocity that is being stepped with."""

    def attach(self, optimizer: torch.optim.Optimizer, staleness: Staleness) -> None:
        """See ``core.protocols.Compensation``."""
        super().attach(optimizer, staleness)
        optimizer.register_step_pre_hook(self._before_step)

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        worker = self._staleness.worker
        for each in stepped(optimizer):
            own = [each.zeros(f"velocity_{index}") for index in range(self._num_workers)][worker]
            self._sums[each.parameter] = each.zeros("momentum_buffer").sub_(own)
            each.state["momentum_buffer"] = own

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        super()._after_step(optimizer, args, kwargs)
        for each in stepped(optimizer):
            each.state["momentum_buffer"] = self._sums.pop(each.parameter).add_(each.state["momentum_buffer"])

    def _reach(self, momentum: float) -> float:
        return momentum
