"""How sums over this rank's elements become sums over whole parameters: one message, whatever divides them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import UnsupportedLayoutError


@dataclass(frozen=True, slots=True)
class Reduction:
    """Adds sums over the ranks that share parameters."""

    add: Callable[[Tensor], object] | None
    """Adds a tensor over these ranks in place; None where nothing is divided."""
    device: torch.device
    """Where ``add`` expects its tensor."""
    copies: Tensor | None = None
    """On how many of these ranks the same elements lie, [parameters, 1] in float64; None is on one each."""

    @property
    def is_needed(self) -> bool:
        """Whether a rank's own sums are not yet those of whole parameters."""
        return self.add is not None

    def whole(self, sums: Tensor) -> Tensor:
        """Sums over whole parameters from those over this rank's elements, [parameters, sums]; a collective."""
        if self.add is None:
            return sums
        message = sums.to(self.device)
        if self.copies is not None:
            message = message / self.copies.to(self.device, non_blocking=True)
        self.add(message)
        return message.to(sums.device)

    def of_rows(self, rows: Sequence[int]) -> Reduction:
        """The same for some of the parameters, by their numbers."""
        return self if self.copies is None else replace(self, copies=self.copies[list(rows)])

    @classmethod
    def over(cls, collectives: Collectives) -> Reduction:
        """Over all ranks of the job, each with elements of its own."""
        return NOTHING_DIVIDED if collectives.world_size == 1 else cls(collectives.sum_, collectives.device)


NOTHING_DIVIDED = Reduction(None, torch.device("cpu"))


def reduction_of_dtensors(tensors: Sequence[Tensor]) -> Reduction:
    """The reduction for parameters that are DTensors or whole.

    The ranks that divide any of them add their sums in one message; what several of these hold alike is divided by
    their number first. Replica groups (hybrid sharding) add apart from each other, in the same order, and so agree.

    Raises:
        UnsupportedLayoutError: where they lie on several meshes, or hold partial sums.
    """
    mesh = _widest_mesh(tensors)
    if mesh is None:
        return NOTHING_DIVIDED
    divided = [_dividing_dimensions(tensor) for tensor in tensors]
    sizes = {name: mesh.size(index) for index, name in enumerate(_names(mesh)) if any(name in own for own in divided)}
    if prod(sizes.values()) == 1:
        return NOTHING_DIVIDED
    copies = torch.tensor(
        [[prod(size for name, size in sizes.items() if name not in own)] for own in divided],
        dtype=torch.float64,
    )
    group = _group(mesh, list(sizes))

    def add(message: Tensor) -> object:
        return dist.all_reduce(message, group=group)

    return Reduction(add, torch.device(mesh.device_type), None if bool((copies == 1).all()) else copies)


def _widest_mesh(tensors: Sequence[Tensor]) -> DeviceMesh | None:
    """The mesh of which those of all DTensors are parts; None where there is no DTensor."""
    meshes = {tensor.device_mesh for tensor in tensors if isinstance(tensor, DTensor)}
    if not meshes:
        return None
    widest = max(meshes, key=lambda mesh: mesh.ndim)
    if any(mesh != widest and not set(_names(mesh)) < set(_names(widest)) for mesh in meshes):
        raise UnsupportedLayoutError(f"Parameters on {len(meshes)} device meshes cannot share the sums of one step.")
    return widest


def _names(mesh: DeviceMesh) -> tuple[str, ...]:
    return mesh.mesh_dim_names or tuple(f"{index} of {mesh}" for index in range(mesh.ndim))


def _dividing_dimensions(tensor: Tensor) -> set[str]:
    """Names of the mesh's dimensions that divide a tensor."""
    if not isinstance(tensor, DTensor):
        return set()
    if any(placement.is_partial() for placement in tensor.placements):
        raise UnsupportedLayoutError(f"A parameter that lies as {tensor.placements} holds sums that are not finished.")
    placed = zip(_names(tensor.device_mesh), tensor.placements, strict=True)
    return {name for name, placement in placed if not placement.is_replicate()}


def _group(mesh: DeviceMesh, names: list[str]) -> dist.ProcessGroup:
    """The ranks that differ in these dimensions only."""
    if len(names) == 1:
        return mesh.get_group(_names(mesh).index(names[0]))
    if mesh.mesh_dim_names is None:
        raise UnsupportedLayoutError("A mesh that divides parameters in several dimensions needs names for them.")
    return mesh[tuple(names)]._flatten().get_group()
