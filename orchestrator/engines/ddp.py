"""Data parallelism with a whole replica on every rank."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from orchestrator.core.collectives import Collectives
from orchestrator.core.protocols import Exchange, LossFunction, MicroBatch
from orchestrator.core.state_naming import load_optimizer_tensors, optimizer_tensors
from orchestrator.engines.precision import Precision


class DdpEngine:
    """Owns the replica, its optimizer and the step on them; the exchange owns what crosses ranks.

    Args:
        model: already on the device; rank 0's weights and buffers are given to all ranks.
        optimizer: over the model's parameters.
        exchange: attached here to the trainable parameters.
        collectives: the job's collectives.
        precision: autocast and loss scaling.
        clip_grad_norm: largest global L2 norm of the gradient; None is no clipping.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        exchange: Exchange,
        collectives: Collectives,
        *,
        precision: Precision,
        clip_grad_norm: float | None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self._exchange = exchange
        self._collectives = collectives
        self._precision = precision
        self._clip_grad_norm = clip_grad_norm
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        collectives.broadcast_([*model.parameters(), *model.buffers()])
        exchange.attach(self._parameters)
        # Running statistics are only written while training: sharing them at each step would be a message for nothing.
        self._read_in_training = [
            buffer
            for module in model.modules()
            if not isinstance(module, _NormBase)
            for buffer in module.buffers(False)
        ]
        model.train()

    def begin_step(self) -> None:
        """Give all ranks rank 0's buffers, as torch's data parallelism does, where a training forward reads them."""
        self._collectives.broadcast_(self._read_in_training)

    def _share_buffers(self) -> None:
        """Give all ranks rank 0's buffers, running statistics included."""
        self._collectives.broadcast_(list(self.model.buffers()))

    def forward_backward(self, micro: MicroBatch, loss: LossFunction) -> dict[str, Tensor]:
        """Add one micro-batch to the step's gradient.

        The mean loss of the micro-batch counts with its share of the global batch and gradients are summed over
        ranks, so slices and micro-batches of different sizes give exactly the gradient of the global mean.

        Returns:
            ``loss`` and the recipe's metrics, detached, weighted by the same share.
        """
        self._exchange.begin(is_last=micro.is_last)
        with self._precision.forward():
            value, metrics = loss(self.model, micro.batch)
        self._precision.scaler.scale(value * micro.weight).backward()
        weighted = {"loss": value, **metrics}
        return {name: metric.detach().float() * micro.weight for name, metric in weighted.items()}

    def step(self, lr: float) -> dict[str, Tensor | float]:
        """Exchange gradients and update the weights at the learning rate ``lr``.

        Returns:
            What only the engine knows: ``grad_norm`` before clipping, ``loss_scale``, ``bytes_sent``.
        """
        report: dict[str, Tensor | float] = {"bytes_sent": float(self._exchange.finish().bytes_sent)}
        scaler = self._precision.scaler
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self._clip_grad_norm is not None:
            scaler.unscale_(self.optimizer)
            report["grad_norm"] = nn.utils.clip_grad_norm_(self._parameters, self._clip_grad_norm)
        scaler.step(self.optimizer)
        scaler.update()
        if scaler.is_enabled():
            report["loss_scale"] = scaler.get_scale()
        self._exchange.clear()
        return report

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """The model in evaluation mode, without gradients, with rank 0's buffers everywhere."""
        self._share_buffers()
        self.model.eval()
        with torch.no_grad(), self._precision.forward():
            yield self.model
        self.model.train()

    def state_tensors(self) -> dict[str, Tensor]:
        """Model and optimizer tensors under engine-independent names; equal on all ranks."""
        self._share_buffers()
        model = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        return {**model, **optimizer_tensors(self.model, self.optimizer)}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore ``state_tensors``; strict: a missing or an unexpected name is an error."""
        prefix = "model."
        self.model.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        load_optimizer_tensors(self.model, self.optimizer, tensors)

    def scaler_state(self) -> dict[str, Any]:
        """State of the dynamic loss scale, JSON values; empty without one."""
        state: dict[str, Any] = self._precision.scaler.state_dict()
        return state

    def load_scaler_state(self, state: Mapping[str, Any]) -> None:
        """Restore ``scaler_state``."""
        if state:
            self._precision.scaler.load_state_dict(dict(state))

    def full_weights(self) -> dict[str, Tensor]:
        """The recipe's own state_dict, on the CPU, contiguous, tensors that share memory separated; a collective."""
        self._share_buffers()
        return {name: t.detach().cpu().clone().contiguous() for name, t in self.model.state_dict().items()}
