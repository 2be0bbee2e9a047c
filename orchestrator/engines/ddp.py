"""Data parallelism with a whole replica on every rank."""

from __future__ import annotations

from torch import Tensor

from orchestrator.core.parts import EngineParts
from orchestrator.engines.clipping import Clipping
from orchestrator.engines.native import NativeEngine
from orchestrator.engines.precision import Precision


class DdpEngine(NativeEngine):
    """Owns the replica, its optimizer and the step on them; the exchange owns what crosses ranks."""

    def __init__(self, parts: EngineParts) -> None:
        model = parts.model.to(parts.device)
        parts.collectives.broadcast_([*model.parameters(), *model.buffers()])
        super().__init__(
            model,
            parts.build_optimizer(model),
            parts.collectives,
            Precision(parts.spec.train.precision, parts.device),
            clipping=Clipping(parts.spec.train),
        )
        self._exchange = parts.build_exchange()
        self._exchange.attach(self._parameters)

    def _begin_backward(self, *, is_last: bool) -> None:
        self._exchange.begin(is_last=is_last)

    def _sum_gradients(self) -> dict[str, Tensor | float]:
        return {"bytes_sent": float(self._exchange.finish().bytes_sent)}

    def _clear_gradients(self) -> None:
        self._exchange.clear()
