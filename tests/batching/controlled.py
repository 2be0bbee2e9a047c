"""Controllers that are driven by made-up steps: no torch, no processes."""

from __future__ import annotations

from typing import Any

import numpy as np

from orchestrator.core import tables
from orchestrator.core.gradient_stats import GroupNorms
from orchestrator.core.protocols import BatchController
from orchestrator.core.values import BatchPlan, ControllerParts, StepStats
from orchestrator.spec.job import JobSpec, WorkerRange
from orchestrator.spec.scaling import scaled_optimizer

READY = {"min_measurements": 1, "cooldown_samples": 0, "confidence": 0}
"""Guards that wait for nothing."""


def parts_of(
    controller: dict[str, Any], *, workers: int = 4, worker_range: dict[str, int] | None = None, **sections: Any
) -> ControllerParts:
    """What a controller of a small job is made of; batch 64 in micro-batches of 16."""
    spec = JobSpec.model_validate(
        {
            "name": "made-up",
            "recipe": {"target": "recipe.py:Recipe"},
            "train": {"samples": 100_000},
            "optimizer": {"name": "sgd", "lr": 0.1},
            "resources": {"workers": workers},
            **sections,
            "batch": {"global_size": 64, "micro_size": 16, **sections.get("batch", {}), "controller": controller},
        }
    )
    peak = scaled_optimizer(spec.optimizer, spec.scaling, spec.batch.global_size).lr
    limits = None if worker_range is None else WorkerRange(**worker_range)
    return ControllerParts(spec=spec, world_size=workers, total_samples=100_000, peak_lr=peak, worker_range=limits)


def controller_of(controller: dict[str, Any], **more: Any) -> BatchController:
    """The controller that the table of names leads to."""
    return tables.load(tables.CONTROLLERS, controller["name"])(parts_of(controller, **more))


def expected_norms(batch: int, *, noise: float, signal: float, groups: int = 4) -> GroupNorms:
    """Norms as large as they are in expectation: the estimates are then exact."""
    size = batch / groups
    return GroupNorms(
        sum_weighted_sq=batch * signal + groups * noise,
        norm_sq=signal + noise / batch,
        num_groups=groups,
        num_samples=batch,
        group_sizes=(round(size),) * groups,
        inner_products=_products(batch, signal + noise / batch, groups, noise),
    )


def _products(batch: int, norm_sq: float, groups: int, noise: float) -> tuple[float, ...]:
    """Products whose variance over single samples is ``noise * norm_sq / 10``."""
    spread = np.sqrt(noise * norm_sq / 10 / (batch / groups) * (groups - 1) / groups)
    return tuple(norm_sq + spread * (1 if index % 2 else -1) for index in range(groups))


class Drive:
    """Takes steps with a controller: noise and signal are those of the moment, each measured step is told two later.

    Args:
        controller: to drive.
        noise: tr(Sigma).
        signal: |G|^2.
        generator: of the gradients' noise; None measures what is expected.
    """

    def __init__(
        self,
        controller: BatchController,
        *,
        noise: float = 1.0,
        signal: float = 0.01,
        generator: np.random.Generator | None = None,
    ) -> None:
        self.controller = controller
        self.noise, self.signal = noise, signal
        self.generator = generator
        self.step = self.samples = 0
        self.plans: list[BatchPlan] = []
        self._measured: list[GroupNorms | None] = [None, None]

    def run(self, steps: int, **stats: Any) -> list[BatchPlan]:
        """The plans of some more steps."""
        for _ in range(steps):
            shown = StepStats(
                step=self.step, samples=self.samples, loss=None, gradient=self._measured[self.step], **stats
            )
            plan = self.controller.plan(shown)
            self.plans.append(plan)
            self._measured.append(self._measure(plan.global_batch_size) if plan.sample_statistic else None)
            self.step += 1
            self.samples += plan.global_batch_size
        return self.plans[-steps:]

    def _measure(self, batch: int) -> GroupNorms:
        if self.generator is None:
            return expected_norms(batch, noise=self.noise, signal=self.signal)
        return drawn_norms(self.generator, batch, noise=self.noise, signal=self.signal)


def drawn_norms(
    generator: np.random.Generator, batch: int, *, noise: float, signal: float, groups: int = 4, dims: int = 100
) -> GroupNorms:
    """Norms of gradients that are drawn: a true gradient along one axis, equal noise along all."""
    true = np.zeros(dims)
    true[0] = np.sqrt(signal)
    means = true + generator.normal(size=(groups, dims)) * np.sqrt(noise / dims / (batch / groups))
    mean = means.mean(axis=0)
    return GroupNorms(
        sum_weighted_sq=float(batch / groups * (means**2).sum()),
        norm_sq=float(mean @ mean),
        num_groups=groups,
        num_samples=batch,
    )
