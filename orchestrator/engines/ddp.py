"""Data parallelism with a whole replica on every rank."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from orchestrator.core.parts import EngineParts
from orchestrator.core.protocols import CurvatureOptimizer, Engine, Exchange, LossFunction, MicroBatch, RoundExchange
from orchestrator.core.values import Measurement
from orchestrator.engines.clipping import Clipping
from orchestrator.engines.curvature import HessianDiagonal
from orchestrator.engines.native import NativeEngine
from orchestrator.engines.norms import Runs
from orchestrator.engines.precision import Precision
from orchestrator.engines.served import ServedEngine
from orchestrator.engines.squares import GroupSquares


def build_ddp(parts: EngineParts) -> Engine:
    """Whole replicas: on the ranks themselves, or on workers that the exchange talks to."""
    exchange = parts.build_exchange()
    return ServedEngine(parts, exchange) if isinstance(exchange, RoundExchange) else DdpEngine(parts, exchange)


class DdpEngine(NativeEngine):
    """Owns the replica, its optimizer and the step on them; the exchange owns what crosses ranks."""

    def __init__(self, parts: EngineParts, exchange: Exchange) -> None:
        model = parts.model.to(parts.device)
        parts.collectives.broadcast_([*model.parameters(), *model.buffers()])
        super().__init__(
            model,
            parts.build_optimizer(model),
            parts.collectives,
            Precision(parts.spec.train.precision, parts.device),
            clipping=Clipping(parts.spec.train),
            groups_of_workers=parts.collectives.world_size > 1,
            module_of=parts.module_of,
        )
        self._names = {parameter: name for name, parameter in self._by_name.items()}
        self._exchange = exchange
        self._exchange.attach(self._parameters)
        self._squares: GroupSquares | None = None
        if parts.noise is not None:
            self._squares = GroupSquares(parts.noise, self._parameters, parts.collectives)
        self._curvature: HessianDiagonal | None = None
        if isinstance(self.optimizer, CurvatureOptimizer):
            self._curvature = HessianDiagonal(self._parameters, parts.collectives)

    def begin_step(self, measurement: Measurement | None = None) -> None:
        """See the base class."""
        super().begin_step(measurement)
        if self._collectives.world_size > 1 and (self._norms.is_on or self._squares is not None):
            self._exchange.show(self._show, self._show_half if self._norms.wants_halves else None)
        if self._curvature is not None:
            self._curvature.begin_step()

    def _watch_gradients(self) -> None:
        # Those of several workers the exchange shows.
        if self._collectives.world_size == 1 and self._curvature is None:
            self._norms.watch(self._by_name, (parameter.grad for parameter in self._parameters))

    def _runs(self, parameters: Sequence[nn.Parameter]) -> Runs:
        return self._norms.runs((self._names[parameter], parameter.numel()) for parameter in parameters)

    def _show(self, message: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        if self._norms.is_on:
            self._norms.add(self._metric_of(message, parameters), self._runs(parameters), message)
        if self._squares is not None:
            self._squares.add_bucket(message, parameters)

    def _show_half(self, message: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        copies = self._collectives.world_size // 2
        self._norms.halves.add_sum(self._metric_of(message, parameters), self._runs(parameters), copies=copies)

    def _metric_of(self, message: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
        if not self._norms.is_preconditioned:
            return message
        parts = message.split([parameter.numel() for parameter in parameters])
        return torch.cat([self._in_metric(self._names[p], part) for p, part in zip(parameters, parts, strict=True)])

    def _begin_backward(self, *, is_last: bool) -> None:
        self._exchange.begin(is_last=is_last)

    def _forward(self, micro: MicroBatch, loss: LossFunction) -> tuple[Tensor, dict[str, Tensor]]:
        with contextlib.nullcontext() if self._curvature is None else self._curvature.forward():
            return super()._forward(micro, loss)

    def forward_backward(self, micro: MicroBatch, loss: LossFunction) -> dict[str, Tensor]:
        """See the base class."""
        if self._squares is not None:
            self._squares.begin_micro_batch(micro.weight)
        return super().forward_backward(micro, loss)

    def _backward(self, value: Tensor) -> None:
        self._exchange.before_backward()
        if self._curvature is None:
            value.backward()
        else:
            gradients = self._curvature.backward(value)
            if self._norms.is_on and self._collectives.world_size == 1:
                for parameter, gradient in zip(self._parameters, gradients, strict=True):
                    self._norms.add_of(self._names[parameter], parameter.grad, gradient)

    def _sum_gradients(self) -> dict[str, Tensor | float]:
        exchanged = self._exchange.finish()
        num_bytes = exchanged.bytes_sent
        self._exchange.show(None)
        if self._squares is not None:
            self._squares.finish()
        if self._curvature is not None:
            assert isinstance(self.optimizer, CurvatureOptimizer)
            estimates, num_more = self._curvature.finish()
            self.optimizer.take_curvature(estimates)
            num_bytes += num_more
        return {"bytes_sent": float(num_bytes), **exchanged.facts}

    def _clear_gradients(self) -> None:
        self._exchange.clear()
