"""Noisy quadratics trained through the delayed exchange, in float64, for references to be compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from orchestrator.core import tables
from orchestrator.core.collectives import Collectives
from orchestrator.core.staleness import Staleness
from orchestrator.exchange.delayed import DelayedExchange
from orchestrator.exchange.read_plan import read_plan
from orchestrator.spec.job import JobSpec
from orchestrator.spec.push_order import OrderedPush

Vector = NDArray[np.float64]

UPDATES = 30
MOMENTUM, DECAY = 0.8, 0.01
CURVATURE = np.array([1.0, 0.5, 0.1, 0.02, 2.0])
START = np.array([1.0, -2.0, 0.5, 3.0, -0.3])
NOISE = np.random.default_rng(3).normal(size=(UPDATES, 5)) * 0.3
RATES = np.concatenate([np.linspace(0.02, 0.08, 10), np.full(10, 0.08), np.linspace(0.08, 0.0, 10)])
"""Warmup and cooldown, so that a rate of the wrong step shows."""


def uneven_order(num_workers: int = 3) -> list[OrderedPush]:
    """Workers that take turns of unequal length; each reads the newest weights after its push."""
    generator, read, order = np.random.default_rng(5), [0] * num_workers, []
    for update in range(UPDATES):
        worker = int(generator.integers(num_workers))
        order.append(OrderedPush(update, worker, chunk=update, read_version=read[worker]))
        read[worker] = update + 1
    return order


ORDER = uneven_order()


def gradient(weights: Vector, update: int) -> Vector:
    """Of the loss at that update."""
    return CURVATURE * weights + NOISE[update]


def trained(
    compensation: dict[str, Any] | None,
    *,
    order: Sequence[OrderedPush] | None = ORDER,
    steps: int | None = None,
    prepare: Callable[[torch.optim.Optimizer, Staleness], None] | None = None,
) -> Vector:
    """The weights after all updates, all versions: [UPDATES + 1, 5]."""
    exchange_section = {"name": "delayed", "compensation": compensation}
    exchange_section |= {"order": "o.csv"} if steps is None else {"steps": steps}
    spec = JobSpec.model_validate(
        {"name": "t", "recipe": {"target": "a.py:B"}, "train": {"steps": 1}, "exchange": exchange_section}
    )
    config: Any = spec.exchange
    plan = read_plan(config, None if steps is not None else order)
    staleness = Staleness(is_asynchronous=True)
    method = None
    if config.compensation is not None:
        method = tables.load(tables.COMPENSATIONS, config.compensation.name)(config.compensation, plan.num_workers)
    exchange = DelayedExchange(config, Collectives(), staleness=staleness, compensation=method, plan=plan)
    parameter = nn.Parameter(torch.tensor(START))
    optimizer = torch.optim.SGD([parameter], lr=0.5, momentum=MOMENTUM, weight_decay=DECAY)
    if method is not None:
        method.attach(optimizer, staleness)
    if prepare is not None:
        prepare(optimizer, staleness)
    exchange.keep_in(optimizer)
    exchange.attach([parameter])
    history = [START]
    for update in range(UPDATES):
        exchange.begin(is_last=True)
        loss = (torch.tensor(CURVATURE) * parameter**2).sum() / 2 + (torch.tensor(NOISE[update]) * parameter).sum()
        exchange.before_backward()
        loss.backward()
        exchange.finish()
        optimizer.param_groups[0]["lr"] = RATES[update]
        optimizer.step()
        exchange.clear()
        history.append(parameter.detach().numpy().copy())
    return np.stack(history)
