"""NovoGrad, Adam with one second moment for each layer, exact on whole and on divided parameters."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.reduction import Reduction
from orchestrator.core.sums import sum_of_squares
from orchestrator.optim.grouping import parameter_groups
from orchestrator.optim.layerwise import LayerwiseBase, Part
from orchestrator.spec.methods.layerwise_optimizers import NovoGrad as NovoGradConfig


class NovoGrad(LayerwiseBase):
    """NovoGrad (Ginsburg et al., arXiv 1905.11286).

    For each parameter p with gradient g at step t::

        v = ||g||^2 at t = 1, then beta2 v + (1 - beta2) ||g||^2        one number
        d = g / (sqrt(v) + eps) + lambda p
        m = d at t = 1, then beta1 m + d                                (1 - beta1) d with grad_averaging
        p = p - eta m

    Half of Adam's state: one moment of the parameter's size. One reduction for each step.

    Args:
        params: tensors or groups.
        lr: eta, >= 0.
        betas: (beta1, beta2), each in [0, 1).
        eps: >= 0.
        weight_decay: lambda, >= 0.
        grad_averaging: whether d enters m with the factor 1 - beta1, at t = 1 too.
    """

    per_parameter_state: ClassVar[frozenset[str]] = frozenset({"exp_avg_sq"})

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.95, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        grad_averaging: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._grad_averaging = grad_averaging

    def _new_state(self, tensor: Tensor) -> dict[str, Tensor]:
        return {"exp_avg": torch.zeros_like(tensor), "exp_avg_sq": self._new_numbers(tensor)}

    def _update(self, parts: list[Part], reduction: Reduction) -> None:
        squares = reduction.whole(torch.stack([sum_of_squares(part.gradient()) for part in parts])[:, None])
        for part, square in zip(parts, squares.squeeze(1), strict=True):
            (beta1, beta2), state = part.group["betas"], self.state[part.tensor]
            is_first = int(state["step"]) == 1
            moment = self._number(part, "exp_avg_sq")
            moment.copy_(square) if is_first else moment.lerp_(square.to(moment.dtype), 1 - beta2)
            p = part.of(part.tensor)
            direction = (part.gradient() / (moment.sqrt() + part.group["eps"])).add_(
                p, alpha=part.group["weight_decay"]
            )
            mean = part.of(state["exp_avg"])
            mean.mul_(beta1).add_(direction, alpha=1 - beta1 if self._grad_averaging else 1.0)
            p.sub_(mean, alpha=part.group["lr"])


def build_novograd(config: NovoGradConfig, model: nn.Module, collectives: Collectives) -> torch.optim.Optimizer:
    """NovoGrad over the model's trainable parameters."""
    return NovoGrad(
        parameter_groups(model, config),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        grad_averaging=config.grad_averaging,
    )
