"""Adam's two moments, which LAMB, LANS and LAWN keep as well."""

from __future__ import annotations

from torch import Tensor


def move_moments_(m: Tensor, v: Tensor, g: Tensor, *, beta1: float, beta2: float) -> None:
    """Let the running means of g and of g^2 take a gradient; tensors of one shape."""
    m.lerp_(g, 1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)


def denominator(v: Tensor, correction: float, eps: float) -> Tensor:
    """What a direction is divided by, sqrt(v / correction) + eps, a new tensor; ``correction`` is 1 - beta2^t, or 1."""
    return (v / correction).sqrt_().add_(eps)
