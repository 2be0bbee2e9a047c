"""What types cannot see of a batch controller: the batch, the workers and the optimizer that it is to go with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.controllers import (
    LEAST_BRANCH_STEPS,
    Adaptive,
    AdaScale,
    CbsProbe,
    ConstantBatch,
    ScheduledBatch,
    Seesaw,
)
from orchestrator.spec.methods.distribution import AllReduce
from orchestrator.spec.methods.sources import HuggingFaceSource
from orchestrator.spec.phases import largest_batch
from orchestrator.spec.problems import Problem, shown
from orchestrator.spec.scaling import scaled_beta, scaled_optimizer

# As for the rule sde of a whole job: 10 x (1 - 0.9) is a little less than 1 in floating point.
_TOLERANCE = 1e-9


def topology_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """A served exchange is laid out for one batch, and workers' gradients are not seen one by one."""
    controller = spec.batch.controller
    if spec.exchange.topology == "served" and not isinstance(controller, ConstantBatch):
        message = f"exchange: {spec.exchange.name} divides the same batch among its workers at every step"
        yield Problem("", "batch.controller.name", shown(controller.name), message, "constant, or exchange: all_reduce")


def groups_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """Noise is seen between two groups of samples at least."""
    if isinstance(spec.batch.controller, Adaptive | AdaScale):
        yield from single_group_problems(spec, spec.batch.controller.name)


def single_group_problems(spec: JobSpec, who: str) -> Iterator[Problem]:
    """Yield one problem where a method that compares groups, workers or micro-batches, would have only one."""
    size, micro_size = spec.batch.global_size, spec.batch.planned_micro_size
    if spec.resources.num_workers == 1 and (micro_size is None or micro_size >= size):
        message = f"{who} compares groups of a step's samples, and one worker would have only one"
        legal = f"a number below {size}, or resources.workers of 2 and more"
        yield Problem("", "batch.micro_size", shown(spec.batch.micro_size), message, legal)


def size_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """The sizes that the batch may take go with its first one and with the number of workers."""
    controller, size, workers = spec.batch.controller, spec.batch.global_size, spec.resources.num_workers
    if isinstance(controller, Adaptive | Seesaw | CbsProbe):
        guards = controller.guards if isinstance(controller, Adaptive) else None
        path = "batch.controller." + ("max_size" if guards is None else "guards.max_size")
        if largest_batch(spec) < size:
            message = f"the batch begins with batch.global_size = {size}"
            yield Problem("", path, str(largest_batch(spec)), message, f"{size} or more")
        least = None if guards is None else guards.min_size
        if least is not None and not workers <= least <= size:
            message = f"the batch begins with batch.global_size = {size}, and each of {workers} workers needs a sample"
            yield Problem("", "batch.controller.guards.min_size", str(least), message, f"from {workers} to {size}")
    if isinstance(controller, ScheduledBatch):
        yield from _schedule_problems(controller, size, workers)


def _schedule_problems(controller: ScheduledBatch, size: int, workers: int) -> Iterator[Problem]:
    path = "batch.controller.sizes"
    first, first_size = controller.pairs[0]
    if first == 0 and first_size != size:
        message = f"begins with {first_size} and batch.global_size, for which the rate is chosen, is {size}"
        yield Problem("", path, shown(controller.sizes), message, f"0:{size}, or no pair at 0")
    least = min(scheduled for _, scheduled in controller.pairs)
    if least < workers:
        message = f"a batch of {least} leaves some of {workers} workers without a sample"
        yield Problem("", path, shown(controller.sizes), message, f"batches of {workers} or more")


def rate_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """What a controller makes of the rate goes with the schedule and the scaling rule."""
    controller, size = spec.batch.controller, spec.batch.global_size
    if isinstance(controller, AdaScale):
        if spec.scaling.rule != "none":
            message = "adascale multiplies the rate of its reference_batch itself"
            yield Problem("", "scaling.rule", shown(spec.scaling.rule), message, "none, with the rate of that batch")
        if controller.reference_batch > size:
            path = "batch.controller.reference_batch"
            message = f"is larger than batch.global_size = {size}, which gains nothing over it"
            yield Problem("", path, str(controller.reference_batch), message, f"at most {size}")
    if isinstance(controller, Seesaw) and spec.schedule.name == "constant":
        message = "seesaw grows the batch where the rate would fall, and this one never falls"
        yield Problem("", "schedule.name", '"constant"', message, "polynomial or cosine")


def probe_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """Branches are long enough to be compared, and all that they change can be put back."""
    controller, source = spec.batch.controller, spec.data.source
    if not isinstance(controller, CbsProbe):
        return
    needed = LEAST_BRANCH_STEPS * largest_batch(spec)
    if controller.branch_samples < needed:
        message = f"a branch is to have {LEAST_BRANCH_STEPS} steps of the largest batch, {largest_batch(spec)}"
        legal = f"{needed} or more, or a smaller max_size"
        yield Problem("", "batch.controller.branch_samples", str(controller.branch_samples), message, legal)
    if not isinstance(spec.exchange, AllReduce) and spec.exchange.topology != "served":  # the latter is told elsewhere
        message = "the gradients that are under way between steps cannot be put back after the branches of cbs_probe"
        yield Problem("", "exchange.name", shown(spec.exchange.name), message, "all_reduce")
    if isinstance(source, HuggingFaceSource) and source.streaming:
        message = "the branches of cbs_probe read the samples that come next, and a stream cannot be put back"
        yield Problem("", "data.source.streaming", "true", message, "false")


def averages_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """The coupling sde has betas and eps to scale, and even the largest batch leaves averages to keep."""
    controller = spec.batch.controller
    if not isinstance(controller, Adaptive | ScheduledBatch) or controller.coupling != "sde":
        return
    numbers = dict(spec.optimizer)
    if "betas" not in numbers or not isinstance(numbers.get("eps"), float):
        message = f"scales betas and eps, and {spec.optimizer.name} has no betas or no single number as eps"
        legal = "another coupling, or an optimizer with betas and eps"
        yield Problem("", "batch.controller.coupling", '"sde"', message, legal)
        return
    if spec.scaling.rule == "sde":
        # With the spec's own betas where the job's rule is wrong, which is told elsewhere.
        numbers = dict(scaled_optimizer(spec.optimizer, spec.scaling, spec.batch.global_size))
    k = largest_batch(spec) / spec.batch.global_size
    least = min(numbers["betas"])
    if scaled_beta(least, k) <= _TOLERANCE:
        message = (
            f"at the largest batch, {k:.4g} times the first, beta {least:.4g} would become 1 - k (1 - beta) = "
            f"{scaled_beta(least, k):.4g}; k (1 - beta) must be below 1"
        )
        legal = f"less than {1 / (1 - least):.4g} times batch.global_size as the largest batch, or coupling: sqrt"
        yield Problem("", "batch.controller.coupling", '"sde"', message, legal)
