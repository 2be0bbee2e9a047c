"""A model of many weights and next to no computing, for measuring how gradients travel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NUM_TENSORS = 20


class Wide:
    """Twenty vectors; the gradient of each is a constant.

    Args:
        parameters: their elements together.
    """

    def __init__(self, parameters: int) -> None:
        self.parameters = parameters

    def build_model(self) -> nn.Module:
        """The vectors."""
        model = nn.Module()
        model.vectors = nn.ParameterList(
            nn.Parameter(torch.full((self.parameters // NUM_TENSORS,), 0.1)) for _ in range(NUM_TENSORS)
        )
        return model

    def build_datasets(self) -> tuple[Any, None]:
        """512 ones."""
        return [{"x": torch.ones(1)} for _ in range(512)], None

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean of the weights."""
        x = batch["x"].mean()
        sums = torch.stack([(vector * x).sum() for vector in model.parameters()])
        return sums.sum() / self.parameters, {}
