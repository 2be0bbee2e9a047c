"""What types cannot see of modulators: what else the job asks for that does not go with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.coded import Coded
from orchestrator.spec.methods.engines import HESSIAN_PRODUCTS, WHOLE_TENSORS, Ddp, Fsdp2
from orchestrator.spec.methods.modulators import (
    AdaptiveBraking,
    Agvm,
    BatchChannelNorm,
    GhostNorm,
    SyncBatchNorm,
    Vrgd,
)
from orchestrator.spec.methods.optimizers import AdamW, Lamb, Sgd
from orchestrator.spec.methods.package_optimizers import (
    AdaBelief,
    AdaBound,
    Lion,
    NAdam,
    OneRate,
    RAdam,
)
from orchestrator.spec.problems import Problem, shown

EXACT_SCHEMES = ("uncoded", "fractional", "cyclic", "sr_sgc", "m_sgc")
"""Schemes whose steps are the sum over all samples."""
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


def group_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """AGVM and VRGD look at the gradients of a step's groups; AGVM also in halves, or in Adam's metric."""
    for index, config in enumerate(spec.modulators):
        path = f"modulators.{index}"
        if isinstance(config, Agvm | Vrgd):
            yield from _group_problems(spec, path, config.name)
        if isinstance(config, Vrgd):
            yield from _square_problems(spec)
        if isinstance(config, Agvm):
            if config.estimator == "split":
                yield from _halves_problems(spec, path)
            if config.preconditioned:
                yield from _metric_problems(spec, path)
            yield from _rate_problems(spec)


def _group_problems(spec: JobSpec, path: str, name: str) -> Iterator[Problem]:
    batch = spec.batch
    if isinstance(spec.exchange, Coded) and name == "agvm":
        if spec.exchange.scheme not in EXACT_SCHEMES:
            message = f"exchange.scheme {spec.exchange.scheme} sums only some of the gradients that agvm compares"
            yield Problem("", f"{path}.name", name, message, f"exchange.scheme of {', '.join(EXACT_SCHEMES)}")
        return
    if spec.exchange.topology == "served":
        message = f"exchange: {spec.exchange.name} shows no worker's gradient"
        yield Problem("", f"{path}.name", name, message, f"exchange: all_reduce, or no {name}")
        return
    is_whole = batch.planned_micro_size is None or batch.planned_micro_size >= batch.global_size
    if spec.resources.workers == 1 and is_whole:
        message = f"{name} compares groups of a step's samples, and one worker would have only one"
        legal = f"a number below {batch.global_size}, or resources.workers of 2 and more"
        yield Problem("", "batch.micro_size", shown(batch.micro_size), message, legal)


def _square_problems(spec: JobSpec) -> Iterator[Problem]:
    if spec.exchange.topology != "served" and spec.exchange.name != "all_reduce":
        message = "vrgd squares the gradients that workers sum at once"
        yield Problem("", "exchange.name", shown(spec.exchange.name), message, "all_reduce, or no vrgd")
    if HESSIAN_PRODUCTS in spec.optimizer.requires:
        message = "differentiates gradients again, and vrgd squares those of an ordinary backward"
        yield Problem("", "optimizer.name", shown(spec.optimizer.name), message, "another optimizer, or no vrgd")


def _halves_problems(spec: JobSpec, path: str) -> Iterator[Problem]:
    workers, engine = spec.resources.workers, spec.engine
    legal = "norms, which needs none"
    if not isinstance(engine, Ddp | Fsdp2):
        message = f"{engine.title} does not show the gradients of two halves"
        yield Problem("", f"{path}.estimator", "split", message, f"{legal}, or engine: ddp or fsdp2")
    elif isinstance(engine, Fsdp2) and engine.mesh.replicate > 1:
        message = "the two halves are seen where all workers share one division of the model"
        yield Problem("", f"{path}.estimator", "split", message, f"{legal}, or engine.mesh.replicate: 1")
    elif spec.exchange.name != "all_reduce":
        message = f"exchange: {spec.exchange.name} does not sum in two halves"
        yield Problem("", f"{path}.estimator", "split", message, f"{legal}, or exchange: all_reduce")
    elif workers > 1 and workers % 2:
        message = f"{workers} workers have no two halves"
        yield Problem("", f"{path}.estimator", "split", message, f"{legal}, or an even number of workers")


def _metric_problems(spec: JobSpec, path: str) -> Iterator[Problem]:
    legal = "false"
    if not isinstance(spec.optimizer, AdamW):
        message = f"{spec.optimizer.name} keeps no second moment as adamw does"
        yield Problem("", f"{path}.preconditioned", "true", message, f"{legal}, or optimizer: adamw")
    if spec.exchange.topology == "served":
        message = f"the workers of exchange: {spec.exchange.name} have no second moment"
        yield Problem("", f"{path}.preconditioned", "true", message, f"{legal}, or exchange: all_reduce")
    if WHOLE_TENSORS not in spec.engine.provides:
        message = f"{spec.engine.title} divides the second moment among the workers"
        yield Problem("", f"{path}.preconditioned", "true", message, f"{legal}, or engine: ddp")
    if spec.batch.controller.name != "constant":
        message = f"batch.controller {spec.batch.controller.name} measures gradients as they are"
        yield Problem("", f"{path}.preconditioned", "true", message, f"{legal}, or batch.controller: constant")


def _rate_problems(spec: JobSpec) -> Iterator[Problem]:
    if isinstance(spec.optimizer, OneRate):
        message = "finds one learning rate for all parameters, and agvm gives each module its own"
        yield Problem("", "optimizer.name", shown(spec.optimizer.name), message, "another optimizer, or no agvm")
