"""LANS, LAMB with normalized gradients and Nesterov's step, exact on whole and on divided parameters."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.reduction import Reduction
from orchestrator.core.sums import sum_of_squares
from orchestrator.optim.grouping import parameter_groups
from orchestrator.optim.layerwise import LayerwiseBase, Part, is_adapted
from orchestrator.optim.moments import denominator, move_moments_
from orchestrator.spec.methods.layerwise_optimizers import Lans as LansConfig


class Lans(LayerwiseBase):
    """LANS (Zheng et al., arXiv 2006.13484): LAMB on gradients of norm 1, with the gradient's own direction beside m's.

    For each parameter p with gradient g at step t::

        h = g / (||g|| + eps)
        m = beta1 m + (1 - beta1) h          v = beta2 v + (1 - beta2) h^2
        s = sqrt(v / (1 - beta2^t)) + eps
        r = m / (1 - beta1^t) / s + lambda p            c = h / s + lambda p
        p = p - eta (beta1 ||p|| / ||r|| r + (1 - beta1) ||p|| / ||c|| c)

    Each of the two ratios is 1 where one of its norms is 0, and for parameters that are not adapted. Two reductions
    for each step: the gradient's norm goes in front of the moments.

    Args:
        params: tensors or groups.
        lr: eta, >= 0.
        betas: (beta1, beta2), each in [0, 1).
        eps: > 0.
        weight_decay: lambda, >= 0.
        adapt: whose steps are adapted: ``decayed`` or ``all`` parameters.
        log_layers_every: steps between two reports of every layer.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        *,
        adapt: Literal["decayed", "all"] = "decayed",
        log_layers_every: int | None = None,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, log_layers_every=log_layers_every)
        self._adapt_all = adapt == "all"

    def _new_state(self, tensor: Tensor) -> dict[str, Tensor]:
        return {"exp_avg": torch.zeros_like(tensor), "exp_avg_sq": torch.zeros_like(tensor)}

    def _update(self, parts: list[Part], reduction: Reduction) -> None:
        squares = reduction.whole(torch.stack([sum_of_squares(part.gradient()) for part in parts])[:, None])
        lengths = squares.sqrt().squeeze(1)
        for part, length in zip(parts, lengths, strict=True):
            self._average(part, _normalized(part, length))
        # Directions are computed again rather than kept: all of them at once would be another copy of the model.
        sums = reduction.whole(
            torch.stack([self._sums(part, length) for part, length in zip(parts, lengths, strict=True)])
        )
        ratios = self._trust_ratios(parts, sums)
        for part, length, (of_mean, of_gradient) in zip(parts, lengths, ratios, strict=True):
            beta1 = part.group["betas"][0]
            mean, current = self._directions(part, length)
            step = mean.mul_(of_mean).mul_(beta1).add_(current.mul_(of_gradient), alpha=1 - beta1)
            part.of(part.tensor).sub_(step, alpha=part.group["lr"])
        adapted = [is_adapted(part.group, everything=self._adapt_all) for part in parts]
        self._remember(
            parts,
            adapted,
            lambda: {"trust_ratio": ratios[:, 0], "weight_norm": sums[:, 0].sqrt(), "gradient_norm": lengths},
        )

    def _average(self, part: Part, gradient: Tensor) -> None:
        beta1, beta2 = part.group["betas"]
        state = self.state[part.tensor]
        m, v = part.of(state["exp_avg"]), part.of(state["exp_avg_sq"])
        move_moments_(m, v, gradient, beta1=beta1, beta2=beta2)

    def _directions(self, part: Part, length: Tensor) -> tuple[Tensor, Tensor]:
        """The two directions r and c, new tensors."""
        (beta1, beta2), state = part.group["betas"], self.state[part.tensor]
        step = int(state["step"])
        root = denominator(part.of(state["exp_avg_sq"]), 1 - beta2**step, part.group["eps"])
        p, decay = part.of(part.tensor), part.group["weight_decay"]
        mean = (part.of(state["exp_avg"]) / (1 - beta1**step)).div_(root).add_(p, alpha=decay)
        return mean, _normalized(part, length).div_(root).add_(p, alpha=decay)

    def _sums(self, part: Part, length: Tensor) -> Tensor:
        return torch.stack([sum_of_squares(x) for x in (part.of(part.tensor), *self._directions(part, length))])

    def _trust_ratios(self, parts: list[Part], sums: Tensor) -> Tensor:
        """Of r and of c, [parts, 2]."""
        norms = sums.sqrt()
        weight, directions = norms[:, :1], norms[:, 1:]
        adapted = torch.tensor([[is_adapted(part.group, everything=self._adapt_all)] for part in parts])
        undefined = (weight == 0) | (directions == 0) | ~adapted.to(sums.device, non_blocking=True)
        return torch.where(undefined, torch.ones_like(directions), weight / directions)


def _normalized(part: Part, length: Tensor) -> Tensor:
    """The part's gradient over the norm of the whole parameter's, a new tensor."""
    return part.gradient().clone().div_(length + part.group["eps"])


def build_lans(config: LansConfig, model: nn.Module, collectives: Collectives) -> torch.optim.Optimizer:
    """Lans over the model's trainable parameters."""
    return Lans(
        parameter_groups(model, config),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        adapt=config.adapt,
        log_layers_every=config.log_layers_every,
    )
