"""The engine of a shard: it owns some of the model's tensors and their optimizer, and computes no gradient itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from orchestrator.core.flat_shards import FlatShards
from orchestrator.core.parts import EngineParts
from orchestrator.core.protocols import LossFunction, MicroBatch, RoundExchange
from orchestrator.core.shards import Piece
from orchestrator.core.state_naming import OPTIMIZER
from orchestrator.core.values import Measurement
from orchestrator.engines.clipping import Clipping
from orchestrator.engines.native import NativeEngine
from orchestrator.engines.norms import squared_norms_of_sum
from orchestrator.engines.precision import Precision


class ServedEngine(NativeEngine):
    """Whole tensors divided among shards, so that layer-wise optimizers are exact without a message.

    Every shard holds the whole model, for evaluation; of the tensors that it does not own the values are those of
    the last evaluation or checkpoint.
    """

    def __init__(self, parts: EngineParts, exchange: RoundExchange) -> None:
        model = parts.model.to(parts.device)
        collectives = parts.collectives
        collectives.broadcast_([*model.parameters(), *model.buffers()])
        self._flat_shards = FlatShards(model, collectives.world_size)
        optimizer = parts.build_optimizer(model)
        self._own = {id(p) for _, p in self._flat_shards.members[collectives.rank]}
        _keep_only(optimizer, self._own)
        clipping = Clipping(parts.spec.train, None if collectives.world_size == 1 else collectives)
        precision = Precision(parts.spec.train.precision, parts.device)
        super().__init__(model, optimizer, collectives, precision, clipping=clipping, module_of=parts.module_of)
        self._by_name = {name: p for name, p in self._by_name.items() if id(p) in self._own}
        self._parameters = list(self._by_name.values())
        self._exchange = exchange
        exchange.attach(model, self._flat_shards)

    def begin_step(self, measurement: Measurement | None = None) -> None:
        """Only a measurement is prepared: no shard runs the model in training, or sees a worker's own gradient."""
        self._norms.begin_step(measurement)

    def forward_backward(self, micro: MicroBatch, loss: LossFunction) -> dict[str, Tensor]:
        """Have the workers compute the step that the micro-batch asks for."""
        if not self._norms.is_on:
            return self._exchange.collect(micro.batch)
        return self._exchange.collect(replace(micro.batch, measures_modules=True))

    def _finish_measuring(self) -> None:
        """The workers have told of the groups; of the sum every shard has its own tensors."""
        parts = []
        if self._norms.is_on:
            parts = squared_norms_of_sum(self._measured_gradients(), 1, self._norms.num_modules)
            squares = self._exchange.squares()
            if squares is not None and self._collectives.rank == 0:
                self._norms.take_squares(squares)
        self._norms.finish(parts)

    def step(self, lr: float) -> dict[str, Tensor | float]:
        """See the base class; what is told of layers is told of those of all shards."""
        report = super().step(lr)
        reports = self._collectives.all_gather_object(report)
        return report if len(reports) == 1 else _merged(reports)

    def _begin_backward(self, *, is_last: bool) -> None:
        raise NotImplementedError  # no backward runs here

    def _sum_gradients(self) -> dict[str, Tensor | float]:
        report = self._exchange.finish()
        return {
            "bytes_sent": float(report.bytes_sent),
            "workers_used": float(report.workers_used),
            **report.facts,
        }

    def _clear_gradients(self) -> None:
        self._exchange.clear()

    def close(self) -> None:
        """End the workers' rounds."""
        self._exchange.close()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """See the base class."""
        self._share_weights()
        with super().evaluating() as model:
            yield model

    def _share_weights(self) -> None:
        """Give every shard the tensors of the others."""
        for owner, flat in enumerate(self._flat_shards.weights):
            self._collectives.broadcast_from_(flat, owner)

    def pieces(self) -> dict[str, Piece]:
        """See the base class; every shard holds the weights then, and names the optimizer state of the others too."""
        self._share_weights()
        pieces = super().pieces()
        if self._collectives.world_size == 1:
            return pieces
        state = {name: piece for name, piece in pieces.items() if name.startswith(OPTIMIZER)}
        known = self._collectives.all_gather_object({name: (p.shape, p.data.dtype) for name, p in state.items()})
        for name, (shape, dtype) in ((name, what) for part in known for name, what in part.items()):
            if name in state:
                pieces[name] = replace(state[name], on_all_ranks=False)
            else:
                pieces[name] = Piece(data=torch.empty(0, dtype=dtype), start=0, shape=shape)
        return pieces


def _merged(reports: list[dict[str, Tensor | float]]) -> dict[str, Tensor | float]:
    """One report of all shards': every layer's own numbers, and extremes; medians of parts do not make a median."""
    merged = {name: value for report in reversed(reports) for name, value in report.items()}
    for name in [name for name in merged if "/" in name]:
        values = [float(report[name]) for report in reports if name in report]
        if name.endswith("/median"):
            del merged[name]
        elif name.endswith(("/min", "/max")):
            merged[name] = (min if name.endswith("/min") else max)(values)
    return merged


def _keep_only(optimizer: torch.optim.Optimizer, own: set[int]) -> None:
    """Leave the optimizer only a shard's own tensors: it was made for the whole model, so that its options fit it."""
    for group in optimizer.param_groups:
        kept = [id(p) in own for p in group["params"]]
        for key in ("params", "param_names"):
            if key in group:
                group[key] = [value for value, is_kept in zip(group[key], kept, strict=True) if is_kept]
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
    for tensor in [tensor for tensor in optimizer.state if id(tensor) not in own]:
        del optimizer.state[tensor]
