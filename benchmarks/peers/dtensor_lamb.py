"""LAMB as one writes it in plain tensor operations, given DTensors: torch's dispatch does the communication."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


class DTensorLamb(torch.optim.Optimizer):
    """The paper's LAMB on DTensors, tensor after tensor.

    Args:
        params: DTensors.
        lr: learning rate.
        norms: ``each`` finishes the two norms of every tensor on their own; ``batched`` finishes those of all tensors
            in one message, as far as plain operations allow it.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, norms: str) -> None:
        super().__init__(params, {"lr": lr})
        self._norms = norms
        self._step = 0

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step with beta (0.9, 0.999), eps 1e-6 and decay 0.01."""
        self._step += 1
        for group in self.param_groups:
            updates = [self._direction(parameter) for parameter in group["params"]]
            ratios = self._ratios(group["params"], updates)
            for parameter, update, ratio in zip(group["params"], updates, ratios, strict=True):
                parameter.sub_(update.mul_(ratio), alpha=group["lr"])

    def _direction(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state.update(m=torch.zeros_like(parameter), v=torch.zeros_like(parameter))
        gradient = parameter.grad
        assert gradient is not None
        state["m"].mul_(0.9).add_(gradient, alpha=0.1)
        state["v"].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        root = (state["v"] / (1 - 0.999**self._step)).sqrt_().add_(1e-6)
        direction: Tensor = (state["m"] / (1 - 0.9**self._step)).div_(root).add_(parameter, alpha=0.01)
        return direction

    def _ratios(self, parameters: list[Tensor], updates: list[Tensor]) -> list[Tensor]:
        if self._norms == "batched":
            norms = torch.stack([tensor.norm() for tensor in (*parameters, *updates)])
            weights, lengths = _whole(norms).split(len(parameters))
        else:
            weights = torch.stack([_whole(parameter.norm()) for parameter in parameters])
            lengths = torch.stack([_whole(update.norm()) for update in updates])
        defined = (weights > 0) & (lengths > 0)
        return list(torch.where(defined, weights / lengths, torch.ones_like(weights)))


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
