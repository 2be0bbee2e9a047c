"""The critical batch size by branched training (Merrill et al., arXiv:2505.23971), as a controller of the batch.

    k* = the largest k with L_k <= L_j + tolerance for every smaller j          critical batch = k* B
    B <- 2 B where k* >= 2

L_k is the average loss at the end of a branch with the batch k B and the rate that goes with it. Averages
forget as much with each sample in all branches, so that they are over the same samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.core.values import BatchPlan, Branches, ControllerParts, Decision, Probe, StepStats
from orchestrator.spec.methods.controllers import CbsProbe
from orchestrator.spec.phases import largest_batch
from orchestrator.spec.scaling import customary_rule, rate_factor


def average_at_the_end(losses: Sequence[float], kept: float) -> float:
    """The average that keeps so much of itself at each step, from the first loss on; inf where it is not finite."""
    average = losses[0]
    for loss in losses[1:]:
        average = kept * average + (1 - kept) * loss
    return average if math.isfinite(average) else math.inf


def critical_multiple(losses: Mapping[int, float], tolerance: float) -> int:
    """The largest multiple whose loss is at most ``tolerance`` above that of every smaller one.

    Args:
        losses: by multiple of the batch.
        tolerance: at least 0.
    """
    found, best = min(losses), math.inf
    for multiple in sorted(losses):
        if losses[multiple] <= best + tolerance and not math.isinf(losses[multiple]):
            found = multiple
        best = min(best, losses[multiple])
    return found


class CbsProbeController:
    """Asks for branches at its places, and doubles the batch where they allow it.

    Satisfies ``core.protocols.BatchController``.
    """

    def __init__(self, parts: ControllerParts) -> None:
        spec = parts.spec
        config = spec.batch.controller
        assert isinstance(config, CbsProbe)
        self._config = config
        self._parts = parts
        self._micro_size = spec.batch.planned_micro_size
        self._rule = config.coupling or customary_rule(spec.optimizer)
        self._reference = self._size = spec.batch.global_size
        self._largest = largest_batch(spec)
        self._next_at = config.after_samples or config.every_samples
        self._spent = 0

    def plan(self, stats: StepStats) -> BatchPlan:
        """See ``core.protocols.BatchController``."""
        probe = decision = branches = None
        if stats.branch_losses is not None:
            probe = self._read(stats.branch_losses)
            decision = self._decide(probe)
            self._next_at = stats.samples - self._parts.start.samples + self._config.every_samples
        elif self._is_due(stats):
            sizes = [multiple * self._size for multiple in self._multiples]
            factors = [rate_factor(self._rule, size, self._reference) for size in sizes]
            branches = Branches(
                batches=tuple(sizes), lr_factors=tuple(factors), num_samples=self._config.branch_samples
            )
        return BatchPlan(
            global_batch_size=self._size,
            micro_batch_size=self._micro_size,
            lr_factor=rate_factor(self._rule, self._size, self._reference),
            decision=decision,
            branches=branches,
            probe=probe,
        )

    @property
    def _multiples(self) -> list[int]:
        """Those of batches that the training may come to, whose branches have enough steps and fit into memory."""
        return [multiple for multiple in self._config.multiples if multiple * self._size <= self._largest]

    def _is_due(self, stats: StepStats) -> bool:
        """Whether it is time, the batch can still double, and there are samples left for a branch."""
        seen, total = stats.samples - self._parts.start.samples, self._parts.total_samples
        is_enough = total is None or total - seen >= self._config.branch_samples
        return seen >= self._next_at and not stats.is_warmup and 2 * self._size <= self._largest and is_enough

    def _read(self, losses: Sequence[Sequence[float]]) -> Probe:
        averages = {
            multiple: average_at_the_end(of_branch, self._config.smoothing**multiple)
            for multiple, of_branch in zip(self._multiples, losses, strict=True)
        }
        found = critical_multiple(averages, self._config.tolerance)
        sizes = tuple(multiple * self._size for multiple in self._multiples)
        spent = sum(size * len(of_branch) for size, of_branch in zip(sizes, losses, strict=True))
        self._spent += spent
        return Probe(
            batches=sizes,
            losses=tuple(averages.values()),
            critical_batch=found * self._size,
            num_samples=spent,
            num_samples_so_far=self._spent,
        )

    def _decide(self, probe: Probe) -> Decision:
        if probe.critical_batch >= 2 * self._size:
            self._size *= 2
            reason = f"the critical batch is {probe.critical_batch} or more"
        else:
            reason = f"the critical batch is below {2 * self._size}"
        return Decision(
            batch=self._size,
            target=float(probe.critical_batch),
            noise=None,
            signal=None,
            noise_scale=None,
            lr_factor=rate_factor(self._rule, self._size, self._reference),
            reason=reason,
        )

    def state_dict(self) -> dict[str, Any]:
        """See ``core.protocols.BatchController``."""
        return {"size": self._size, "next_at": self._next_at, "spent": self._spent}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See ``core.protocols.BatchController``."""
        self._size, self._next_at, self._spent = (int(state[name]) for name in ("size", "next_at", "spent"))
