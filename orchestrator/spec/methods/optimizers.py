"""Optimizers that a spec may name, with their arguments and defaults."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from orchestrator.spec.section import (
    Betas,
    Method,
    NonNegativeFloat,
    Patterns,
    PositiveFloat,
    PositiveInt,
    Section,
    list_to_tuple,
)


class ParameterGroup(Section):
    """Parameters that are treated in another way than the rest."""

    match: Patterns
    """Parameters by their dotted name, with * for one part, or by a module that they belong to: its class or its
    dotted name. The first group that matches a parameter is its group."""
    weight_decay: NonNegativeFloat | None = None
    """Weight decay of these parameters; null is what they would have without the group."""
    lr_multiplier: NonNegativeFloat = 1.0
    """Factor on their learning rate; 0 keeps them as they are."""


class OptimizerBase(Method):
    """What every optimizer takes."""

    lr: PositiveFloat = 1e-3
    """Learning rate before the scaling rule and the schedule."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay."""
    decay_one_dimensional: bool = False
    """Whether tensors of at most one dimension (biases, norm gains) take part in weight decay."""
    param_groups: Annotated[tuple[ParameterGroup, ...], BeforeValidator(list_to_tuple)] = ()
    """Parameters with a weight decay or a learning rate of their own."""


class AdaptedGroup(ParameterGroup):
    """A group under an optimizer whose steps are adapted to each layer."""

    adapt: bool | None = None
    """Whether the step is adapted to the layer's norm; null is the optimizer's own rule."""


class LayerwiseBase(OptimizerBase):
    """What every optimizer takes that adapts its steps to each layer's norm."""

    param_groups: Annotated[tuple[AdaptedGroup, ...], BeforeValidator(list_to_tuple)] = ()
    """Parameters with a weight decay, a learning rate or an adaptation of their own."""
    log_layers_every: PositiveInt | None = None
    """Steps between two records of what every layer did: its trust ratio, the norm of its weights, and that of its
    step or its gradient; a multiple of train.log_every. null records only the smallest, the median and the largest
    trust ratio of the adapted layers, with every line of metrics."""


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


def _in_order(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the smallest value {bounds[0]} is above the largest, {bounds[1]}")
    return bounds


Range = Annotated[tuple[NonNegativeFloat, PositiveFloat], BeforeValidator(list_to_tuple), AfterValidator(_in_order)]
"""Smallest and largest value."""


class Lamb(LayerwiseBase):
    """LAMB (arXiv 1904.00962v5, Algorithm 2) and the variants that other libraries call LAMB.

    A preset fixes what the variants differ in; an argument that is given takes its place.
    """

    name: Literal["lamb"]
    preset: Literal["paper", "nvlamb", "apex", "deepspeed", "v3_clamp10"] = "paper"
    """paper: Algorithm 2, as TensorFlow Addons has it; apex and nvlamb: NVIDIA's, for gradients clipped by
    train.clip_grad_norm; deepspeed: FusedLamb's; v3_clamp10: the third version of the paper as cybertronai has it."""
    betas: Betas = (0.9, 0.999)
    """Decay rates of the first and the second moment."""
    eps: PositiveFloat | None = None
    """Added outside the root of the second moment; null is the preset's: 1e-8 for deepspeed, else 1e-6."""
    weight_decay: NonNegativeFloat = 0.01
    """Decay inside the normalized direction."""
    adapt: Literal["decayed", "all"] | None = None
    """Whose steps are adapted to the layer's norm: those of parameters with weight decay, or all; null is the
    preset's: decayed for paper and apex, all for the others."""
    bias_correction: Literal["direction", "learning_rate", "none"] | None = None
    """Where the moments' bias is corrected: in the direction (paper), as a factor on the learning rate outside the
    trust ratio, which is a hidden warmup (deepspeed), or nowhere (v3_clamp10); null is the preset's."""
    weight_norm_range: Range | Literal["none"] | None = None
    """Bounds of the weight norm in the trust ratio, the paper's phi; null is the preset's: [0, 10] for v3_clamp10,
    none for the others."""
    trust_ratio_range: Range | Literal["none"] | None = None
    """Bounds of the trust ratio; null is the preset's: [0.01, 10] for deepspeed, none for the others."""
    implementation: Literal["auto", "fused", "compiled", "eager"] = "auto"
    """What runs the step: fused is C++ on CPUs and Triton on GPUs, compiled is torch.compile, eager is torch's own
    operations; auto takes the fastest that every worker has."""


OwnOptimizer = Sgd | AdamW | Lamb
"""Every optimizer but those of package_optimizers.py."""
