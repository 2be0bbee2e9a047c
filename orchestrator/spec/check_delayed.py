"""What types cannot see of gradients at older weights: what else the job asks for that does not go with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.spec.check_asynchronous import pushes_per_update
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.asynchronous import Asynchronous, Delayed
from orchestrator.spec.methods.engines import HESSIAN_PRODUCTS
from orchestrator.spec.methods.optimizers import Sgd
from orchestrator.spec.methods.sources import HuggingFaceSource
from orchestrator.spec.problems import Problem, shown
from orchestrator.spec.push_order import read_order


def ordered_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """What is read in the order of a file has equal pushes and samples that can be had in any order."""
    exchange = spec.exchange
    if not isinstance(exchange, Delayed) or exchange.order is None:
        return
    if spec.data.loader_workers:
        message = "samples are read in the order of exchange.order, which loaders do not know"
        yield Problem("", "data.loader_workers", str(spec.data.loader_workers), message, "0, or exchange.steps")
    if isinstance(spec.data.source, HuggingFaceSource) and spec.data.source.streaming:
        message = "exchange.order asks for samples in any order, which a stream cannot give"
        yield Problem("", "data.source.streaming", "true", message, "false, or exchange.steps")
    if spec.batch.controller.name != "constant":
        message = "exchange.order was made for pushes of one size"
        yield Problem("", "batch.controller.name", shown(spec.batch.controller.name), message, "constant")
    try:
        pushes = pushes_per_update(exchange, read_order(folder / exchange.order))
    except ValueError:  # told by `order_problems`
        return
    size, compensation = spec.batch.global_size, exchange.compensation
    if size % pushes:
        message = f"{size} / {pushes} pushes of each update of exchange.order = {size / pushes:.6g} samples each"
        yield Problem("", "batch.global_size", str(size), message, f"a multiple of {pushes}")
    if pushes > 1 and compensation is not None and compensation.name != "staleness_aware":
        message = f"needs one push to an update; exchange.order has {pushes}"
        yield Problem("", "exchange.compensation.name", shown(compensation.name), message, "staleness_aware, or null")


def inconsistent_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """Weights can only change between forward and backward where nothing else has been made of them."""
    if not isinstance(spec.exchange, Delayed) or spec.exchange.weights != "inconsistent":
        return
    train = spec.train
    found = {
        "train.precision": (train.precision, train.precision != "fp32", "keeps copies of the weights", "fp32"),
        "train.compile": (train.compile, train.compile is not None, "may keep copies of the weights", "null"),
        "train.activation_checkpointing": (
            "a mapping",
            train.activation_checkpointing is not None,
            "runs forwards in the backward",
            "null",
        ),
        "optimizer.name": (
            spec.optimizer.name,
            HESSIAN_PRODUCTS in spec.optimizer.requires,
            "differentiates through the weights",
            "another optimizer",
        ),
    }
    for path, (value, is_wrong, reason, legal) in found.items():
        if is_wrong:
            message = f"{reason}, which exchange.weights: inconsistent changes between forward and backward"
            yield Problem("", path, shown(value), message, f"{legal}, or exchange.weights: consistent")


def compensation_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """Compensations are defined on SGD; some on its momentum."""
    exchange, optimizer = spec.exchange, spec.optimizer
    if not isinstance(exchange, Asynchronous | Delayed) or exchange.compensation is None:
        return
    name = exchange.compensation.name
    if not isinstance(optimizer, Sgd):
        message = f"exchange.compensation {name} is defined on the steps of SGD"
        yield Problem("", "optimizer.name", shown(optimizer.name), message, "sgd, or exchange.compensation: null")
    elif name in ("gap_aware", "dana_zero", "weight_prediction"):
        yield from _momentum_problems(optimizer, f"exchange.compensation {name}")


def _momentum_problems(optimizer: Sgd, who: str) -> Iterator[Problem]:
    if optimizer.momentum == 0:
        yield Problem("", "optimizer.momentum", "0", f"{who} needs momentum", "a number > 0")
    if optimizer.dampening != 0:
        value = shown(optimizer.dampening)
        yield Problem("", "optimizer.dampening", value, f"{who} is defined without dampening", "0")
    if optimizer.nesterov:
        yield Problem("", "optimizer.nesterov", "true", f"{who} is defined on plain momentum", "false")
