"""Adaptive braking: gradients that point along the momentum are shrunk, those against it are lengthened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from orchestrator.core.collectives import Collectives
from orchestrator.core.reduction import Reduction, reduction_of_dtensors
from orchestrator.core.staleness import Staleness
from orchestrator.core.sums import sum_of_products, sum_of_squares
from orchestrator.spec.methods.gradient_modulators import AdaptiveBraking

EPS = 1e-12
"""Least product of two norms that is divided by."""


def cosines(sums: Tensor) -> Tensor:
    """The cosine of each of several scopes: c = <g, v> / max(|g| |v|, eps).

    Args:
        sums: <g, v>, |g|^2, |v|^2 of each, [scopes, 3].

    Returns:
        [scopes]; 0 where either is zero.
    """
    products, squares_g, squares_v = sums.unbind(1)
    found: Tensor = products / (squares_g.sqrt() * squares_v.sqrt()).clamp_min(EPS)
    return found


def braked(gradient: Tensor, weights: Tensor, factor: Tensor, *, weight_decay: float) -> None:
    """Turn g into what makes g + decay w, as the optimizer adds it up, ``factor`` times what it was; in place.

    Args:
        gradient: this rank's elements.
        weights: the parameter's elements, as many.
        factor: 1 - rho c, a scalar.
        weight_decay: that the optimizer adds to the gradient; 0 where it is decoupled.
    """
    factor = factor.to(gradient.dtype)
    gradient.mul_(factor)
    if weight_decay:
        gradient.add_(weights * ((factor - 1) * weight_decay))


@dataclass(frozen=True, slots=True)
class _Scope:
    """This rank's elements of one parameter."""

    gradient: Tensor
    velocity: Tensor | None
    """None before the first step."""
    weights: Tensor
    weight_decay: float

    def sums(self) -> Tensor:
        """<g, v>, |g|^2, |v|^2 with the decay in g, [3] in float64."""
        g, v = self.gradient, self.velocity
        if v is None:
            return torch.zeros(3, dtype=torch.float64, device=g.device)
        if self.weight_decay:
            g = g.add(self.weights, alpha=self.weight_decay)
        return torch.stack([sum_of_products(g, v), sum_of_squares(g), sum_of_squares(v)])


class Braking:
    """Adaptive braking (arXiv 2007.01397) before an optimizer with momentum. Satisfies ``core.protocols.Modulator``.

    Before each step that is really taken, with v the momentum as it is then::

        c = <g, v> / (|g| |v|)            of each tensor, or of the whole model
        g <- (1 - rho c) g
        v <- m v + g ; w <- w - lr v      the optimizer's own step, of torch.optim.SGD

    g includes weight decay where the optimizer adds it to the gradient (torch.optim.SGD); v is ``momentum_buffer``,
    or ``exp_avg`` of Adam's relatives, of which the paper's abstract says nothing. Without a v, c is 0. Nothing is
    kept beyond the optimizer's own state. Parameters that FSDP2 divides take one message for all sums.

    Args:
        config: ``rho`` >= 0, ``scope``, ``min_delay`` >= 0.

    Differences from the paper: its body could not be had, so the granularity, the default of ``rho`` and the part of
    weight decay are our own choices, and ``min_delay`` is an addition.
    """

    def __init__(self, config: AdaptiveBraking) -> None:
        self._config = config
        self._cosine: Tensor | None = None
        self._reductions: dict[tuple[int, ...], Reduction] = {}

    def attach(self, optimizer: torch.optim.Optimizer, staleness: Staleness, collectives: Collectives | None) -> None:
        """See ``core.protocols.Modulator``."""
        self._staleness = staleness
        self._collectives = collectives
        optimizer.register_step_pre_hook(self._before_step)

    def report(self) -> dict[str, Tensor]:
        """``braking_cosine``: the mean cosine over the tensors, or that of the model."""
        return {} if self._cosine is None else {"braking_cosine": self._cosine}

    @property
    def rho(self) -> float:
        """The strength of the next step."""
        config, staleness = self._config, self._staleness
        if not staleness.is_asynchronous or config.min_delay == 0:
            return config.rho
        return config.rho * min(1.0, staleness.mean / config.min_delay)

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        scopes = list(_scopes(optimizer))
        tensors = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        key = tuple(map(id, tensors))
        if key not in self._reductions:
            self._reductions[key] = reduction_of_dtensors(tensors)
        sums = self._reductions[key].whole(torch.stack([scope.sums() for scope in scopes]))
        if self._config.scope == "model":
            sums = self._over_shards(sums.sum(dim=0)).unsqueeze(0)
        found = cosines(sums)
        self._cosine = self._mean(found)
        rho = self.rho
        if rho == 0:
            return
        factors = (1 - rho * found).expand(len(scopes))
        for scope, factor in zip(scopes, factors, strict=True):
            braked(scope.gradient, scope.weights, factor, weight_decay=scope.weight_decay)

    def _mean(self, found: Tensor) -> Tensor:
        if self._config.scope == "model":
            return found[0]
        sums = self._over_shards(torch.stack([found.sum(), torch.ones_like(found).sum()]))
        mean: Tensor = sums[0] / sums[1]
        return mean

    def _over_shards(self, sums: Tensor) -> Tensor:
        if self._collectives is not None:
            self._collectives.sum_(sums)
        return sums


def _scopes(optimizer: torch.optim.Optimizer) -> Iterator[_Scope]:
    is_coupled = isinstance(optimizer, torch.optim.SGD)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = optimizer.state.get(parameter, {})
            velocity = state.get("momentum_buffer", state.get("exp_avg"))
            yield _Scope(
                gradient=_local(parameter.grad),
                velocity=None if velocity is None else _local(velocity),
                weights=_local(parameter),
                weight_decay=float(group["weight_decay"]) if is_coupled else 0.0,
            )


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor.detach()
