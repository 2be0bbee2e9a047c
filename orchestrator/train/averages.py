"""The running averages of the job's optimizer as the batch asks for: the rule sde, of the spec and of a controller."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.controllers import Adaptive, ScheduledBatch
from orchestrator.spec.scaling import scaled_beta, scaled_optimizer


class Averages:
    """Sets betas and eps of the optimizer; without the rule sde nothing is ever touched.

    Args:
        spec: of the phase.
        optimizers: of the engine, whose groups are changed in place.
    """

    def __init__(self, spec: JobSpec, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        controller = spec.batch.controller
        coupling = controller.coupling if isinstance(controller, Adaptive | ScheduledBatch) else "none"
        self._numbers = dict(scaled_optimizer(spec.optimizer, spec.scaling, spec.batch.global_size))
        self._optimizers = optimizers
        self._ratio = None if "sde" in (spec.scaling.rule, coupling) else 1.0

    def set(self, ratio: float) -> None:
        """Have the averages forget ``ratio`` times as fast per step as with the phase's first batch."""
        if ratio == self._ratio:
            return
        self._ratio = ratio
        changed: dict[str, Any] = {
            "betas": tuple(scaled_beta(beta, ratio) for beta in self._numbers["betas"]),
            "eps": self._numbers["eps"] / math.sqrt(ratio),
        }
        for group in (group for optimizer in self._optimizers for group in optimizer.param_groups):
            group.update(changed)
