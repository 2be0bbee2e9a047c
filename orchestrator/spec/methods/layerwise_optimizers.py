"""Further optimizers that look at a layer as a whole, with their arguments and defaults."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from orchestrator.spec.methods.engines import WHOLE_STEP
from orchestrator.spec.methods.optimizers import AdaptedGroup, LayerwiseBase, OptimizerBase
from orchestrator.spec.section import Betas, DecayRate, NonNegativeFloat, PositiveFloat, list_to_tuple


class Lars(LayerwiseBase):
    """LARS, layer-wise rates for momentum SGD (arXiv 1708.03888)."""

    name: Literal["lars"]
    momentum: DecayRate = 0.9
    """Momentum factor."""
    momentum_style: Literal["lr_inside", "lr_outside", "ema_normalized"] = "lr_inside"
    """lr_inside: the momentum sums steps, rate included (paper); lr_outside: it sums adapted gradients (timm, LARC);
    ema_normalized: it averages gradients and is itself normalized (the LAMB paper's LARS)."""
    trust_coefficient: PositiveFloat = 0.001
    """Factor of the trust ratio; ema_normalized has none."""
    eps: NonNegativeFloat = 0.0
    """Added to the denominator of the trust ratio; 1e-8 is timm's."""
    weight_decay: NonNegativeFloat = 0.0
    """L2 penalty, inside the ratio's denominator and the adapted gradient."""
    adapt: Literal["decayed", "all"] = "decayed"
    """Whose steps are adapted to the layer's norm: those of parameters with weight decay, or all. Others take the
    steps of momentum SGD."""


class Lans(LayerwiseBase):
    """LANS, LAMB with normalized gradients and Nesterov's step (arXiv 2006.13484)."""

    name: Literal["lans"]
    betas: Betas = (0.9, 0.999)
    """Decay rates of the first and the second moment."""
    eps: PositiveFloat = 1e-6
    """Added to the root of the second moment and to the norm of the gradient."""
    weight_decay: NonNegativeFloat = 0.01
    """Decay inside the normalized directions."""
    adapt: Literal["decayed", "all"] = "decayed"
    """Whose steps are adapted to the layer's norm: those of parameters with weight decay, or all."""


class NovoGrad(OptimizerBase):
    """NovoGrad, Adam with one second moment for each layer (arXiv 1905.11286)."""

    name: Literal["novograd"]
    betas: Betas = (0.95, 0.98)
    """Decay rates of the first moment and of the layer's squared gradient norm."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.0
    """Decay added to the normalized gradient."""
    grad_averaging: bool = False
    """Whether the normalized gradient enters the first moment with the factor 1 - beta1."""


class Lawn(OptimizerBase):
    """LAWN, Adam on weights whose norms are held after a free start (arXiv 2108.05839; our reading, see its card)."""

    name: Literal["lawn"]
    param_groups: Annotated[tuple[AdaptedGroup, ...], BeforeValidator(list_to_tuple)] = ()
    """Parameters with a learning rate of their own; `adapt` says whether their norms are held."""
    free_steps: Annotated[int, Field(ge=0)]
    """Steps of plain Adam before the norms are held where they are."""
    constrain: Literal["matrices", "all"] = "matrices"
    """Whose norms are held: those of parameters with two dimensions or more, or all."""
    reset_moments: bool = False
    """Whether both moments start anew when the norms are first held."""
    betas: Betas = (0.9, 0.999)
    """Decay rates of the first and the second moment."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    weight_decay: Annotated[float, Field(ge=0, le=0)] = 0.0
    """The method has no weight decay: only 0 is accepted."""
    decay_one_dimensional: Literal[False] = False
    """The method has no weight decay: only false is accepted."""

    @model_validator(mode="after")
    def _no_decay(self) -> Self:
        if any(group.weight_decay for group in self.param_groups):
            raise ValueError("takes no weight_decay in param_groups: the method has none")
        return self


class Swats(OptimizerBase):
    """SWATS, Adam until the rate that momentum SGD would need has settled, then momentum SGD (arXiv 1712.07628)."""

    name: Literal["swats"]
    betas: Betas = (0.9, 0.999)
    """Decay rates of the first moment, which is also SGD's momentum, and of the second moment and SGD's rate."""
    eps: PositiveFloat = 1e-9
    """Added to the root of the second moment."""
    switch_tolerance: PositiveFloat = 1e-5
    """A tensor switches when SGD's rate of one step differs from the average by less than this share of it."""
    decoupled_weight_decay: bool = False
    """Whether the decay is AdamW's; else it is added to the gradient."""


class AdagradNorm(OptimizerBase):
    """AdaGrad-Norm, SGD whose one rate falls with the sum of all squared gradient norms (arXiv 1806.01811).

    The norm is over all parameters together, so the engine must step on them at once.
    """

    requires: ClassVar[frozenset[str]] = frozenset({WHOLE_STEP})

    name: Literal["adagrad_norm"]
    lr: PositiveFloat = 1e-2
    """Learning rate before the scaling rule and the schedule."""
    initial_accumulator: NonNegativeFloat = 0.0
    """What the root of the sum starts from, b_0 in the papers; at 0 the first step has the length of the rate."""
    eps: NonNegativeFloat = 1e-10
    """Added to the root of the sum."""


LayerwiseConfig = Lars | Lans | NovoGrad | Lawn | Swats | AdagradNorm
