"""Engines whose optimizer works on the model's own parameters, whole or DTensors."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.protocols import LossFunction, LossOptimizer, MicroBatch
from orchestrator.core.shards import Piece, SavedState
from orchestrator.core.state_naming import (
    create_optimizer_state,
    has_optimizer_state,
    model_pieces,
    optimizer_pieces,
)
from orchestrator.engines.base import EngineBase, choices_of, report_of, set_learning_rate
from orchestrator.engines.clipping import Clipping
from orchestrator.engines.norms import squared_norms_of_sum
from orchestrator.engines.precision import Precision
from orchestrator.engines.rewind import remember


class NativeEngine(EngineBase):
    """The step on an ordinary torch optimizer: sum, clip, update.

    Args:
        model: set up.
        optimizer: over the model's trainable parameters.
        collectives: the job's collectives.
        precision: autocast and loss scaling.
        clipping: of the gradient's global norm.
        called: what a recipe calls as its model; None is ``model``.
        groups_of_workers: see the base class.
        module_of: see the base class.
    """

    _loss_factor: float = 1.0
    """What the losses that are differentiated are multiplied by and sums over ranks divided by."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        collectives: Collectives,
        precision: Precision,
        *,
        clipping: Clipping,
        called: nn.Module | None = None,
        groups_of_workers: bool = False,
        module_of: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(
            model, collectives, precision, called=called, groups_of_workers=groups_of_workers, module_of=module_of
        )
        self.optimizer = optimizer
        self._clipping = clipping
        self._by_name = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._parameters = list(self._by_name.values())
        self._norms.metric = self._in_metric
        self._takes_loss = isinstance(optimizer, LossOptimizer)
        self._losses: list[Tensor] = []

    def forward_backward(self, micro: MicroBatch, loss: LossFunction) -> dict[str, Tensor]:
        """See the base class."""
        self._begin_backward(is_last=micro.is_last)
        value, weighted = self._forward(micro, loss)
        self._backward(self._precision.scaler.scale(value))
        self._norms.count(micro.weight)
        if self._takes_loss:
            self._losses.append(weighted["loss"])
        return weighted

    def step(self, lr: float) -> dict[str, Tensor | float]:
        """See the base class."""
        report = self._sum_gradients()
        if self._takes_loss:
            self._hand_over_loss()
        scaler = self._precision.scaler
        self._finish_measuring()
        set_learning_rate(self.optimizer, lr)
        if self._clipping.is_on:
            scaler.unscale_(self.optimizer)
            report["grad_norm"] = self._clipping.clip_(self._parameters)
        scaler.step(self.optimizer)
        scaler.update()
        if scaler.is_enabled():
            report["loss_scale"] = scaler.get_scale()
        report.update(report_of(self.optimizer))
        self._clear_gradients()
        return report

    def _finish_measuring(self) -> None:
        """Before gradients are unscaled and clipped."""
        parts, scale = [], 1.0
        if self._norms.is_on:
            gradients = self._measured_gradients()
            parts = squared_norms_of_sum(gradients, self._collectives.world_size, self._norms.num_modules)
            scale = self._precision.scaler.get_scale() if self._precision.scaler.is_enabled() else 1.0
        self._norms.finish(parts, group_scale=scale * self._loss_factor, sum_scale=scale)

    def _in_metric(self, name: str, gradient: Tensor) -> Tensor:
        """A whole gradient of a parameter divided by sqrt(v) + eps, with Adam's v, which the first step has not."""
        second_moment = self.optimizer.state.get(self._by_name[name], {}).get("exp_avg_sq")
        if second_moment is None:
            return gradient
        divided: Tensor = gradient / (second_moment.view_as(gradient).sqrt() + self.optimizer.defaults["eps"])
        return divided

    def _measured_gradients(self) -> Iterator[tuple[int, Tensor | None]]:
        for name, parameter in self._by_name.items():
            gradient = parameter.grad
            if gradient is not None and self._norms.is_preconditioned:
                gradient = self._in_metric(name, gradient)
            yield self._norms.module(name), gradient

    def _hand_over_loss(self) -> None:
        """Tell the optimizer the mean loss of the step, which one number from each rank adds up to."""
        assert isinstance(self.optimizer, LossOptimizer)
        total = torch.stack(self._losses).sum(dtype=torch.float64)
        message = total.to(self._collectives.device)
        self._collectives.sum_(message)
        self.optimizer.take_loss(message.to(total.device))
        self._losses.clear()

    def _backward(self, value: Tensor) -> None:
        value.backward()

    @abstractmethod
    def _begin_backward(self, *, is_last: bool) -> None:
        """Called before each micro-batch; gradients are summed over ranks with or after the last."""

    @abstractmethod
    def _sum_gradients(self) -> dict[str, Tensor | float]:
        """Wait until every gradient is the sum over ranks; returns what it cost."""

    @abstractmethod
    def _clear_gradients(self) -> None:
        """Forget the gradients of the step that was taken."""

    def pieces(self) -> dict[str, Piece]:
        """See the base class."""
        self._share_buffers()
        return {**model_pieces(self.model), **optimizer_pieces(self.model, self.optimizer)}

    def load(self, saved: SavedState) -> None:
        """See the base class."""
        if has_optimizer_state(saved.names):
            create_optimizer_state(self.optimizer)
        saved.read(self.pieces())

    def remember(self) -> Callable[[], None]:
        """See ``core.protocols.RewindingEngine``."""
        put_back = remember([*self._parameters, *self.model.buffers()], self.optimizer)
        numbers = copy.deepcopy(self.numbers())

        def put_all_back() -> None:
            put_back()
            self.load_numbers(copy.deepcopy(numbers))

        return put_all_back

    def choices(self) -> dict[str, str]:
        """See the base class."""
        return choices_of(self.optimizer)

    def numbers(self) -> dict[str, Any]:
        """See the base class."""
        return {
            "scaler": self._precision.scaler.state_dict(),
            "clipping": self._clipping.state_dict(),
            "measured": self._norms.state_dict(),
        }

    def load_numbers(self, state: Mapping[str, Any]) -> None:
        """See the base class."""
        if state["scaler"]:
            self._precision.scaler.load_state_dict(dict(state["scaler"]))
        self._clipping.load_state_dict(state["clipping"])
        self._norms.load_state_dict(state.get("measured", {}))
