"""Squared norms of gradients, exact enough to be subtracted from each other, of modules and of what ranks share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

Runs: TypeAlias = Sequence[tuple[int, int]]
"""What lies in a flat tensor, one after the other: numbers of modules, each with how many elements."""
_RUN = 4096
"""Elements whose squares are added in their own precision: a longer sum of them is wrong in the fourth digit."""


def run_norms(tensor: Tensor) -> list[Tensor]:
    """Norms of runs of elements, in vectors on the tensor's device, whose squares add up to that of the tensor."""
    flat = tensor.detach().reshape(-1)
    if flat.dtype in (torch.float16, torch.bfloat16):
        flat = flat.float()
    whole = flat.numel() // _RUN * _RUN
    norms = [torch.linalg.vector_norm(flat[whole:], dim=0, keepdim=True)] if whole < flat.numel() else []
    return [torch.linalg.vector_norm(flat[:whole].view(-1, _RUN), dim=1), *norms] if whole else norms


def squared_norm(norms: list[Tensor]) -> Tensor:
    """Sum of the squares of what ``run_norms`` gave, a float64 scalar; of nothing 0, in host memory."""
    return torch.cat(norms).double().square().sum() if norms else torch.zeros((), dtype=torch.float64)


def squared_norms(norms: Sequence[list[Tensor]]) -> Tensor:
    """Squared norm of each of several lists of what ``run_norms`` gave, [lists] in float64."""
    device = next((some[0].device for some in norms if some), torch.device("cpu"))
    # A zero that came from host memory would make this process wait for the GPU.
    zero = torch.zeros((), dtype=torch.float64, device=device)
    return torch.stack([squared_norm(some) if some else zero for some in norms])


def inner_product(one: Tensor, other: Tensor) -> Tensor:
    """Sum of the products of all elements, a float64 scalar."""
    return (one.detach().reshape(-1).double() * other.detach().reshape(-1).double()).sum()


def module_norms(tensor: Tensor, runs: Runs, num_modules: int) -> list[list[Tensor]]:
    """What ``run_norms`` gives of each module's elements in a tensor; elements after the last run are padding."""
    norms: list[list[Tensor]] = [[] for _ in range(num_modules)]
    flat, offset = tensor.detach().reshape(-1), 0
    for module, length in runs:
        norms[module] += run_norms(flat[offset : offset + length])
        offset += length
    return norms


def squared_norms_of_sum(
    gradients: Iterable[tuple[int, Tensor | None]], world_size: int, num_modules: int
) -> list[Tensor]:
    """Parts of the squared norms of the step's gradient on this rank; what several ranks hold is divided by them.

    Args:
        gradients: each with the number of its module.
        world_size: ranks.
        num_modules: of the model.

    Returns:
        Vectors [modules] that add up to the squared norms, over them and all ranks.
    """
    norms: dict[int, list[list[Tensor]]] = {}
    for module, gradient in gradients:
        if gradient is not None:
            own, copies = _own_elements(gradient, world_size)
            norms.setdefault(copies, [[] for _ in range(num_modules)])[module].extend(run_norms(own))
    return [squared_norms(some) / copies for copies, some in norms.items()]


def _own_elements(gradient: Tensor, world_size: int) -> tuple[Tensor, int]:
    """This rank's elements, and how many ranks hold them."""
    if not isinstance(gradient, DTensor):
        return gradient, world_size
    mesh = gradient.device_mesh
    sizes = (mesh.size(index) for index, place in enumerate(gradient.placements) if place.is_replicate())
    return gradient.to_local(), math.prod(sizes)
