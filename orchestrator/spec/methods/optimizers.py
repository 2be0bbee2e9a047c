"""Optimizers that a spec may name, with their arguments and defaults."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from orchestrator.spec.section import Betas, Method, NonNegativeFloat, PositiveFloat


class OptimizerBase(Method):
    """What every optimizer takes."""

    lr: PositiveFloat = 1e-3
    """Learning rate before the scaling rule and the schedule."""
    decay_one_dimensional: bool = False
    """Whether tensors of at most one dimension (biases, norm gains) take part in weight decay."""


class Sgd(OptimizerBase):
    """Stochastic gradient descent: torch.optim.SGD, its arguments and defaults."""

    name: Literal["sgd"]
    momentum: NonNegativeFloat = 0.0
    """Momentum factor; 0 is plain gradient descent."""
    dampening: float = 0.0
    """Dampening of the momentum; must be 0 with nesterov."""
    nesterov: bool = False
    """Nesterov momentum; needs momentum > 0."""
    weight_decay: NonNegativeFloat = 0.0
    """L2 penalty added to the gradient."""


class AdamW(OptimizerBase):
    """Adam with decoupled weight decay: torch.optim.AdamW, its arguments and defaults."""

    name: Literal["adamw"]
    betas: Betas = (0.9, 0.999)
    """Decay rates of the first and the second moment."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay."""
    amsgrad: bool = False
    """Use the maximum of past second moments."""


class Lamb(OptimizerBase):
    """LAMB as in the paper (arXiv 1904.00962v5, Algorithm 2); tensors without weight decay are not adapted."""

    requires: ClassVar[frozenset[str]] = frozenset({"whole_tensors"})

    name: Literal["lamb"]
    betas: Betas = (0.9, 0.999)
    """Decay rates of the first and the second moment."""
    eps: PositiveFloat = 1e-6
    """Added outside the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.01
    """Decay inside the normalized direction; 0 also turns the layer-wise adaptation off."""


OptimizerConfig = Annotated[Sgd | AdamW | Lamb, Field(discriminator="name")]
