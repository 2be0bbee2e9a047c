"""Optimizers of torch and of pytorch_optimizer that a spec may name, with the packages' defaults."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from orchestrator.spec.methods.engines import WHOLE_TENSORS
from orchestrator.spec.methods.optimizers import OptimizerBase
from orchestrator.spec.section import Betas, DecayRate, NonNegativeFloat, Patterns, PositiveFloat, PositiveInt


class AdamLike(OptimizerBase):
    """What every optimizer takes that keeps two moments of the gradient."""

    betas: Betas = (0.9, 0.999)
    """Decay rates of the first and the second moment."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""


class RAdam(AdamLike):
    """Adam with a rectified adaptive rate (arXiv 1908.03265): torch.optim.RAdam."""

    name: Literal["radam"]
    decoupled_weight_decay: bool = False
    """Whether the decay is AdamW's; else it is added to the gradient."""


class NAdam(AdamLike):
    """Adam with Nesterov momentum (Dozat, ICLR workshop 2016): torch.optim.NAdam."""

    name: Literal["nadam"]
    lr: PositiveFloat = 2e-3
    """Learning rate before the scaling rule and the schedule."""
    momentum_decay: NonNegativeFloat = 4e-3
    """How fast the momentum grows to the first of `betas`."""
    decoupled_weight_decay: bool = False
    """Whether the decay is AdamW's; else it is added to the gradient."""


class Adagrad(OptimizerBase):
    """Steps divided by the root of all squared gradients so far (Duchi et al., JMLR 2011): torch.optim.Adagrad."""

    name: Literal["adagrad"]
    lr: PositiveFloat = 1e-2
    """Learning rate before the scaling rule and the schedule."""
    lr_decay: NonNegativeFloat = 0.0
    """The rate of step t is divided by 1 + (t - 1) x this."""
    initial_accumulator_value: NonNegativeFloat = 0.0
    """What the sum of squares starts from."""
    eps: PositiveFloat = 1e-10
    """Added to the root of the sum of squares."""


class Lion(OptimizerBase):
    """Steps of one length, the sign of an averaged gradient (arXiv 2302.06675): pytorch_optimizer.Lion."""

    name: Literal["lion"]
    lr: PositiveFloat = 1e-4
    """Learning rate before the scaling rule and the schedule; a third to a tenth of AdamW's."""
    betas: Betas = (0.9, 0.99)
    """Decay rates of the average in the step and of the one that is kept."""
    decoupled_weight_decay: bool = True
    """Whether the decay is AdamW's; else it is added to the gradient."""


class AdaBelief(AdamLike):
    """Adam with the variance around the averaged gradient (arXiv 2010.07468): pytorch_optimizer.AdaBelief."""

    name: Literal["adabelief"]
    eps: PositiveFloat = 1e-16
    """Added to the variance at every step, and to its root."""
    rectify: bool = False
    """Whether the adaptive rate is rectified as in RAdam."""
    ams_bound: bool = False
    """Use the maximum of past variances."""
    decoupled_weight_decay: bool = True
    """Whether the decay is AdamW's; else it is added to the gradient."""


class Adopt(AdamLike):
    """Adam that converges with any second decay rate (arXiv 2411.02853): pytorch_optimizer.ADOPT."""

    name: Literal["adopt"]
    betas: Betas = (0.9, 0.9999)
    """Decay rates of the first and the second moment."""
    eps: PositiveFloat = 1e-6
    """Least root of the second moment."""
    decoupled_weight_decay: bool = False
    """Whether the decay is AdamW's; else it is added to the gradient."""


class AdaBound(AdamLike):
    """Adam whose rates are bounded ever more tightly around SGD's (arXiv 1902.09843): pytorch_optimizer.AdaBound."""

    name: Literal["adabound"]
    final_lr: PositiveFloat = 0.1
    """Rate that the bounds close in on; it follows the schedule, not the scaling rule."""
    gamma: PositiveFloat = 1e-3
    """How fast the bounds close, per step."""
    ams_bound: bool = False
    """Use the maximum of past second moments."""
    decoupled_weight_decay: bool = True
    """Whether the decay is AdamW's; else it is added to the gradient."""


class Mars(AdamLike):
    """Gradients corrected by the change since the last step (arXiv 2411.10438): pytorch_optimizer.MARS.

    The corrected gradient of a tensor is clipped to norm 1, so the optimizer must see whole tensors.
    """

    requires: ClassVar[frozenset[str]] = frozenset({WHOLE_TENSORS})

    name: Literal["mars"]
    lr: PositiveFloat = 3e-3
    """Learning rate before the scaling rule and the schedule."""
    betas: Betas = (0.95, 0.99)
    """Decay rates of the first and the second moment."""
    gamma: NonNegativeFloat = 0.025
    """Weight of the correction."""
    mars_type: Literal["adamw", "lion", "shampoo"] = "adamw"
    """What steps on the corrected gradient; shampoo orthogonalizes matrices as Muon does."""
    optimize_1d: bool = False
    """Whether tensors of at most one dimension are corrected too; else they take AdamW's step."""
    lr_multiplier_1d: PositiveFloat = 1.0
    """Factor on the learning rate of those AdamW steps."""
    betas_1d: Betas = (0.9, 0.95)
    """Decay rates of those AdamW steps."""
    decoupled_weight_decay: bool = True
    """Whether the decay is AdamW's; else it is added to the gradient."""


class OneRate(AdamLike):
    """What every optimizer takes that finds one learning rate for all parameters."""

    requires: ClassVar[frozenset[str]] = frozenset({WHOLE_TENSORS})

    lr: PositiveFloat = 1.0
    """Factor on the rate that is found, before the scaling rule and the schedule."""
    d0: PositiveFloat = 1e-6
    """First estimate of the distance to the solution."""
    growth_rate: Annotated[float, Field(gt=1)] | None = None
    """Most that the estimate grows by in one step, as a factor; null is without bound."""
    bias_correction: bool = False
    """Whether the moments' bias is corrected, as in Adam."""

    @model_validator(mode="after")
    def _one_rate(self) -> Self:
        if any(group.lr_multiplier != 1 for group in self.param_groups):
            raise ValueError("param_groups: lr_multiplier must be 1, as one learning rate is found for all parameters")
        return self


class DAdaptAdam(OneRate):
    """Adam that finds its learning rate, by D-Adaptation (arXiv 2301.07733): pytorch_optimizer.DAdaptAdam.

    The estimate is made of inner products over all parameters, so the optimizer must see whole tensors.
    """

    name: Literal["dadapt_adam"]
    decoupled_weight_decay: bool = False
    """Whether the decay is AdamW's; else it is added to the gradient."""


class Prodigy(OneRate):
    """Adam that finds its learning rate, faster than D-Adaptation (arXiv 2306.06101): pytorch_optimizer.Prodigy.

    The estimate is made of inner products over all parameters, so the optimizer must see whole tensors.
    """

    name: Literal["prodigy"]
    beta3: DecayRate | None = None
    """Decay rate of the estimate's averages; null is the root of the second of `betas`."""
    d_coef: PositiveFloat = 1.0
    """Factor on the estimate: 0.5 and 2 are cautious and bold."""
    safeguard_warmup: bool = False
    """Whether the schedule's factor is left out of the estimate's denominator: for long warmups."""
    decoupled_weight_decay: bool = True
    """Whether the decay is AdamW's; else it is added to the gradient."""


class Muon(OptimizerBase):
    """Orthogonalized momentum for matrices, AdamW for the rest (arXiv 2502.16982): pytorch_optimizer.Muon.

    A matrix is orthogonalized as a whole, so the optimizer must see whole tensors.
    """

    requires: ClassVar[frozenset[str]] = frozenset({WHOLE_TENSORS})

    name: Literal["muon"]
    lr: PositiveFloat = 0.02
    """Learning rate of matrices, before the scaling rule and the schedule."""
    momentum: DecayRate = 0.95
    """Decay rate of the averaged gradient."""
    nesterov: bool = True
    """Nesterov momentum."""
    ns_steps: PositiveInt = 5
    """Newton-Schulz iterations of the orthogonalization."""
    use_adjusted_lr: bool = False
    """Whether a step is scaled to the size of AdamW's, 0.2 sqrt(max(rows, columns)); else by
    sqrt(max(1, rows / columns))."""
    adamw_for: Patterns | None = None
    """Matrices that take AdamW's step all the same, as embeddings and the output layer should: by name or by module,
    as in `param_groups`; null takes those of every Embedding. Tensors of at most one dimension always do."""
    adamw_lr_multiplier: PositiveFloat = 0.015
    """Factor on the learning rate of AdamW's steps."""
    adamw_betas: Betas = (0.9, 0.95)
    """Decay rates of AdamW's moments."""
    adamw_eps: PositiveFloat = 1e-10
    """Added to the root of AdamW's second moment."""


PackageOptimizer = RAdam | NAdam | Adagrad | Lion | AdaBelief | Adopt | AdaBound | Mars | DAdaptAdam | Prodigy | Muon
"""Every optimizer of a package."""
