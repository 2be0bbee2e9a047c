"""How sure a gradient is of each of its elements: of the one that the next step takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True)
class SignalToNoise:
    """Written by the engine before each step; modulators read it in the step."""

    ratios: dict[Tensor, Tensor] = field(default_factory=dict)
    """Of every parameter, elementwise: gbar^2 / sigma^2, where sigma^2 is the variance of the groups' gradients around
    the step's, before clipping. Empty where a step had fewer than two groups."""
