"""Data parallelism with a whole replica on every rank."""

from __future__ import annotations

import contextlib

from torch import Tensor

from orchestrator.core.parts import EngineParts
from orchestrator.core.protocols import CurvatureOptimizer, Engine, Exchange, LossFunction, MicroBatch, RoundExchange
from orchestrator.core.values import Measurement
from orchestrator.engines.clipping import Clipping
from orchestrator.engines.curvature import HessianDiagonal
from orchestrator.engines.native import NativeEngine
from orchestrator.engines.precision import Precision
from orchestrator.engines.served import ServedEngine


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
        )
        self._exchange = exchange
        self._exchange.attach(self._parameters)
        self._curvature: HessianDiagonal | None = None
        if isinstance(self.optimizer, CurvatureOptimizer):
            self._curvature = HessianDiagonal(self._parameters, parts.collectives)

    def begin_step(self, measurement: Measurement | None = None) -> None:
        """See the base class."""
        super().begin_step(measurement)
        if self._curvature is not None:
            self._curvature.begin_step()

    def _watch_gradients(self) -> None:
        if self._collectives.world_size > 1:
            self._exchange.show(lambda piece: self._norms.add(piece, piece))
        elif self._curvature is None:
            self._norms.watch(self._parameters, (p.grad for p in self._parameters))

    def _begin_backward(self, *, is_last: bool) -> None:
        self._exchange.begin(is_last=is_last)

    def _forward(self, micro: MicroBatch, loss: LossFunction) -> tuple[Tensor, dict[str, Tensor]]:
        with contextlib.nullcontext() if self._curvature is None else self._curvature.forward():
            return super()._forward(micro, loss)

    def _backward(self, value: Tensor) -> None:
        self._exchange.before_backward()
        if self._curvature is None:
            value.backward()
        else:
            gradients = self._curvature.backward(value)
            if self._norms.is_on and self._collectives.world_size == 1:
                for parameter, gradient in zip(self._parameters, gradients, strict=True):
                    self._norms.add(gradient, parameter.grad)

    def _sum_gradients(self) -> dict[str, Tensor | float]:
        exchanged = self._exchange.finish()
        num_bytes = exchanged.bytes_sent
        self._exchange.show(None)
        if self._curvature is not None:
            assert isinstance(self.optimizer, CurvatureOptimizer)
            estimates, num_more = self._curvature.finish()
            self.optimizer.take_curvature(estimates)
            num_bytes += num_more
        return {"bytes_sent": float(num_bytes), **exchanged.facts}

    def _clear_gradients(self) -> None:
        self._exchange.clear()
