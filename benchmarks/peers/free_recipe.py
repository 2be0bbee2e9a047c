"""A model of many weights whose gradient costs one pass over memory, for measuring how pushes travel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

GRADIENT = 1e-6


class _InnerProduct(Function):
    """The inner product with a constant vector, as far as its gradient goes; its value is not computed."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor) -> Tensor:
        """A number that depends on the vector."""
        ctx.num_elements = len(vector)
        return vector[0] * GRADIENT

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        """The constant vector: no memory of its own."""
        return (grad_outputs[0] * GRADIENT).expand(ctx.num_elements)


def _inner_product(vector: Tensor) -> Tensor:
    product: Tensor = _InnerProduct.apply(vector)  # type: ignore[no-untyped-call]
    return product


class Free:
    """One flat parameter in equal pieces, so that as many shards can own it.

    Args:
        parameters: elements of all pieces together.
        pieces: their number.
    """

    def __init__(self, parameters: int, pieces: int) -> None:
        self.parameters = parameters
        self.pieces = pieces

    def build_model(self) -> nn.Module:
        """The pieces."""
        model = nn.Module()
        size = self.parameters // self.pieces
        model.vectors = nn.ParameterList(nn.Parameter(torch.full((size,), 0.1)) for _ in range(self.pieces))
        return model

    def build_datasets(self) -> tuple[Any, None]:
        """512 ones."""
        return [{"x": torch.ones(1)} for _ in range(512)], None

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the inner products."""
        products = [_inner_product(vector) for vector in model.parameters()]
        return torch.stack(products).sum() * batch["x"].mean(), {}
