"""LAMB, layer-wise adaptive moments for large batches, on whole tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.optim.grouping import decay_groups
from orchestrator.spec.methods.optimizers import Lamb as LambConfig


def trust_ratio(parameter: Tensor, direction: Tensor) -> Tensor:
    """||p|| / ||u||, or 1 where either norm is 0; a scalar tensor on the parameter's device, without a host sync."""
    parameter_norm = torch.linalg.vector_norm(parameter)
    direction_norm = torch.linalg.vector_norm(direction)
    defined = (parameter_norm > 0) & (direction_norm > 0)
    return torch.where(defined, parameter_norm / direction_norm, torch.ones_like(parameter_norm))


def lamb_update_(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    adapt: bool,
) -> None:
    """One LAMB update of one tensor, in place; the gradient is left as it is. All tensors have one shape.

    Args:
        parameter: p.
        gradient: g.
        exp_avg: m, running mean of the gradient.
        exp_avg_sq: v, running mean of its square.
        step: t, counted from 1.
        lr: eta.
        betas: (beta1, beta2).
        eps: added outside the root.
        weight_decay: lambda, inside the normalized direction.
        adapt: whether the trust ratio applies; without it the update is Adam's.
    """
    beta1, beta2 = betas
    exp_avg.lerp_(gradient, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = (exp_avg_sq / (1 - beta2**step)).sqrt_().add_(eps)
    direction = (exp_avg / (1 - beta1**step)).div_(denominator).add_(parameter, alpha=weight_decay)
    if adapt:
        direction.mul_(trust_ratio(parameter, direction))
    parameter.sub_(direction, alpha=lr)


class Lamb(torch.optim.Optimizer):
    """LAMB in the form of its paper (You et al., ICLR 2020, arXiv 1904.00962v5, Algorithm 2).

    For each tensor p with gradient g at step t::

        m = beta1 m + (1 - beta1) g          v = beta2 v + (1 - beta2) g^2
        r = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
        u = r + lambda p
        p = p - eta ||p|| / ||u|| u          (ratio 1 where a norm is 0)

    Differences: phi, the paper's clamp of ||p||, is the identity (the paper gives no bounds); tensors of a group
    without weight decay (biases, normalization gains) are not adapted, as the BERT practice has it. Whole tensors
    only: a sharded tensor would be normalized by the norm of its shard.

    Args:
        params: tensors or groups; a group's ``weight_decay`` decides whether it is adapted.
        lr: eta, >= 0.
        betas: (beta1, beta2), each in [0, 1).
        eps: >= 0.
        weight_decay: lambda, >= 0.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step.

        Raises:
            RuntimeError: on a sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        if parameter.grad is None or parameter.grad.is_sparse:
            raise RuntimeError("Lamb does not take sparse gradients.")
        state = self.state[parameter]
        if not state:
            # The step is a tensor per parameter, as in torch.optim: engines that split groups count correctly.
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        lamb_update_(
            parameter,
            parameter.grad,
            state["exp_avg"],
            state["exp_avg_sq"],
            step=int(state["step"]),
            lr=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            adapt=group["weight_decay"] > 0,
        )


def build_lamb(config: LambConfig, model: nn.Module, collectives: Collectives) -> torch.optim.Optimizer:
    """Lamb over the model's trainable parameters."""
    groups = decay_groups(model, config.weight_decay, decay_one_dimensional=config.decay_one_dimensional)
    return Lamb(groups, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay)
