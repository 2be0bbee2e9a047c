"""Optimizers that know more of the loss than its gradient: its value, or how it bends."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from orchestrator.spec.methods.engines import HESSIAN_PRODUCTS, STEP_LOSS
from orchestrator.spec.methods.optimizers import OptimizerBase
from orchestrator.spec.section import Betas, DecayRate, PositiveFloat


class Momo(OptimizerBase):
    """MoMo, momentum SGD whose rate follows from a model of the loss (arXiv 2305.07583).

    Its sums are over all parameters and it takes the loss of the step, so the engine must hand both over.
    """

    requires: ClassVar[frozenset[str]] = frozenset({STEP_LOSS})

    name: Literal["momo"]
    lr: PositiveFloat = 1.0
    """Largest learning rate, before the scaling rule and the schedule."""
    beta: DecayRate = 0.9
    """Decay rate of the averaged gradient and of the averaged loss."""
    lower_bound: float = 0.0
    """A value that the loss does not fall below."""
    bias_correction: bool = False
    """Whether the averages start from 0 and their bias is corrected; else they start from the first gradient."""


class AdaHessian(OptimizerBase):
    """Adam with the diagonal of the Hessian for squared gradients (arXiv 2006.00719): pytorch_optimizer.AdaHessian.

    The diagonal is estimated from products of the Hessian with a vector, so the engine must differentiate twice.
    """

    requires: ClassVar[frozenset[str]] = frozenset({HESSIAN_PRODUCTS})

    name: Literal["adahessian"]
    lr: PositiveFloat = 0.1
    """Learning rate before the scaling rule and the schedule."""
    betas: Betas = (0.9, 0.999)
    """Decay rates of the gradient and of the squared diagonal."""
    eps: PositiveFloat = 1e-16
    """Added to the denominator."""
    hessian_power: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Power of the diagonal that a step is divided by: 1 is Newton's, less is closer to momentum SGD."""
    decoupled_weight_decay: bool = True
    """Whether the decay is AdamW's; else it is added to the gradient."""


LossConfig = Momo | AdaHessian
