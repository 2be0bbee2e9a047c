"""What types cannot see of the exchanges whose workers push gradients to shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.spec.delays import read_delays
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.engines import HESSIAN_PRODUCTS, STEP_LOSS
from orchestrator.spec.methods.layerwise_optimizers import AdagradNorm
from orchestrator.spec.methods.package_optimizers import OneRate
from orchestrator.spec.methods.served import Served
from orchestrator.spec.methods.sources import HuggingFaceSource
from orchestrator.spec.problems import Problem, shown


def served_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """What workers and shards cannot do that ranks of a process group can."""
    if not isinstance(spec.exchange, Served):
        return
    name = spec.exchange.name
    if spec.train.precision == "fp16":
        message = "gradients that overflow are how fp16 finds its loss scale, and shards refuse them"
        yield Problem("", "train.precision", "fp16", message, f"fp32 or bf16 with exchange: {name}")
    if spec.batch.micro_size == "auto":
        message = "the models of a job are not built where they could be tried out"
        yield Problem("", "batch.micro_size", '"auto"', message, f"null or a number with exchange: {name}")
    if spec.data.loader_workers:
        message = "workers are told which samples to read when they begin, so nothing can be loaded ahead"
        yield Problem("", "data.loader_workers", str(spec.data.loader_workers), message, f"0 with exchange: {name}")
    if isinstance(spec.data.source, HuggingFaceSource) and spec.data.source.streaming:
        message = "workers read any samples, in any order, which a stream cannot give them"
        yield Problem("", "data.source.streaming", "true", message, f"false with exchange: {name}")
    yield from _optimizer_problems(spec, spec.exchange)


def _optimizer_problems(spec: JobSpec, exchange: Served) -> Iterator[Problem]:
    missing = spec.optimizer.requires & {STEP_LOSS, HESSIAN_PRODUCTS}
    if missing:
        message = f"requires {', '.join(sorted(missing))}, which the workers of exchange: {exchange.name} do not send"
        yield Problem("", "optimizer.name", shown(spec.optimizer.name), message, "another optimizer, or all_reduce")
    elif isinstance(spec.optimizer, OneRate | AdagradNorm) and exchange.shards > 1:
        message = f"finds one rate over all tensors, which are divided among {exchange.shards} shards"
        yield Problem("", "optimizer.name", shown(spec.optimizer.name), message, "exchange.shards of 1")


def injection_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """The file of delays has a number for each worker."""
    if not isinstance(spec.exchange, Served) or spec.exchange.inject is None:
        return
    name, workers = spec.exchange.inject.delays, spec.resources.num_workers
    try:
        rows = read_delays(folder / name)
    except ValueError as error:
        yield Problem("", "exchange.inject.delays", shown(name), str(error), "a CSV file of seconds")
        return
    if len(rows[0]) < workers:
        message = f"has {len(rows[0])} numbers in a line for {workers} workers"
        yield Problem("", "exchange.inject.delays", shown(name), message, f"at least {workers} numbers in each line")
