"""A training of several phases as several jobs that follow each other."""

from __future__ import annotations

from typing import Any

from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.controllers import DEFAULT_GROWTH, Adaptive, ConstantBatch, ScheduledBatch, Seesaw
from orchestrator.spec.methods.phases import Phase
from orchestrator.spec.methods.served import Served
from orchestrator.spec.section import Section

PHASE_FIELDS = (
    "train.steps",
    "train.epochs",
    "train.samples",
    "recipe.args",
    "batch.global_size",
    "batch.micro_size",
    "optimizer.lr",
    "schedule",
    "scaling.reference_batch",
)
"""Dotted paths of what a phase may change."""


def batch_changes(spec: JobSpec) -> bool:
    """Whether the batch may differ from step to step.

    A length in steps is then no number of samples: schedule and warmup count steps, each as ``batch.global_size``.
    """
    return not isinstance(spec.batch.controller, ConstantBatch)


def largest_batch(spec: JobSpec) -> int:
    """Samples of the largest step that the batch controller may ask for."""
    controller, first = spec.batch.controller, spec.batch.global_size
    if isinstance(controller, ScheduledBatch):
        return max(first, *(size for _, size in controller.pairs))
    if isinstance(controller, Adaptive):
        return controller.guards.max_size or DEFAULT_GROWTH * first
    if isinstance(controller, Seesaw):
        return controller.max_size or DEFAULT_GROWTH * first
    return first


def samples_per_step(spec: JobSpec) -> int:
    """Samples that one step uses up: the batch, and what spare workers draw beside it."""
    if not isinstance(spec.exchange, Served):
        return spec.batch.global_size
    return round(spec.batch.global_size * spec.exchange.draw_factor(spec.resources.workers))


def phases_of(spec: JobSpec) -> tuple[JobSpec, ...]:
    """Each phase as a job of its own, without ``then``; a spec without further phases is its only one."""
    phases = [spec.model_copy(update={"then": ()})]
    for phase in spec.then:
        phases.append(_changed(phases[-1], phase))
    return tuple(phases)


def _changed(before: JobSpec, phase: Phase) -> JobSpec:
    schedule = {} if phase.schedule is None else {"schedule": phase.schedule}
    return before.model_copy(
        update={
            "train": before.train.model_copy(update=dict(phase.train)),
            "recipe": before.recipe.model_copy(update={"args": {**before.recipe.args, **phase.recipe.args}}),
            "batch": before.batch.model_copy(update=_given(phase.batch)),
            "optimizer": before.optimizer.model_copy(update=_given(phase.optimizer)),
            "scaling": before.scaling.model_copy(update=_given(phase.scaling)),
            **schedule,
        }
    )


def _given(section: Section) -> dict[str, Any]:
    return {name: value for name, value in section if value is not None}
