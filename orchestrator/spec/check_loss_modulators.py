"""What types cannot see of modulators of the loss: what does not go with more than one pass over a micro-batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.spec.batch_arithmetic import divide_step
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.asynchronous import Delayed
from orchestrator.spec.methods.engines import HESSIAN_PRODUCTS
from orchestrator.spec.methods.loss_modulators import Adversarial, Conadv, Sam, SavedActivations
from orchestrator.spec.methods.modulator import Modulator
from orchestrator.spec.methods.served import Served
from orchestrator.spec.methods.sources import HuggingFaceSource
from orchestrator.spec.problems import Problem, shown


def pass_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """What a loss that runs more than one pass, or keeps less than all of one, does not go with."""
    train = spec.train
    for modulator in spec.modulators:
        if not isinstance(modulator, Sam | SavedActivations | Adversarial):
            continue
        who = f"modulators: {modulator.name}"
        if train.compile is not None:
            yield Problem("", "train.compile", shown(train.compile), f"{who} is not made for compiled models", "null")
        if HESSIAN_PRODUCTS in spec.optimizer.requires:
            message = f"takes second derivatives of the loss, for which {who} is not made"
            yield Problem("", "optimizer.name", shown(spec.optimizer.name), message, "another optimizer")
        if train.precision == "fp16" and not isinstance(modulator, SavedActivations):
            message = f"{who} takes gradients of its own, which have no loss scale"
            yield Problem("", "train.precision", "fp16", message, "fp32 or bf16")
        is_inconsistent = isinstance(spec.exchange, Delayed) and spec.exchange.weights == "inconsistent"
        if is_inconsistent and isinstance(modulator, Sam):
            message = f"{who} runs its backwards before the newest weights come back"
            yield Problem("", "exchange.weights", "inconsistent", message, "consistent")
        yield from _earlier_problems(spec, modulator)


def _earlier_problems(spec: JobSpec, modulator: Modulator) -> Iterator[Problem]:
    """Changed samples are found by the recipe's own loss."""
    index = spec.modulators.index(modulator)
    earlier = [other.name for other in spec.modulators[:index] if "loss" in other.changes]
    if isinstance(modulator, Adversarial) and earlier:
        message = f"changes samples by the recipe's own loss, which {earlier[0]} has changed before it"
        yield Problem("", f"modulators.{index}.name", shown(modulator.name), message, f"before {earlier[0]}")


def group_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """A group of samples that share a perturbation lies within one backward of one worker."""
    if isinstance(spec.exchange, Served):  # whose chunks the scheme cuts
        return
    for index, modulator in enumerate(spec.modulators):
        if not isinstance(modulator, Sam) or modulator.m is None:
            continue
        division = divide_step(spec.batch.global_size, spec.resources.num_workers, spec.batch.planned_micro_size)
        if modulator.m > division.largest_micro_batch:
            message = f"a backward of one worker has {division.largest_micro_batch} samples"
            legal = f"at most {division.largest_micro_batch}, or null"
            yield Problem("", f"modulators.{index}.m", str(modulator.m), message, legal)


def separate_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """A forward that runs again in the backward no longer knows which batch norm it ran with."""
    for index, modulator in enumerate(spec.modulators):
        is_separate = isinstance(modulator, Adversarial) and modulator.statistics == "separate"
        if is_separate and spec.train.activation_checkpointing is not None:
            message = "forwards that run again in the backward (train.activation_checkpointing) would mix them up"
            yield Problem("", f"modulators.{index}.statistics", "separate", message, "shared, or no checkpointing")


def ahead_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """What is made of the coming steps' samples knows these samples, and goes on beside the step."""
    for index, modulator in enumerate(spec.modulators):
        if not isinstance(modulator, Conadv):
            continue
        who = "modulators: conadv changes the samples of steps ahead"
        if isinstance(spec.exchange, Served | Delayed):
            message = f"{who}, which only ranks that sum their own gradients have"
            yield Problem("", "exchange.name", shown(spec.exchange.name), message, "all_reduce, or disadv")
        if spec.batch.controller.name != "constant":
            message = f"{who}, whose size is not known yet"
            yield Problem(
                "", "batch.controller.name", shown(spec.batch.controller.name), message, "constant, or disadv"
            )
        if isinstance(spec.data.source, HuggingFaceSource) and spec.data.source.streaming:
            message = f"{who}, and cannot go back to them in a stream"
            yield Problem("", "data.source.streaming", "true", message, "false, or disadv")
        if modulator.concurrent and spec.train.activation_checkpointing is not None:
            message = "attacks that run forwards again share random numbers with the step beside them"
            legal = "concurrent: false, or no train.activation_checkpointing"
            yield Problem("", f"modulators.{index}.concurrent", "true", message, legal)
