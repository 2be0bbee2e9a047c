"""What a spec must not ask for where the samples of a batch are coupled by the loss."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.loss_modulators import Adversarial, Sam
from orchestrator.spec.problems import Problem, shown

COUPLES_SAMPLES = "couples_samples"
"""The recipe's attribute that says so."""


def cutting_problems(spec: JobSpec) -> Iterator[Problem]:
    """A batch stays whole: workers take their shares at once, and see those of the others."""
    recipe = f"{spec.recipe.target} couples the samples of a batch ({COUPLES_SAMPLES})"
    if spec.batch.micro_size is not None:
        message = f"{recipe}, so a worker's share cannot be taken in pieces"
        yield Problem("", "batch.micro_size", shown(spec.batch.micro_size), message, "null")
    if spec.exchange.topology == "served":
        message = f"{recipe}, and here each part of a batch is computed by itself"
        yield Problem("", "exchange.name", shown(spec.exchange.name), message, "all_reduce or delayed")
    for index, modulator in enumerate(spec.modulators):
        if isinstance(modulator, Sam | Adversarial):
            message = f"{recipe}, and {modulator.name} takes gradients of a worker's own samples by themselves"
            yield Problem("", f"modulators.{index}.name", shown(modulator.name), message, f"no {modulator.name}")
