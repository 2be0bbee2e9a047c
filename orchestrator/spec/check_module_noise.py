"""What types cannot see of methods that compare the gradients of a step's groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.spec.check_controller import single_group_problems
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.asynchronous import Delayed
from orchestrator.spec.methods.coded import Coded
from orchestrator.spec.methods.controllers import Adaptive, AdaScale, InnerProductTest
from orchestrator.spec.methods.engines import HESSIAN_PRODUCTS, WHOLE_TENSORS, Ddp, Fsdp2
from orchestrator.spec.methods.gradient_modulators import Agvm, MeasuresModules, Vrgd
from orchestrator.spec.methods.optimizers import AdamW
from orchestrator.spec.methods.package_optimizers import OneRate
from orchestrator.spec.problems import Problem, shown

EXACT_SCHEMES = ("uncoded", "fractional", "cyclic", "sr_sgc", "m_sgc")
"""Schemes whose steps are the sum over all samples."""


def noise_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """What looks at the gradients of a step's groups, by modules, in halves, or in Adam's metric."""
    measuring = [config for config in spec.modulators if isinstance(config, MeasuresModules)]
    for index, config in enumerate(spec.modulators):
        path = f"modulators.{index}"
        if isinstance(config, MeasuresModules | Vrgd):
            yield from _group_problems(spec, path, config.name)
        if isinstance(config, Vrgd):
            yield from _square_problems(spec)
        if isinstance(config, MeasuresModules):
            if config is not measuring[0]:
                message = f"{measuring[0].name} divides the model into modules already"
                yield Problem("", f"{path}.name", config.name, message, "one of them")
            if config.preconditioned:
                yield from _metric_problems(spec, f"{path}.preconditioned")
        if isinstance(config, Agvm):
            if config.estimator == "split":
                yield from _halves_problems(spec, path)
            yield from _rate_problems(spec)
    yield from _controller_problems(spec, measuring)


def _controller_problems(spec: JobSpec, measuring: Sequence[MeasuresModules]) -> Iterator[Problem]:
    """A step is measured in one metric, for all who ask."""
    controller = spec.batch.controller
    statistic = controller.statistic if isinstance(controller, Adaptive | AdaScale) else None
    if statistic is None:
        return
    path = "batch.controller.statistic.preconditioned"
    if statistic.preconditioned:
        yield from _metric_problems(spec, path)
        if isinstance(controller, InnerProductTest):
            message = "inner products are those of the gradients as they are"
            yield Problem("", path, "true", message, "false, or another controller")
    for config in measuring:
        if config.preconditioned != statistic.preconditioned:
            message = f"{config.name} measures with preconditioned: {shown(config.preconditioned)}"
            yield Problem("", path, shown(statistic.preconditioned), message, "the same for both")


def _group_problems(spec: JobSpec, path: str, name: str) -> Iterator[Problem]:
    if isinstance(spec.exchange, Coded) and name != "vrgd":
        if spec.exchange.scheme not in EXACT_SCHEMES:
            message = f"exchange.scheme {spec.exchange.scheme} sums only some of the gradients that {name} compares"
            yield Problem("", f"{path}.name", name, message, f"exchange.scheme of {', '.join(EXACT_SCHEMES)}")
        return
    if spec.exchange.topology == "served":
        message = f"exchange: {spec.exchange.name} shows no worker's gradient"
        yield Problem("", f"{path}.name", name, message, f"exchange: all_reduce, or no {name}")
        return
    if isinstance(spec.exchange, Delayed) and spec.exchange.order is not None and name != "vrgd":
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
        yield Problem("", path, "true", message, f"{legal}, or optimizer: adamw")
    if spec.exchange.topology == "served":
        message = f"the workers of exchange: {spec.exchange.name} have no second moment"
        yield Problem("", path, "true", message, f"{legal}, or exchange: all_reduce")
    if WHOLE_TENSORS not in spec.engine.provides:
        message = f"{spec.engine.title} divides the second moment among the workers"
        yield Problem("", path, "true", message, f"{legal}, or engine: ddp")


def _rate_problems(spec: JobSpec) -> Iterator[Problem]:
    if isinstance(spec.optimizer, OneRate):
        message = "finds one learning rate for all parameters, and agvm gives each module its own"
        yield Problem("", "optimizer.name", shown(spec.optimizer.name), message, "another optimizer, or no agvm")
