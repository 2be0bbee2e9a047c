"""Checks of what the batch does to the optimizer's numbers, to the warmup and to the training's length."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.spec.job import JobSpec
from orchestrator.spec.phases import batch_changes
from orchestrator.spec.problems import Problem, shown
from orchestrator.spec.scaling import batch_ratio, scaled_beta, warmup_factor

_OTHER_RULE = "scaling.rule: sqrt, which leaves the betas alone"
# 10 x (1 - 0.9) is a little less than 1 in floating point.
_TOLERANCE = 1e-9


def sde_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """The rule sde has betas and eps to scale, and no running average would forget more than everything in a step."""
    if spec.scaling.rule != "sde":
        return
    numbers = dict(spec.optimizer)
    missing = [f"no {name}" for name in ("betas", "eps") if name not in numbers]
    if isinstance(numbers.get("eps"), tuple):
        missing.append("several eps")
    if missing:
        message = f"scales betas and eps, and {spec.optimizer.name} has {' and '.join(missing)}"
        yield Problem("", "scaling.rule", '"sde"', message, "another rule, or an optimizer with betas and eps")
        return
    k = batch_ratio(spec.scaling, spec.batch.global_size)
    ratio = f"k = {spec.batch.global_size} / {spec.scaling.reference_batch} = {k:.4g}"
    if numbers["eps"] is None:
        yield Problem("", "optimizer.eps", "null", f"rule sde divides it by k^0.5, {ratio}", "a number > 0")
    least = min(numbers["betas"])
    if scaled_beta(least, k) <= _TOLERANCE:
        message = (
            f"rule sde makes beta {least:g} into 1 - k (1 - beta) = 1 - {k:.4g} x {1 - least:.4g} = "
            f"{scaled_beta(least, k):.4g} with {ratio}; k (1 - beta) must be below 1"
        )
        size = (spec.scaling.reference_batch or 1) / (1 - least)
        legal = f"less than {size:.6g}, betas above 1 - 1/k = {max(0.0, 1 - 1 / k):.4g}, or {_OTHER_RULE}"
        yield Problem("", "batch.global_size", str(spec.batch.global_size), message, legal)


def updates_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """As many updates as at the reference batch are a length in samples, of a larger batch that does not change."""
    scaling, size = spec.scaling, spec.batch.global_size
    if not scaling.same_updates or scaling.reference_batch is None:
        return
    path = "scaling.same_updates"
    if spec.train.steps is not None:
        message = "train.steps is a number of updates already, whatever the batch"
        yield Problem("", path, "true", message, "false, or train.epochs or train.samples")
    if batch_changes(spec):
        message = f"a batch that {spec.batch.controller.name} changes has no number of updates to be kept"
        yield Problem("", path, "true", message, "false, or batch.controller: constant")
    elif size < scaling.reference_batch:
        message = (
            f"batch.global_size = {size} takes more updates than reference_batch = {scaling.reference_batch} already"
        )
        yield Problem("", path, "true", message, f"false, or a batch of {scaling.reference_batch} or more")
    if spec.schedule.warmup is not None and spec.schedule.warmup.scale_with_batch:
        message = "scaling.same_updates makes the warmup longer by the same factor"
        yield Problem("", "schedule.warmup.scale_with_batch", "true", message, "false")


def warmup_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """A warmup that is longer than the training never reaches the learning rate."""
    warmup = spec.schedule.warmup
    if warmup is None:
        return
    if warmup.scale_with_batch and spec.scaling.reference_batch is None:
        message = "missing; schedule.warmup.scale_with_batch compares the batch with it"
        yield Problem("", "scaling.reference_batch", "", message, "an integer >= 1")
        return
    k = warmup_factor(warmup, spec.scaling, spec.batch.global_size)
    wholes = {unit: getattr(spec.train, unit) for unit in ("steps", "epochs", "samples")} | {"fraction": 1.0}
    for unit, whole in wholes.items():
        length = getattr(warmup, unit)
        if length is None or whole is None or k * length <= whole:
            continue
        what = "longer than the whole training" if unit == "fraction" else f"longer than the training of {whole} {unit}"
        if not warmup.scale_with_batch:
            yield Problem("", f"schedule.warmup.{unit}", shown(length), f"the warmup is {what}", f"at most {whole}")
            continue
        arithmetic = f"{length:g} x {spec.batch.global_size} / {spec.scaling.reference_batch} = {k * length:.4g}"
        message = f"the warmup grown with the batch, {arithmetic} {unit}, is {what}"
        yield Problem("", f"schedule.warmup.{unit}", shown(length), message, f"at most {whole / k:.4g}")
