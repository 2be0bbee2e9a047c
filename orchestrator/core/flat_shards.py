"""Trainable parameters laid end to end, one flat array for each shard: whole tensors, sizes balanced."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from orchestrator.core.errors import RecipeError


def balance(sizes: Sequence[int], num_shards: int) -> list[int]:
    """The shard of each tensor: the largest first, each to the shard that has least so far. Depends on sizes only."""
    loads = [(0, shard) for shard in range(num_shards)]
    owners = [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        load, shard = heapq.heappop(loads)
        owners[index] = shard
        heapq.heappush(loads, (load + sizes[index], shard))
    return owners


class FlatShards:
    """A model whose trainable parameters are views of flat arrays, the same on every process of a job.

    Args:
        model: set up, on its device; its parameters are moved into the flat arrays.
        num_shards: processes that own the weights.

    Raises:
        RecipeError: where trainable parameters differ in their element type, or a shard would own none.
    """

    def __init__(self, model: nn.Module, num_shards: int) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        types = {str(p.dtype) for _, p in named}
        if len(types) > 1:
            raise RecipeError(
                f"Trainable parameters are of the types {', '.join(sorted(types))}; served exchanges send gradients of "
                "one type."
            )
        if any(tensor.dtype == torch.bfloat16 for tensor in (*model.parameters(), *model.buffers())):
            raise RecipeError(
                "The model holds bfloat16 tensors, which served exchanges cannot publish. Keep them in float32; "
                "train.precision: bf16 computes in bfloat16 all the same."
            )
        if len(named) < num_shards:
            raise RecipeError(
                f"exchange.shards is {num_shards}, but the model has {len(named)} trainable tensors, and each shard "
                f"owns whole ones. Legal: at most {len(named)}."
            )
        owners = balance([p.numel() for _, p in named], num_shards)
        self.members: list[list[tuple[str, nn.Parameter]]] = [
            [member for member, owner in zip(named, owners, strict=True) if owner == shard]
            for shard in range(num_shards)
        ]
        """(name, parameter) of each shard's tensors, in the model's order."""
        self.weights: list[Tensor] = [_flatten([p for _, p in members]) for members in self.members]
        """Each shard's flat array, [elements]; the parameters are views of it."""

    def point_gradients(self) -> list[Tensor]:
        """Make every ``.grad`` a view of flat arrays of zeros that lie as ``weights``; returns these."""
        flats = [torch.zeros_like(flat) for flat in self.weights]
        for shard, flat in enumerate(flats):
            self.point_gradients_of(shard, flat)
        return flats

    def point_gradients_of(self, shard: int, flat: Tensor) -> None:
        """Make the gradients of one shard's parameters views of ``flat``."""
        offset = 0
        for _, parameter in self.members[shard]:
            parameter.grad = flat[offset : offset + parameter.numel()].view_as(parameter)
            offset += parameter.numel()


def _flatten(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The parameters' values end to end; each is made a view of it."""
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    offset = 0
    for parameter in parameters:
        parameter.data = flat[offset : offset + parameter.numel()].view(parameter.shape)
        offset += parameter.numel()
    return flat
