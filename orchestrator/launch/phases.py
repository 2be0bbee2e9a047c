"""The phases of a training as values that one can print: length, batch, and what the batch makes of the optimizer."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.spec.batch_arithmetic import StepDivision, divide_step
from orchestrator.spec.job import JobSpec
from orchestrator.spec.phases import batch_changes, phases_of, samples_per_step
from orchestrator.spec.scaling import scaled_optimizer, warmup_factor, warmup_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePlan:
    """One phase, as far as the spec alone says."""

    total_steps: int | None
    """None where it depends on the size of the training data or a batch that changes; the last step may be smaller."""
    total_samples: int | None
    """None where it depends on the size of the training data or a batch that changes."""
    epochs: int | None
    """Passes over the training data, where the length is given so."""
    global_batch_size: int
    """Samples per step."""
    division: StepDivision
    """A step among the job's workers, the least of a range."""
    peak_lr: float
    """Learning rate after the scaling rule, before warmup and schedule."""
    betas: tuple[float, ...] | None
    """After the rule sde; None under the other rules, which leave them as they are."""
    eps: float | None
    """After the rule sde; None under the other rules, which leave it as it is."""
    warmup_samples: float | None
    """0 without a warmup; None where it depends on the size of the training data."""
    warmup_epochs: float | None
    """Passes over the training data, where only these are known."""


def phase_plans(spec: JobSpec) -> tuple[PhasePlan, ...]:
    """Every phase of a job."""
    return tuple(_plan(phase) for phase in phases_of(spec))


def totals(spec: JobSpec) -> tuple[int | None, int | None]:
    """Steps and samples of the whole training, as far as the spec alone says; last steps may be smaller."""
    steps, samples = zip(*(_length(phase) for phase in phases_of(spec)), strict=True)
    return None if None in steps else sum(steps), None if None in samples else sum(samples)


def _length(phase: JobSpec) -> tuple[int | None, int | None]:
    size, changes = samples_per_step(phase), batch_changes(phase)
    if phase.train.steps is not None:
        return phase.train.steps, None if changes else phase.train.steps * size
    if phase.train.samples is not None:
        return None if changes else -(-phase.train.samples // size), phase.train.samples
    return None, None


def _plan(phase: JobSpec) -> PhasePlan:
    size = phase.batch.global_size
    total_steps, total_samples = _length(phase)
    optimizer = scaled_optimizer(phase.optimizer, phase.scaling, size)
    scaled = dict(optimizer) if phase.scaling.rule == "sde" else {}
    in_epochs = _warmup_epochs(phase)
    known = warmup_samples(
        phase.schedule.warmup,
        phase.scaling,
        global_batch_size=size,
        step_samples=samples_per_step(phase),
        epoch_samples=0,
        total_samples=total_samples or (phase.train.steps or 0) * samples_per_step(phase),
    )
    return PhasePlan(
        total_steps=total_steps,
        total_samples=total_samples,
        epochs=phase.train.epochs,
        global_batch_size=size,
        division=divide_step(size, phase.resources.num_workers, phase.batch.planned_micro_size),
        peak_lr=optimizer.lr,
        betas=scaled.get("betas"),
        eps=scaled.get("eps"),
        warmup_samples=known if in_epochs is None else None,
        warmup_epochs=in_epochs,
    )


def _warmup_epochs(phase: JobSpec) -> float | None:
    """Length of a warmup that only the size of the training data turns into samples; None for all others."""
    warmup = phase.schedule.warmup
    if warmup is None:
        return None
    factor = warmup_factor(warmup, phase.scaling, phase.batch.global_size)
    if warmup.epochs is not None:
        return factor * warmup.epochs
    if warmup.fraction is not None and phase.train.epochs is not None:
        return factor * warmup.fraction * phase.train.epochs
    return None
