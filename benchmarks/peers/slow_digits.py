"""The digits of ``jobs/digits`` on workers that take time for every sample, one of them more than the others."""

from __future__ import annotations

import os
import time
from pathlib import Path

from torch import Tensor, nn

from jobs.digits.recipe import Digits

GATE_POLL_S = 0.01


class SlowDigits(Digits):
    """Validation split; every loss sleeps as long as slow hardware would compute.

    The workers wait for each other before their first loss, so that none trains alone while others still start.

    Args:
        seconds_per_sample: that a worker sleeps.
        slowdown: times as long that worker 0 sleeps.
        workers: of the job.
        gate: folder where each worker leaves a file ``<rank>`` before its first loss.
    """

    def __init__(self, seconds_per_sample: float, slowdown: float, workers: int, gate: str) -> None:
        super().__init__(hidden=16, validation=True)
        self.seconds_per_sample = seconds_per_sample
        self.slowdown = slowdown
        self.workers = workers
        self.gate = Path(gate)
        self.has_passed = False

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Digits``; later by what slow hardware would take."""
        rank = int(os.environ["RANK"])
        if not self.has_passed:
            self._wait_for_others(rank)
        time.sleep(self.seconds_per_sample * len(batch["label"]) * (self.slowdown if rank == 0 else 1.0))
        return super().loss(model, batch)

    def evaluate(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """See ``Digits``; nobody is slow here."""
        loss, metrics = super().loss(model, batch)
        return {"loss": loss, **metrics}

    def _wait_for_others(self, rank: int) -> None:
        (self.gate / str(rank)).touch()
        while len(list(self.gate.iterdir())) < self.workers:
            time.sleep(GATE_POLL_S)
        self.has_passed = True
