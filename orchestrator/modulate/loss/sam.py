"""Sharpness-aware minimization: gradients are taken where the loss nearby is largest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from orchestrator.core.batches import cut
from orchestrator.core.protocols import LossFunction
from orchestrator.core.seeding import Draws
from orchestrator.modulate.substitute import call_with
from orchestrator.spec.methods.loss_modulators import Sam

Gradients = Sequence[Tensor | None]
"""One for each trainable parameter; None where the loss does not depend on it."""


def displaced(weights: Sequence[Tensor], gradients: Gradients, rho: float) -> list[Tensor]:
    """The weights w + rho g / |g| as leaves of their own, with |g| over all tensors; where g is zero, w.

    Args:
        weights: w, one tensor for each of ``gradients``.
        gradients: g.
        rho: length of the way.
    """
    known = [g for g in gradients if g is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(known)))
    factor = torch.where(norm > 0, rho / norm, 0.0)
    moved = [w.detach() if g is None else w.detach() + factor * g for w, g in zip(weights, gradients, strict=True)]
    return [w.requires_grad_() for w in moved]


class SharpnessAwareLoss:
    """Sharpness-aware minimization (SAM, arXiv 2010.01412). Satisfies ``core.protocols.LossModulator``.

    For every group of at most m samples of a micro-batch::

        g   = grad L(w)
        eps = rho g / |g|
        g_SAM = grad L at w + eps

    The micro-batch's gradient is the mean of its groups' g_SAM, weighted by their samples. No weight is moved: in the
    second pass others stand in for them, so nothing has to be put back. Neither pass leaves a ``.grad`` or sends
    anything; what the engine differentiates is a value that knows its gradient, so one group's graph is alive at a
    time. Both passes draw the same random numbers and start from the same buffers, and the first one moves those
    (running statistics). The loss and metrics that are reported are those at w.

    Args:
        config: ``rho`` >= 0; ``m`` in samples, None takes each micro-batch as one group.

    Differences from the paper: weight decay is the optimizer's, so it is in the step but not in eps.
    """

    def __init__(self, config: Sam) -> None:
        self._rho = config.rho
        self._m = config.m

    def around(self, loss: LossFunction) -> LossFunction:
        """See ``core.protocols.LossModulator``."""

        def sharpness_aware(model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
            weights = [p for p in model.parameters() if p.requires_grad]
            sums: dict[str, Tensor] = {}
            gradients: list[Tensor | None] = [None] * len(weights)
            for group, share in [(batch, 1.0)] if self._m is None else cut(batch, self._m):
                told, found = self._passes(loss, model, group)
                for name, number in told.items():
                    sums[name] = sums[name] + share * number if name in sums else share * number
                gradients = [_plus(a, share, b) for a, b in zip(gradients, found, strict=True)]
            value: Tensor = _WithGradient.apply(sums.pop("loss"), gradients, *weights)  # type: ignore[no-untyped-call]
            return value, sums

        return sharpness_aware

    def _passes(self, loss: LossFunction, model: nn.Module, group: Any) -> tuple[dict[str, Tensor], Gradients]:
        """Loss and metrics of a group at w, detached, and its gradient at w + eps."""
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        device = next(iter(named.values())).device
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        draws = Draws(device)
        value, metrics = loss(model, group)
        told = {"loss": value.detach(), **{name: metric.detach() for name, metric in metrics.items()}}
        first = _gradients(value, list(named.values()))
        others = dict(zip(named, displaced(list(named.values()), first, self._rho), strict=True))
        with draws.again():
            second = call_with({**others, **buffers}, _gradients_at, model, loss, group, list(others.values()))
        # Autocast keeps the weights that it has cast until its outermost block ends: those of every group, else.
        torch.clear_autocast_cache()
        return told, second


def _gradients_at(model: nn.Module, loss: LossFunction, group: Any, weights: Sequence[Tensor]) -> Gradients:
    value, _ = loss(model, group)
    return _gradients(value, weights)


def _gradients(value: Tensor, weights: Sequence[Tensor]) -> Gradients:
    with torch.autocast(value.device.type, enabled=False):
        return torch.autograd.grad(value, weights, allow_unused=True)


def _plus(total: Tensor | None, share: float, found: Tensor | None) -> Tensor | None:
    if found is None:
        return total
    return found * share if total is None else total.add_(found, alpha=share)


class _WithGradient(torch.autograd.Function):
    """A value whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Gradients, *weights: Tensor) -> Tensor:
        # Not among what is saved for the backward: others may change how that is kept.
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(None if g is None else g * factor for g in ctx.gradients)
