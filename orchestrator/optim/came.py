"""CAME, Adafactor's memory with a momentum that is trusted by its steadiness, on whole tensors and rows of them."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.sums import sum_of_squares
from orchestrator.optim.factored import FactoredBase, Factors, TensorStep, no_sums
from orchestrator.optim.grouping import parameter_groups
from orchestrator.optim.layerwise import Part
from orchestrator.spec.methods.factored_optimizers import Came as CameConfig


class Came(FactoredBase):
    """CAME (Luo et al., ACL 2023, arXiv 2307.02047).

    For each tensor p with gradient g, with row(x) and col(x) the means over each row and each column of x, and
    RMS(x) = ||x|| / sqrt(elements of x)::

        R = beta2 R + (1 - beta2) row(g^2 + eps1)      C = beta2 C + (1 - beta2) col(g^2 + eps1)
        u = g / sqrt(R C / mean(R))                    u = u / max(1, RMS(u) / clip_threshold)
        m = beta1 m + (1 - beta1) u
        r = beta3 r + (1 - beta3) row((u - m)^2 + eps2)
        c = beta3 c + (1 - beta3) col((u - m)^2 + eps2)
        p = p - eta lambda p - eta m / sqrt(r c / mean(r))

    Rows and columns are those of the last two dimensions. With fewer than two, the second moment of the gradient is
    kept as it is, and p moves by eta m. Three collectives where tensors are divided, whatever their number, and none
    otherwise.

    Args:
        params: tensors or groups.
        lr: eta, >= 0.
        betas: (beta1, beta2, beta3), each in [0, 1).
        eps: (eps1, eps2), each > 0.
        clip_threshold: > 0.
        weight_decay: lambda, >= 0.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 2e-4,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        eps: tuple[float, float] = (1e-30, 1e-16),
        clip_threshold: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "clip_threshold": clip_threshold,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)

    def _new_state(self, tensor: Tensor) -> dict[str, Tensor]:
        average = torch.zeros_like(tensor)
        if tensor.dim() < 2:
            return {"exp_avg": average, "exp_avg_sq": torch.zeros_like(tensor)}
        return {
            "exp_avg": average,
            **self._new_factors(tensor, "exp_avg_sq_row", "exp_avg_sq_col"),
            **self._new_factors(tensor, "exp_avg_res_row", "exp_avg_res_col"),
        }

    def _step_of(self, part: Part, *, is_alone: bool) -> TensorStep:
        group, state = part.group, self.state[part.tensor]
        p, g, m = part.of(part.tensor), part.gradient(), part.of(state["exp_avg"])
        lr, (beta1, beta2, beta3), (eps1, eps2) = float(group["lr"]), group["betas"], group["eps"]
        if p.dim() < 2:
            moment = part.of(state["exp_avg_sq"]).lerp_(g.square().add_(eps1), 1 - beta2)
            yield no_sums(g)
        else:
            squares = self._factors(part, "exp_avg_sq")
            sums = yield squares.measure(g, 1 - beta2, eps1)
            mean = squares.finish(sums, 1 - beta2, eps1)

        def direction() -> Tensor:
            return g * moment.rsqrt() if p.dim() < 2 else _divide(g, squares, mean)

        # Keeping the directions of all tensors at once would take the memory that factors save.
        u = cache(direction) if is_alone else direction
        (length,) = yield sum_of_squares(u()).view(1)
        clipped = u().div_(((length / prod(part.shape)).sqrt() / group["clip_threshold"]).clamp(min=1.0))
        m.lerp_(clipped, 1 - beta1)
        if p.dim() < 2:
            yield no_sums(g)
            step = m
        else:
            residuals = self._factors(part, "exp_avg_res")
            own = residuals.measure(clipped.sub_(m), 1 - beta3, eps2)
            del clipped
            sums = yield own
            step = _divide(m, residuals, residuals.finish(sums, 1 - beta3, eps2))
        if group["weight_decay"]:
            p.mul_(1 - lr * group["weight_decay"])
        p.sub_(step, alpha=lr)

    def _factors(self, part: Part, name: str) -> Factors:
        state = self.state[part.tensor]
        return Factors(part.of(state[f"{name}_row"]), part.of(state[f"{name}_col"]), part.shape[-2])


def _divide(x: Tensor, factors: Factors, mean: Tensor) -> Tensor:
    """X / sqrt(R C / mean(R)), a new tensor."""
    return (x * (factors.row / mean).rsqrt()).mul_(factors.col.rsqrt())


def build_came(config: CameConfig, model: nn.Module, collectives: Collectives) -> torch.optim.Optimizer:
    """Came over the model's trainable parameters."""
    return Came(
        parameter_groups(model, config),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        clip_threshold=config.clip_threshold,
    )
