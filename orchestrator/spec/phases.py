"""A training of several phases as several jobs that follow each other."""

from __future__ import annotations

from typing import Any

from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.controllers import (
    DEFAULT_GROWTH,
    Adaptive,
    CbsProbe,
    ConstantBatch,
    ScheduledBatch,
    Seesaw,
)
from orchestrator.spec.methods.phases import Phase
from orchestrator.spec.methods.served import Served
from orchestrator.spec.scaling import length_factor
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
    if isinstance(controller, Seesaw | CbsProbe):
        return controller.max_size or DEFAULT_GROWTH * first
    return first


def samples_per_step(spec: JobSpec) -> int:
    """Samples that one step uses up: the batch, and what spare workers draw beside it."""
    if not isinstance(spec.exchange, Served):
        return spec.batch.global_size
    return round(spec.batch.global_size * spec.exchange.draw_factor(spec.resources.num_workers))


def phases_of(spec: JobSpec) -> tuple[JobSpec, ...]:
    """Each phase as a job of its own, without ``then``; a spec without further phases is its only one.

    Lengths are those that are trained: what ``scaling.same_updates`` makes of them is in them, and no longer asked for.
    """
    phases = [spec.model_copy(update={"then": ()})]
    for phase in spec.then:
        phases.append(_changed(phases[-1], phase))
    return tuple(_with_its_length(phase) for phase in phases)


def _with_its_length(phase: JobSpec) -> JobSpec:
    """With as many updates as at the reference batch, where that is asked for and `check` has nothing against it."""
    factor = length_factor(phase.scaling, phase.batch.global_size)
    warmup = phase.schedule.warmup
    grows_already = warmup is not None and warmup.scale_with_batch
    if factor == 1 or phase.train.steps is not None or batch_changes(phase) or grows_already:
        return phase
    update: dict[str, Any] = {
        "train": phase.train.model_copy(update=_times(phase.train, factor)),
        "scaling": phase.scaling.model_copy(update={"same_updates": False}),
    }
    if warmup is not None:
        longer = warmup.model_copy(update=_times(warmup, factor))
        update["schedule"] = phase.schedule.model_copy(update={"warmup": longer})
    return phase.model_copy(update=update)


def _times(section: Section, factor: int) -> dict[str, Any]:
    """Lengths in passes and samples; steps are updates, and a fraction is of what has been multiplied."""
    given = {unit: getattr(section, unit) for unit in ("epochs", "samples")}
    return {unit: factor * length for unit, length in given.items() if length is not None}


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
