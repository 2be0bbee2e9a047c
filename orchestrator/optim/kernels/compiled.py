"""LAMB steps through torch.compile, on any device that it has a compiler for."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from orchestrator.core.sums import sum_of_squares
from orchestrator.optim.kernels.lamb import COLUMNS, LambBatch, trust_ratios

_BUCKET = 64
"""Tensors of one graph: the time to compile a graph grows faster than its size."""
_MOST_GRAPHS = 256
"""Buckets of one phase that differ in their shapes; more are an error of torch.compile."""


class CompiledLamb:
    """LAMB in graphs of a phase over up to 64 tensors each, compiled at their first step: seconds to minutes.

    The numbers of a step are data of a graph, so that a new learning rate does not compile anew.
    """

    title = "torch.compile"

    def __init__(self) -> None:
        options: Any = {"fullgraph": True, "dynamic": False, "recompile_limit": _MOST_GRAPHS}
        self._measure = torch.compile(_measure, **options)
        self._apply = torch.compile(_apply, **options)

    @torch.no_grad()
    def measure(self, batch: LambBatch) -> Tensor:
        """See the protocol."""
        return torch.cat([self._measure(*_lists(part), _numbers(part)) for part in _buckets(batch)])

    @torch.no_grad()
    def apply(self, batch: LambBatch, ratios: Tensor) -> None:
        """See the protocol."""
        for part, some in zip(_buckets(batch), ratios.split(_BUCKET), strict=True):
            p, _, m, v = _lists(part)
            # A copy, as a graph would be compiled for each place in memory that a view has.
            self._apply(p, m, v, _numbers(part), some.clone())

    def update(self, batch: LambBatch) -> Tensor:
        """See the protocol."""
        sums = self.measure(batch)
        self.apply(batch, trust_ratios(sums, batch.coefficients))
        return sums


def _buckets(batch: LambBatch) -> Iterator[LambBatch]:
    for start in range(0, len(batch.p), _BUCKET):
        some = slice(start, start + _BUCKET)
        yield LambBatch(batch.p[some], batch.g[some], batch.m[some], batch.v[some], batch.coefficients[some])


def _lists(batch: LambBatch) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    return list(batch.p), list(batch.g), list(batch.m), list(batch.v)


def _numbers(batch: LambBatch) -> Tensor:
    """[n, columns] in float64, so that 1 - beta is exact; on the tensors' device."""
    rows = torch.tensor(list(map(attrgetter(*COLUMNS), batch.coefficients)), dtype=torch.float64)
    return rows.to(batch.p[0].device, non_blocking=True)


def _measure(p: list[Tensor], g: list[Tensor], m: list[Tensor], v: list[Tensor], numbers: Tensor) -> Tensor:
    sums = []
    for i, row in enumerate(numbers.unbind()):
        _, beta1, beta2, *_ = row.unbind()
        m[i].copy_(m[i] * beta1 + g[i] * (1 - beta1))
        v[i].copy_(v[i] * beta2 + g[i] * g[i] * (1 - beta2))
        sums.append(torch.stack([sum_of_squares(p[i]), sum_of_squares(_direction(p[i], m[i], v[i], row))]))
    return torch.stack(sums)


def _apply(p: list[Tensor], m: list[Tensor], v: list[Tensor], numbers: Tensor, ratios: Tensor) -> None:
    for i, row in enumerate(numbers.unbind()):
        p[i].sub_(_direction(p[i], m[i], v[i], row) * (row[0] * ratios[i]))


def _direction(p: Tensor, m: Tensor, v: Tensor, row: Tensor) -> Tensor:
    _, _, _, correction1, correction2, eps, weight_decay, *_ = row.unbind()
    return (m / correction1) / ((v / correction2).sqrt() + eps) + p * weight_decay
