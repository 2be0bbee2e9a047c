"""MoMo, momentum SGD that takes its rate from a model of the loss, on whole tensors and rows of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import UnsupportedLayoutError
from orchestrator.core.layout import ShardLayout
from orchestrator.core.reduction import Reduction
from orchestrator.core.sums import sum_of_products, sum_of_squares
from orchestrator.optim.grouping import parameter_groups
from orchestrator.optim.layerwise import LayerwiseBase, Part
from orchestrator.spec.methods.loss_optimizers import Momo as MomoConfig


def share_of_rate(height: Tensor, square: Tensor) -> Tensor:
    """How much of the largest rate a step takes, in [0, 1]: until the model of the loss is at its lower bound.

    Args:
        height: of the model above the bound where a step of no length would leave it, a scalar.
        square: how fast the model falls, per unit of the share, a scalar >= 0.
    """
    share = (height / square).clamp(0.0, 1.0)
    return torch.where(square > 0, share, torch.zeros_like(share))


class Momo(LayerwiseBase):
    """MoMo (Schaipp et al., ICML 2024, arXiv 2305.07583).

    With the loss f and its gradient g at the weights p, every average from the first value on::

        F = beta F + (1 - beta) f            d = beta d + (1 - beta) g            G = beta G + (1 - beta) <g, p>

    The model of the loss at weights w is max(F + <d, w> - G, lower bound): an average of the planes that touched the
    loss, above what it cannot fall below. A step minimizes it plus ||w - p||^2 / (2 eta) + lambda / 2 ||w||^2::

        s = clamp((F - G - lower bound + <d, p> / (1 + eta lambda)) / (eta ||d||^2 / (1 + eta lambda)), 0, 1)
        p = (p - s eta d) / (1 + eta lambda)

    With ``bias_correction`` the averages start from 0, and F, d and G are divided by 1 - beta^t. Groups may have an eta
    and a lambda of their own; products are then sums over groups, each with its own factors. One reduction for each
    step where tensors are divided. The loss must be told before every step.

    Args:
        params: tensors or groups.
        lr: eta, the largest rate, >= 0.
        beta: in [0, 1).
        lower_bound: a value that the loss does not fall below.
        bias_correction: where the averages start.
        weight_decay: lambda, >= 0.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        beta: float = 0.9,
        lower_bound: float = 0.0,
        weight_decay: float = 0.0,
        *,
        bias_correction: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": beta, "weight_decay": weight_decay})
        self._lower_bound = lower_bound
        self._corrects_bias = bias_correction
        self._loss: Tensor | None = None

    def attach(self, layout: ShardLayout) -> None:
        """Refuse flat partitions.

        Raises:
            UnsupportedLayoutError: always.
        """
        raise UnsupportedLayoutError("Momo steps on all parameters at once, and ZeRO on one partition after another.")

    def take_loss(self, loss: Tensor) -> None:
        """The mean loss over the global batch of the step that comes next, a scalar, equal on all ranks."""
        self._loss = loss

    def _new_state(self, tensor: Tensor) -> dict[str, Tensor]:
        numbers = {name: self._new_numbers(tensor).double() for name in ("loss_average", "inner_average")}
        return {"exp_avg": torch.zeros_like(tensor), **numbers}

    def _update(self, parts: list[Part], reduction: Reduction) -> None:
        if self._loss is None:
            raise RuntimeError("Momo was not told the loss of this step: call take_loss(loss) before step().")
        loss, self._loss = self._loss, None
        sums = reduction.whole(torch.stack([self._average(part) for part in parts]))
        falls, squares = [], []
        for part, (square, inner, touched) in zip(parts, sums, strict=True):
            state, lr, (weight, rho) = self.state[part.tensor], part.group["lr"], self._weights(part)
            state["loss_average"].lerp_(loss.to(sums), weight)
            state["inner_average"].lerp_(touched, weight)
            shrinkage = 1 + lr * part.group["weight_decay"]
            falls.append((inner / shrinkage - state["inner_average"]) / rho)
            squares.append(lr * square / rho**2 / shrinkage)
        # All parameters have been told the same losses.
        height = self.state[parts[0].tensor]["loss_average"] / self._weights(parts[0])[1] - self._lower_bound
        share = share_of_rate(height + torch.stack(falls).sum(), torch.stack(squares).sum())
        for part in parts:
            self._move(part, share)

    def _average(self, part: Part) -> Tensor:
        """Move d; returns <d, d>, <d, p> and <g, p> over this rank's elements, [3]."""
        p, g, d = part.of(part.tensor), part.gradient(), part.of(self.state[part.tensor]["exp_avg"])
        d.lerp_(g, self._weights(part)[0])
        return torch.stack([sum_of_squares(d), sum_of_products(d, p), sum_of_products(g, p)])

    def _move(self, part: Part, share: Tensor) -> None:
        p, d, lr = part.of(part.tensor), part.of(self.state[part.tensor]["exp_avg"]), part.group["lr"]
        _, rho = self._weights(part)
        p.sub_(d * share.to(d), alpha=lr / rho).div_(1 + lr * part.group["weight_decay"])

    def _weights(self, part: Part) -> tuple[float, float]:
        """The weight of this step's values in the averages, and what the averages are divided by."""
        beta, step = part.group["momentum"], int(self.state[part.tensor]["step"])
        if self._corrects_bias:
            return 1 - beta, 1 - beta**step
        return (1.0 if step == 1 else 1 - beta), 1.0


def build_momo(config: MomoConfig, model: nn.Module, collectives: Collectives) -> torch.optim.Optimizer:
    """Momo over the model's trainable parameters."""
    return Momo(
        parameter_groups(model, config),
        lr=config.lr,
        beta=config.beta,
        lower_bound=config.lower_bound,
        weight_decay=config.weight_decay,
        bias_correction=config.bias_correction,
    )
