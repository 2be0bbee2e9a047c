"""What types cannot see of methods that compare the gradients of a step's groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.spec.check_controller import single_group_problems
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.asynchronous import Delayed
from orchestrator.spec.methods.coded import Coded
from orchestrator.spec.methods.engines import HESSIAN_PRODUCTS, WHOLE_TENSORS, Ddp, Fsdp2
from orchestrator.spec.methods.gradient_modulators import Agvm, Vrgd
from orchestrator.spec.methods.optimizers import AdamW
from orchestrator.spec.methods.package_optimizers import OneRate
from orchestrator.spec.problems import Problem, shown

EXACT_SCHEMES = ("uncoded", "fractional", "cyclic", "sr_sgc", "m_sgc")
"""Schemes whose steps are the sum over all samples."""


def noise_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
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
    if isinstance(spec.exchange, Coded) and name == "agvm":
        if spec.exchange.scheme not in EXACT_SCHEMES:
            message = f"exchange.scheme {spec.exchange.scheme} sums only some of the gradients that agvm compares"
            yield Problem("", f"{path}.name", name, message, f"exchange.scheme of {', '.join(EXACT_SCHEMES)}")
        return
    if spec.exchange.topology == "served":
        message = f"exchange: {spec.exchange.name} shows no worker's gradient"
        yield Problem("", f"{path}.name", name, message, f"exchange: all_reduce, or no {name}")
        return
    if isinstance(spec.exchange, Delayed) and spec.exchange.order is not None and name == "agvm":
        message = f"{name} compares gradients that are computed at once, and exchange.order has several in an update"
        yield Problem("", f"{path}.name", name, message, f"exchange.steps, or no {name}")
    yield from single_group_problems(spec, name)


def _square_problems(spec: JobSpec) -> Iterator[Problem]:
    if spec.exchange.topology != "served" and spec.exchange.name != "all_reduce":
        message = "vrgd squares the gradients that workers sum at once"
        yield Problem("", "exchange.name", shown(spec.exchange.name), message, "all_reduce, or no vrgd")
    if HESSIAN_PRODUCTS in spec.optimizer.requires:
        message = "differentiates gradients again, and vrgd squares those of an ordinary backward"
        yield Problem("", "optimizer.name", shown(spec.optimizer.name), message, "another optimizer, or no vrgd")


def _halves_problems(spec: JobSpec, path: str) -> Iterator[Problem]:
    workers, engine = spec.resources.num_workers, spec.engine
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
