"""LARS, layer-wise adaptive rates for momentum SGD, exact on whole and on divided parameters."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.reduction import Reduction
from orchestrator.core.sums import sum_of_squares
from orchestrator.optim.grouping import parameter_groups
from orchestrator.optim.layerwise import LayerwiseBase, Part, is_adapted
from orchestrator.spec.methods.layerwise_optimizers import Lars as LarsConfig

MomentumStyle = Literal["lr_inside", "lr_outside", "ema_normalized"]


class Lars(LayerwiseBase):
    """LARS (You et al., arXiv 1708.03888) in the three forms that carry its name.

    For each parameter p with gradient g and buffer b, mu the momentum, c the trust coefficient::

        d = g + lambda p                            ratio = c ||p|| / (||g|| + lambda ||p|| + eps)

        lr_inside (the paper)                       b = mu b + eta ratio d          p = p - b
        lr_outside (timm, apex's LARC)              b = mu b + ratio d              p = p - eta b
        ema_normalized (the LAMB paper's LARS)      b = mu b + (1 - mu) d           p = p - eta ||p|| / ||b|| b

    The first two differ as soon as eta moves. A ratio is 1 where one of its norms is 0 and for parameters that are
    not adapted: those of a group without weight decay unless ``adapt`` says otherwise.

    Args:
        params: tensors or groups.
        lr: eta, >= 0.
        momentum: mu, in [0, 1).
        weight_decay: lambda, >= 0.
        trust_coefficient: c, > 0; not read by ``ema_normalized``.
        eps: >= 0.
        momentum_style: which of the three forms.
        adapt: whose steps are adapted: ``decayed`` or ``all`` parameters.
        log_layers_every: steps between two reports of every layer.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        trust_coefficient: float = 0.001,
        eps: float = 0.0,
        momentum_style: MomentumStyle = "lr_inside",
        adapt: Literal["decayed", "all"] = "decayed",
        log_layers_every: int | None = None,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults, log_layers_every=log_layers_every)
        self._trust_coefficient = trust_coefficient
        self._eps = eps
        self._style = momentum_style
        self._adapt_all = adapt == "all"

    def _new_state(self, tensor: Tensor) -> dict[str, Tensor]:
        return {"momentum_buffer": torch.zeros_like(tensor)}

    def _update(self, parts: list[Part], reduction: Reduction) -> None:
        if self._style == "ema_normalized":
            for part in parts:
                self._buffer(part).lerp_(self._decayed_gradient(part), 1 - part.group["momentum"])
        measured = [self._buffer(part) if self._style == "ema_normalized" else part.gradient() for part in parts]
        sums = reduction.whole(
            torch.stack(
                [
                    torch.stack([sum_of_squares(part.of(part.tensor)), sum_of_squares(other)])
                    for part, other in zip(parts, measured, strict=True)
                ]
            )
        )
        ratios = self._trust_ratios(parts, sums)
        for part, ratio in zip(parts, ratios, strict=True):
            self._move(part, ratio)
        adapted = [is_adapted(part.group, everything=self._adapt_all) for part in parts]
        rates = [part.group["lr"] for part in parts]
        self._remember(parts, adapted, lambda: self._describe(ratios, sums, rates))

    def _describe(self, ratios: Tensor, sums: Tensor, rates: list[float]) -> dict[str, Tensor]:
        norm, other = sums.sqrt().unbind(1)
        facts = {"trust_ratio": ratios, "weight_norm": norm}
        if self._style == "ema_normalized":
            moved = torch.tensor(rates, dtype=sums.dtype).to(sums.device, non_blocking=True)
            return {**facts, "update_norm": moved * ratios * other}
        return {**facts, "gradient_norm": other}

    def _trust_ratios(self, parts: list[Part], sums: Tensor) -> Tensor:
        norm, other = sums.sqrt().unbind(1)
        if self._style == "ema_normalized":
            ratios = norm / other
        else:
            decays = torch.tensor([part.group["weight_decay"] for part in parts], dtype=sums.dtype)
            decay = decays.to(sums.device, non_blocking=True)
            ratios = self._trust_coefficient * norm / (other + decay * norm + self._eps)
        adapted = torch.tensor([is_adapted(part.group, everything=self._adapt_all) for part in parts])
        undefined = (norm == 0) | (other == 0) | ~adapted.to(sums.device, non_blocking=True)
        return torch.where(undefined, torch.ones_like(ratios), ratios)

    def _move(self, part: Part, ratio: Tensor) -> None:
        p, buffer, lr = part.of(part.tensor), self._buffer(part), part.group["lr"]
        if self._style == "ema_normalized":
            p.sub_(buffer * ratio, alpha=lr)
            return
        inside, outside = (lr, 1.0) if self._style == "lr_inside" else (1.0, lr)
        buffer.mul_(part.group["momentum"]).add_(self._decayed_gradient(part).mul_(ratio), alpha=inside)
        p.sub_(buffer, alpha=outside)

    def _buffer(self, part: Part) -> Tensor:
        return part.of(self.state[part.tensor]["momentum_buffer"])

    def _decayed_gradient(self, part: Part) -> Tensor:
        return part.gradient().add(part.of(part.tensor), alpha=part.group["weight_decay"])


def build_lars(config: LarsConfig, model: nn.Module, collectives: Collectives) -> torch.optim.Optimizer:
    """Lars over the model's trainable parameters."""
    return Lars(
        parameter_groups(model, config),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        trust_coefficient=config.trust_coefficient,
        eps=config.eps,
        momentum_style=config.momentum_style,
        adapt=config.adapt,
        log_layers_every=config.log_layers_every,
    )
