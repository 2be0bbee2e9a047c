"""SWATS, which goes over from Adam to momentum SGD, exact on whole and on divided parameters."""

from __future__ import annotations

from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.host_copies import on_host
from orchestrator.core.reduction import Reduction
from orchestrator.core.sums import sum_of_products, sum_of_squares
from orchestrator.optim.grouping import parameter_groups
from orchestrator.optim.layerwise import LayerwiseBase, Part
from orchestrator.optim.moments import denominator, move_moments_
from orchestrator.spec.methods.layerwise_optimizers import Swats as SwatsConfig


def settled_rate(average: Tensor, rate: Tensor, tolerance: float) -> Tensor:
    """SGD's rate where the rate of a step is its average up to a share of it, else 0, as for none above 0; scalars."""
    return torch.where((average - rate).abs() < tolerance * average, average, torch.zeros_like(average))


class Swats(LayerwiseBase):
    """SWATS (Keskar and Socher, arXiv 1712.07628, Algorithm 1), tensor by tensor.

    Each parameter p with gradient g begins with Adam. At step t::

        m = beta1 m + (1 - beta1) g              v = beta2 v + (1 - beta2) g^2
        d = sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps)
        p = p - eta d
        gamma = <d, d> / <d, g>                  length of g's projection that the step would be, in units of eta
        lambda = beta2 lambda + (1 - beta2) gamma                                       where <d, g> is not 0

    When t > 1 and gamma is within ``switch_tolerance`` of L = lambda / (1 - beta2^t), relative to it, that L is kept,
    m starts anew from 0, and from then on::

        m = beta1 m + (1 - beta1) g              p = p - eta L m

    Differences: rates are in units of eta, and their distance is relative, so that a schedule goes on after the switch
    and its slope hastens or delays none; L must be positive; each tensor is a w of the paper, and switches by itself.
    One reduction for each step. Nothing waits for the device: whether a tensor has switched is known there alone.

    Args:
        params: tensors or groups.
        lr: eta, >= 0.
        betas: (beta1, beta2), each in [0, 1).
        eps: >= 0.
        weight_decay: added to the gradient times p, or decoupled as AdamW's; >= 0.
        decoupled_weight_decay: which of both.
        switch_tolerance: > 0.
    """

    per_parameter_state: ClassVar[frozenset[str]] = frozenset({"rate_average", "sgd_rate"})

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-9,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        switch_tolerance: float = 1e-5,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._decouples = decoupled_weight_decay
        self._tolerance = switch_tolerance

    def report(self) -> dict[str, Tensor]:
        """``sgd_share``: how many of the tensors have switched, in [0, 1]."""
        rates = [state["sgd_rate"].reshape(-1) for state in self.state.values()]
        return {"sgd_share": on_host((torch.cat(rates) > 0).double().mean())} if rates else {}

    def _new_state(self, tensor: Tensor) -> dict[str, Tensor]:
        return {
            "exp_avg": torch.zeros_like(tensor),
            "exp_avg_sq": torch.zeros_like(tensor),
            # Two rates are compared to more digits than float32 has.
            "rate_average": self._new_numbers(tensor).double(),
            "sgd_rate": self._new_numbers(tensor).double(),
        }

    def _update(self, parts: list[Part], reduction: Reduction) -> None:
        sums = reduction.whole(torch.stack([self._move(part) for part in parts]))
        for part, (square, inner) in zip(parts, sums, strict=True):
            self._watch(part, square, inner)

    def _move(self, part: Part) -> Tensor:
        """Take a step; returns <d, d> and <d, g> over this rank's elements, [2]."""
        (beta1, beta2), state, lr = part.group["betas"], self.state[part.tensor], part.group["lr"]
        p, g, decay = part.of(part.tensor), part.gradient(), part.group["weight_decay"]
        if self._decouples:
            p.mul_(1 - lr * decay)
        elif decay:
            g = g + decay * p
        m, v, step = part.of(state["exp_avg"]), part.of(state["exp_avg_sq"]), int(state["step"])
        move_moments_(m, v, g, beta1=beta1, beta2=beta2)
        d = m * (sqrt(1 - beta2**step) / (1 - beta1**step)) / denominator(v, 1.0, part.group["eps"])
        rate = self._number(part, "sgd_rate")
        p.sub_(torch.where(rate > 0, rate * m, d), alpha=lr)
        return torch.stack([sum_of_squares(d), sum_of_products(d, g)])

    def _watch(self, part: Part, square: Tensor, inner: Tensor) -> None:
        """Average SGD's rate, and switch where it has settled."""
        (_, beta2), state = part.group["betas"], self.state[part.tensor]
        average, kept, step = self._number(part, "rate_average"), self._number(part, "sgd_rate"), int(state["step"])
        rate = square / inner
        average.copy_(torch.where(inner != 0, average.lerp(rate, 1 - beta2), average))
        if step > 1:
            settled = settled_rate(average / (1 - beta2**step), rate, self._tolerance)
            is_new = (kept == 0) & (settled > 0)
            kept.copy_(torch.where(is_new, settled, kept))
            m = part.of(state["exp_avg"])
            m.copy_(torch.where(is_new, torch.zeros_like(m), m))


def build_swats(config: SwatsConfig, model: nn.Module, collectives: Collectives) -> torch.optim.Optimizer:
    """Swats over the model's trainable parameters."""
    return Swats(
        parameter_groups(model, config),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        decoupled_weight_decay=config.decoupled_weight_decay,
        switch_tolerance=config.switch_tolerance,
    )
