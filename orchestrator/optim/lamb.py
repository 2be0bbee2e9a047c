"""LAMB, layer-wise adaptive moments for large batches, exact on whole and on divided parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.reduction import Reduction
from orchestrator.optim.grouping import parameter_groups
from orchestrator.optim.kernels.choice import Implementation, choose_lamb
from orchestrator.optim.kernels.lamb import Coefficients, LambBatch, LambKernels, trust_ratios
from orchestrator.optim.layerwise import LayerwiseBase, Part, is_adapted
from orchestrator.spec.methods.optimizers import Lamb as LambConfig

Adapt = Literal["decayed", "all"]
Correction = Literal["direction", "learning_rate", "none"]
Bounds = tuple[float, float]
UNBOUNDED: Bounds = (0.0, math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What libraries that all say LAMB differ in."""

    adapt: Adapt
    """Whose steps are adapted: those of parameters with weight decay, or all."""
    bias_correction: Correction = "direction"
    """Where the bias of the moments is corrected; as a factor on the learning rate it is a hidden warmup."""
    eps: float = 1e-6
    weight_norm_range: Bounds = UNBOUNDED
    """phi, the clamp of ||p||."""
    trust_ratio_range: Bounds = UNBOUNDED


PRESETS = {
    "paper": Variant(adapt="decayed"),
    "apex": Variant(adapt="decayed"),
    "nvlamb": Variant(adapt="all"),
    "deepspeed": Variant(adapt="all", bias_correction="learning_rate", eps=1e-8, trust_ratio_range=(0.01, 10.0)),
    "v3_clamp10": Variant(adapt="all", bias_correction="none", weight_norm_range=(0.0, 10.0)),
}
"""``apex`` and ``nvlamb`` are what NVIDIA runs on gradients that were clipped to a global norm of 1."""


class Lamb(LayerwiseBase):
    """LAMB in the form of its paper (You et al., ICLR 2020, arXiv 1904.00962v5, Algorithm 2).

    For each parameter p with gradient g at step t::

        m = beta1 m + (1 - beta1) g          v = beta2 v + (1 - beta2) g^2
        r = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
        u = r + lambda p
        p = p - eta phi(||p||) / ||u|| u     (ratio 1 where a norm is 0)

    Differences: phi is the identity unless bounds are given (the paper gives none); parameters of a group without
    weight decay (biases, normalization gains) are not adapted, as the BERT practice has it. A group may say otherwise
    with its own ``adapt``. Norms are of whole parameters on DTensors, and on flat partitions after ``attach``.

    Args:
        params: tensors or groups; a group's ``weight_decay`` or ``adapt`` decides whether it is adapted.
        lr: eta, >= 0.
        betas: (beta1, beta2), each in [0, 1).
        eps: >= 0; None is the variant's.
        weight_decay: lambda, >= 0.
        variant: everything else; the presets are in `PRESETS`.
        implementation: what runs the step; auto takes the fastest that every rank has.
        collectives: of all ranks that step together; they agree on what runs.
        log_layers_every: steps between two reports of every layer.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | None = None,
        weight_decay: float = 0.01,
        *,
        variant: Variant = PRESETS["paper"],
        implementation: Implementation = "auto",
        collectives: Collectives | None = None,
        log_layers_every: int | None = None,
    ) -> None:
        eps = variant.eps if eps is None else eps
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, log_layers_every=log_layers_every)
        self.variant = variant
        self._wanted = implementation
        self._collectives = collectives or Collectives()
        self._kernels: LambKernels | None = None

    def runs_on(self) -> str:
        """What runs the step, for people; all ranks ask together, as they agree on it when first asked."""
        return self._chosen().title

    def _chosen(self) -> LambKernels:
        # Not before the engine is set up, which may have moved what is stepped on.
        if self._kernels is None:
            tensor = self._some_tensor()
            self._kernels = choose_lamb(self._wanted, tensor.device, tensor.dtype, self._collectives)
        return self._kernels

    def _new_state(self, tensor: Tensor) -> dict[str, Tensor]:
        return {"exp_avg": torch.zeros_like(tensor), "exp_avg_sq": torch.zeros_like(tensor)}

    def _update(self, parts: list[Part], reduction: Reduction) -> None:
        states = [self.state[part.tensor] for part in parts]
        coefficients = self._coefficients(parts)
        batch = LambBatch(
            p=[part.of(part.tensor) for part in parts],
            g=[part.gradient() for part in parts],
            m=[part.of(state["exp_avg"]) for part, state in zip(parts, states, strict=True)],
            v=[part.of(state["exp_avg_sq"]) for part, state in zip(parts, states, strict=True)],
            coefficients=coefficients,
        )
        kernels = self._chosen()
        if reduction.is_needed:
            sums = reduction.whole(kernels.measure(batch))
            kernels.apply(batch, trust_ratios(sums, coefficients))
        else:
            sums = kernels.update(batch)
        self._remember(parts, [c.adapt for c in coefficients], lambda: _describe(sums, coefficients))

    def _coefficients(self, parts: list[Part]) -> list[Coefficients]:
        """The numbers of every part's step: the same for all parts of a group that have taken as many steps."""
        made: dict[tuple[int, int], Coefficients] = {}
        keys = [(id(part.group), int(self.state[part.tensor]["step"])) for part in parts]
        for key, part in zip(keys, parts, strict=True):
            if key not in made:
                made[key] = self._numbers(part.group, step=key[1])
        return [made[key] for key in keys]

    def _numbers(self, group: dict[str, Any], step: int) -> Coefficients:
        variant = self.variant
        beta1, beta2 = group["betas"]
        correction1, correction2 = 1 - beta1**step, 1 - beta2**step
        lr = float(group["lr"])
        if variant.bias_correction == "learning_rate":
            lr *= math.sqrt(correction2) / correction1
        if variant.bias_correction != "direction":
            correction1 = correction2 = 1.0
        return Coefficients(
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            correction1=correction1,
            correction2=correction2,
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            adapt=is_adapted(group, everything=variant.adapt == "all"),
            min_norm=variant.weight_norm_range[0],
            max_norm=variant.weight_norm_range[1],
            min_ratio=variant.trust_ratio_range[0],
            max_ratio=variant.trust_ratio_range[1],
        )


def _describe(sums: Tensor, coefficients: list[Coefficients]) -> dict[str, Tensor]:
    """Vectors over the parts: the trust ratio, ||p|| before the step, and the length of the step."""
    ratios = trust_ratios(sums, coefficients)
    norm, length = sums.sqrt().unbind(1)
    rates = torch.tensor([c.lr for c in coefficients], dtype=torch.float64).to(sums.device, non_blocking=True)
    return {"trust_ratio": ratios, "weight_norm": norm, "update_norm": rates * ratios * length}


def _bounds(given: Bounds | Literal["none"] | None, preset: Bounds) -> Bounds:
    return UNBOUNDED if given == "none" else given or preset


def build_lamb(config: LambConfig, model: nn.Module, collectives: Collectives) -> torch.optim.Optimizer:
    """Lamb over the model's trainable parameters, on what runs it fastest on every rank."""
    preset = PRESETS[config.preset]
    variant = Variant(
        adapt=config.adapt or preset.adapt,
        bias_correction=config.bias_correction or preset.bias_correction,
        weight_norm_range=_bounds(config.weight_norm_range, preset.weight_norm_range),
        trust_ratio_range=_bounds(config.trust_ratio_range, preset.trust_ratio_range),
    )
    return Lamb(
        parameter_groups(model, config),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps or preset.eps,
        weight_decay=config.weight_decay,
        variant=variant,
        implementation=config.implementation,
        collectives=collectives,
        log_layers_every=config.log_layers_every,
    )
