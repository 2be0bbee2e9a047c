"""The collectives that the training side needs, behind one small class that a world of one also satisfies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Collectives:
    """Collectives over a process group; without any, a world of a single rank.

    Every method is called by all ranks of the group in the same order.

    Args:
        group: None is the default group, of all ranks.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        grouped = dist.is_available() and dist.is_initialized()
        self.group = group
        self.rank: int = dist.get_rank(group) if grouped else 0
        self.world_size: int = dist.get_world_size(group) if grouped else 1

    @property
    def device(self) -> torch.device:
        """Where messages must lie: the ranks' own GPU where they talk over NCCL alone, else host memory."""
        if self.world_size > 1 and dist.get_backend(self.group) == "nccl":
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")

    def apart(self) -> Collectives:
        """The same ranks in a group of their own, for a thread beside others; called by all in the same order."""
        return self if self.world_size == 1 else Collectives(dist.new_group())

    def on_hosts(self) -> Collectives:
        """The same ranks in a group of their own over host memory, for a thread beside the training's."""
        return self if self.world_size == 1 else Collectives(dist.new_group(backend="gloo"))

    def halves(self) -> Halves:
        """Two halves of an even number of ranks, in rank order; called by all in the same order."""
        half = self.world_size // 2
        members = [range(half), range(half, self.world_size), *((rank, rank + half) for rank in range(half))]
        groups = [dist.new_group(list(ranks)) for ranks in members]
        return Halves(own=Collectives(groups[self.rank // half]), twins=Collectives(groups[2 + self.rank % half]))

    def sum_(self, tensor: Tensor, *, wait: bool = True) -> dist.Work | None:
        """Sum over ranks in place; with ``wait=False`` returns the handle to wait on (None in a world of one)."""
        if self.world_size == 1:
            return None
        work: dist.Work | None = dist.all_reduce(tensor, group=self.group, async_op=not wait)
        return work

    def sum_int(self, value: int) -> int:
        """Sum of one integer over ranks."""
        tensor = torch.tensor(value, dtype=torch.int64, device=self.device)
        self.sum_(tensor)
        return int(tensor)

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite the tensors of every rank by rank 0's, one message per element type."""
        if self.world_size == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in same])
            dist.broadcast(flat, src=0, group=self.group)
            for tensor, piece in zip(same, flat.split([tensor.numel() for tensor in same]), strict=True):
                tensor.detach().copy_(piece.view_as(tensor))

    def broadcast_from_(self, tensor: Tensor, source: int) -> None:
        """Overwrite the tensor of every rank by that of one."""
        if self.world_size > 1:
            dist.broadcast(tensor, src=source, group=self.group)

    def broadcast_model_(self, model: nn.Module, device: torch.device) -> None:
        """Overwrite the weights and buffers of a model in host memory by rank 0's, one by one over the device."""
        for tensor in (*model.parameters(), *model.buffers()):
            staged = tensor.detach().to(device)
            self.broadcast_([staged])
            tensor.detach().copy_(staged)

    def all_gather_object(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order. Pickles: only for small values of our own making."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value, group=self.group)
        return gathered

    def gather_object(self, value: Any) -> list[Any] | None:
        """Every rank's value on rank 0, in rank order; None on the others. Pickles."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] | None = [None] * self.world_size if self.rank == 0 else None
        dist.gather_object(value, gathered, group=self.group, group_dst=0)
        return gathered

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier(group=self.group)


@dataclass(frozen=True, slots=True)
class Halves:
    """The ranks in two halves; sums over a rank's half and then its twins are sums over all."""

    own: Collectives
    """Those of this rank's half."""
    twins: Collectives
    """This rank and the one in its place in the other half, that of the first half first."""
