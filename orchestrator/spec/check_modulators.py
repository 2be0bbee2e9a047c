"""What types cannot see of modulators: what else the job asks for that does not go with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.gradient_modulators import AdaptiveBraking
from orchestrator.spec.methods.model_modulators import BatchChannelNorm, GhostNorm, SyncBatchNorm
from orchestrator.spec.methods.optimizers import AdamW, Lamb, Sgd
from orchestrator.spec.methods.package_optimizers import AdaBelief, AdaBound, Lion, NAdam, RAdam
from orchestrator.spec.problems import Problem, shown

AVERAGING = (AdamW, Lamb, RAdam, NAdam, AdaBelief, AdaBound, Lion)
"""Optimizers that keep a running average of the gradient as it is given to them."""
OF_BATCH_NORM = (GhostNorm, SyncBatchNorm, BatchChannelNorm)
"""Modulators that each decide what a batch norm normalizes by."""


def repeated_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """Every modulator once: two of a kind would undo or square what one does."""
    names = [modulator.name for modulator in spec.modulators]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Problem("", f"modulators.{index}.name", shown(name), "is there twice", "each modulator once")


def normalization_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """Batch norms are changed once, and only workers of a process group can normalize together."""
    chosen = [(index, each) for index, each in enumerate(spec.modulators) if isinstance(each, OF_BATCH_NORM)]
    for index, modulator in chosen[1:]:
        first = chosen[0][1].name
        if modulator.name != first:
            message = f"changes the batch norms that {first} has changed already"
            yield Problem("", f"modulators.{index}.name", shown(modulator.name), message, "one of the two")
    for index, modulator in chosen:
        if isinstance(modulator, SyncBatchNorm) and spec.exchange.topology == "served":
            message = (
                f"normalizes over workers that compute at the same time, which those of {spec.exchange.name} do not"
            )
            legal = "exchange: all_reduce or delayed, or ghost_norm"
            yield Problem("", f"modulators.{index}.name", shown(modulator.name), message, legal)


def braking_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """Braking compares the gradient with a momentum, and its change of the gradient must reach the weights."""
    optimizer = spec.optimizer
    if not any(isinstance(modulator, AdaptiveBraking) for modulator in spec.modulators):
        return
    if isinstance(optimizer, Sgd) and optimizer.momentum == 0:
        message = "modulators: adaptive_braking compares the gradient with the momentum"
        yield Problem("", "optimizer.momentum", "0", message, "a number > 0")
    elif not isinstance(optimizer, (Sgd, *AVERAGING)):
        names = ", ".join(str(get_args(kind.model_fields["name"].annotation)[0]) for kind in (Sgd, *AVERAGING))
        message = "modulators: adaptive_braking needs an optimizer that averages the gradient as it is given"
        yield Problem("", "optimizer.name", shown(optimizer.name), message, names)
