"""What a LAMB step computes, whatever runs it: the reference that every kernel must agree with.

A step has two phases, because the trust ratio needs norms of all of a parameter::

    measure   m, v move; sums of p^2 and u^2 over the elements that this rank holds
    apply     p moves by lr x ratio x u, with u computed again from m and v: cheaper than a buffer that keeps it

Between them one all-reduce adds the sums over ranks. Where nothing is divided, `update` does both for one tensor after
the other, while it is in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from orchestrator.core.errors import OrchestratorError
from orchestrator.core.sums import sum_of_squares
from orchestrator.optim.moments import denominator, move_moments_


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """The numbers of one tensor's step."""

    lr: float
    """eta, every factor outside the trust ratio included."""
    beta1: float
    beta2: float
    correction1: float
    """What m is divided by: 1 - beta1^t, or 1."""
    correction2: float
    """What v is divided by: 1 - beta2^t, or 1."""
    eps: float
    """Added outside the root."""
    weight_decay: float
    """lambda, inside the direction."""
    adapt: bool
    """Whether the trust ratio applies; without it the update is Adam's."""
    min_norm: float
    """Bounds of phi, the clamp of ||p||; 0 and inf leave it alone."""
    max_norm: float
    min_ratio: float
    """Bounds of the trust ratio; 0 and inf leave it alone."""
    max_ratio: float


COLUMNS = tuple(field.name for field in fields(Coefficients))


@dataclass(frozen=True, slots=True)
class LambBatch:
    """The tensors of one call: what this rank holds of n parameters, element i of each list of the same shape.

    ``g`` is read only. Tensors may be empty; all lie on one device.
    """

    p: Sequence[Tensor]
    g: Sequence[Tensor]
    m: Sequence[Tensor]
    v: Sequence[Tensor]
    coefficients: Sequence[Coefficients]


class UnavailableError(OrchestratorError):
    """A way to run the work cannot be had here; the message says why."""


class LambKernels(Protocol):
    """One way to run the work. No method waits for the device."""

    title: str
    """For people: what runs, and on what."""

    def measure(self, batch: LambBatch) -> Tensor:
        """Move m and v; returns the sums of p^2 and of u^2, [n, 2] in float64 on the tensors' device."""

    def apply(self, batch: LambBatch, ratios: Tensor) -> None:
        """Move p by the trust ratios, [n] in float64; 1 for what is not adapted."""

    def update(self, batch: LambBatch) -> Tensor:
        """Both for tensors that no rank shares; returns the sums, [n, 2]."""


def lie_alike(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors of one shape have their elements in the same order in memory, without gaps."""
    order = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensors[0].dim(), torch.contiguous_format)
    return any(all(t.is_contiguous(memory_format=form) for t in tensors) for form in (torch.contiguous_format, order))


def trust_ratios(sums: Tensor, coefficients: Sequence[Coefficients]) -> Tensor:
    """phi(||p||) / ||u|| within its bounds, 1 where a norm is 0 or the tensor is not adapted.

    Args:
        sums: of p^2 and of u^2 over whole parameters, [n, 2].
        coefficients: of the n parameters.

    Returns:
        [n] in float64, on the device of ``sums``.
    """
    bounds = torch.tensor(
        [(c.adapt, c.min_norm, c.max_norm, c.min_ratio, c.max_ratio) for c in coefficients], dtype=torch.float64
    ).to(sums.device, non_blocking=True)
    adapt, min_norm, max_norm, min_ratio, max_ratio = bounds.unbind(1)
    norm, length = sums.sqrt().unbind(1)
    ratios = (norm.clamp(min_norm, max_norm) / length).clamp(min_ratio, max_ratio)
    # A norm that is not a number must reach the weights, where the job notices: a comparison with it is false.
    undefined = (norm == 0) | (length == 0) | (adapt == 0)
    return torch.where(undefined, torch.ones_like(ratios), ratios)


class EagerLamb:
    """Tensor after tensor in torch's own operations, on any device and in any type."""

    title = "eager"

    def measure(self, batch: LambBatch) -> Tensor:
        """See the protocol."""
        rows = []
        for p, g, m, v, c in zip(batch.p, batch.g, batch.m, batch.v, batch.coefficients, strict=True):
            move_moments_(m, v, g, beta1=c.beta1, beta2=c.beta2)
            rows.append(_sums(p, direction(p, m, v, c)))
        return torch.stack(rows)

    def apply(self, batch: LambBatch, ratios: Tensor) -> None:
        """See the protocol."""
        for p, m, v, c, ratio in zip(batch.p, batch.m, batch.v, batch.coefficients, ratios, strict=True):
            p.sub_(direction(p, m, v, c).mul_(ratio), alpha=c.lr)

    def update(self, batch: LambBatch) -> Tensor:
        """See the protocol."""
        rows = []
        for p, g, m, v, c in zip(batch.p, batch.g, batch.m, batch.v, batch.coefficients, strict=True):
            move_moments_(m, v, g, beta1=c.beta1, beta2=c.beta2)
            u = direction(p, m, v, c)
            rows.append(_sums(p, u))
            p.sub_(u.mul_(trust_ratios(rows[-1][None], [c])[0]), alpha=c.lr)
        return torch.stack(rows)


def _sums(p: Tensor, u: Tensor) -> Tensor:
    return torch.stack([sum_of_squares(p), sum_of_squares(u)])


def direction(p: Tensor, m: Tensor, v: Tensor, c: Coefficients) -> Tensor:
    """U = (m / correction1) / (sqrt(v / correction2) + eps) + lambda p, a new tensor."""
    root = denominator(v, c.correction2, c.eps)
    return (m / c.correction1).div_(root).add_(p, alpha=c.weight_decay)
