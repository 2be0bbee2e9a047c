"""Adafactor, with a second moment of sublinear memory, exact on whole tensors and on tensors divided by rows."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.sums import sum_of_squares
from orchestrator.optim.factored import FactoredBase, Factors, TensorStep
from orchestrator.optim.grouping import parameter_groups
from orchestrator.optim.layerwise import Part
from orchestrator.spec.methods.factored_optimizers import Adafactor as AdafactorConfig


class Adafactor(FactoredBase):
    """Adafactor (Shazeer and Stern, ICML 2018, arXiv 1804.04235) in the form of torch.optim.Adafactor.

    For each tensor p with gradient g at step t, and RMS(x) = ||x|| / sqrt(elements of x)::

        b     = 1 - t^beta2_decay                     rho = min(eta, 1 / sqrt(t))
        R     = b R + (1 - b) mean of g^2 over each row                [rows]
        C     = b C + (1 - b) mean of g^2 over each column             [columns]
        V     = R C / max(mean(R), eps1)              V = b V + (1 - b) g^2 with fewer than two dimensions
        u     = g / max(sqrt(V), eps1)
        alpha = max(eps2, RMS(p)) rho / max(1, RMS(u) / d)
        p     = p - eta lambda p - alpha u

    Rows and columns are those of the last two dimensions. Two collectives where tensors are divided, whatever their
    number, and none otherwise; torch's own fails on DTensors and waits for the device twice per tensor.

    Args:
        params: tensors or groups.
        lr: eta, >= 0.
        beta2_decay: <= 0.
        eps: (eps1, eps2), each > 0; None for eps1 is the precision of the tensor's type.
        d: >= 1.
        weight_decay: lambda, >= 0.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def _new_state(self, tensor: Tensor) -> dict[str, Tensor]:
        if tensor.dim() < 2:
            return {"variance": torch.zeros_like(tensor)}
        return self._new_factors(tensor, "row_var", "col_var")

    def _step_of(self, part: Part, *, is_alone: bool) -> TensorStep:
        group, state = part.group, self.state[part.tensor]
        p, g = part.of(part.tensor), part.gradient()
        lr, step, numel = float(group["lr"]), int(state["step"]), prod(part.shape)
        weight = step ** group["beta2_decay"]
        eps1, eps2 = group["eps"]
        eps1 = torch.finfo(p.dtype).eps if eps1 is None else eps1
        squares = sum_of_squares(p).view(1)
        if p.dim() < 2:
            variance = part.of(state["variance"]).lerp_(g.square(), weight)
            sums = yield squares
        else:
            factors = Factors(part.of(state["row_var"]), part.of(state["col_var"]), part.shape[-2])
            sums = yield torch.cat([squares, factors.measure(g, weight)])
            mean = factors.finish(sums[1:], weight).clamp(min=eps1)

        def direction() -> Tensor:
            moment = variance.clone() if p.dim() < 2 else factors.row / mean * factors.col
            return torch.div(g, moment.sqrt_().clamp_(min=eps1), out=moment)

        # Keeping the directions of all tensors at once would take the memory that factors save.
        u = cache(direction) if is_alone else direction
        (length,) = yield sum_of_squares(u()).view(1)
        alpha = (sums[0] / numel).sqrt().clamp(min=eps2) * min(lr, step**-0.5)
        alpha = alpha / ((length / numel).sqrt() / group["d"]).clamp(min=1.0)
        if group["weight_decay"]:
            p.mul_(1 - lr * group["weight_decay"])
        p.sub_(u().mul_(alpha))


def build_adafactor(config: AdafactorConfig, model: nn.Module, collectives: Collectives) -> torch.optim.Optimizer:
    """Adafactor over the model's trainable parameters."""
    return Adafactor(
        parameter_groups(model, config), lr=config.lr, beta2_decay=config.beta2_decay, eps=config.eps, d=config.d
    )
