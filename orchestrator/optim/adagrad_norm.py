"""AdaGrad-Norm, SGD whose one rate falls with the sum of all squared gradient norms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import UnsupportedLayoutError
from orchestrator.core.layout import ShardLayout
from orchestrator.core.reduction import Reduction
from orchestrator.core.sums import sum_of_squares
from orchestrator.optim.grouping import parameter_groups
from orchestrator.optim.layerwise import LayerwiseBase, Part
from orchestrator.spec.methods.layerwise_optimizers import AdagradNorm as AdagradNormConfig


def rate_of(sum_of_norms: Tensor, lr: float, eps: float) -> Tensor:
    """The rate lr / (sqrt(sum) + eps); 0 where the sum is 0, as no gradient has been seen then."""
    return torch.where(sum_of_norms > 0, lr / (sum_of_norms.sqrt() + eps), torch.zeros_like(sum_of_norms))


class AdagradNorm(LayerwiseBase):
    """AdaGrad-Norm (Streeter and McMahan 2010, arXiv 1002.4862; Ward, Wu and Bottou, ICML 2019, arXiv 1806.01811).

    With the gradient g over all parameters together, and one number v for the whole model::

        v = v + ||g||^2            p = p - eta g / (sqrt(v) + eps) - eta lambda p

    v starts from the square of ``initial_accumulator``. The decay is apart from the gradient and not divided. One
    reduction for each step where tensors are divided.

    Args:
        params: tensors or groups.
        lr: eta, >= 0.
        initial_accumulator: root of the first v, b_0 in the papers, >= 0.
        eps: >= 0.
        weight_decay: lambda, >= 0.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.01,
        initial_accumulator: float = 0.0,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "eps": eps, "weight_decay": weight_decay})
        if not initial_accumulator >= 0:
            raise ValueError(f"initial_accumulator is {initial_accumulator}; it must be at least 0.")
        self._initial = initial_accumulator**2

    def attach(self, layout: ShardLayout) -> None:
        """Refuse flat partitions.

        Raises:
            UnsupportedLayoutError: always.
        """
        raise UnsupportedLayoutError(
            "AdagradNorm steps on all parameters at once, and ZeRO on one partition after another."
        )

    def _new_state(self, tensor: Tensor) -> dict[str, Tensor]:
        return {"sum": torch.full_like(self._new_numbers(tensor), self._initial, dtype=torch.float64)}

    def _update(self, parts: list[Part], reduction: Reduction) -> None:
        squares = reduction.whole(torch.stack([sum_of_squares(part.gradient()) for part in parts]).unsqueeze(1))
        # Every tensor keeps the number of the whole model; one that had no gradient before takes over the others'.
        known = [self.state[part.tensor]["sum"] for part in parts]
        total = torch.stack(known).max() + squares.sum()
        for part, own in zip(parts, known, strict=True):
            own.copy_(total)
            group, p = part.group, part.of(part.tensor)
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.addcmul_(part.gradient(), rate_of(total, group["lr"], group["eps"]).to(p), value=-1)


def build_adagrad_norm(config: AdagradNormConfig, model: nn.Module, collectives: Collectives) -> torch.optim.Optimizer:
    """AdagradNorm over the model's trainable parameters."""
    return AdagradNorm(
        parameter_groups(model, config),
        lr=config.lr,
        initial_accumulator=config.initial_accumulator,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
