"""The collectives that the training side needs, behind one small class that a world of one also satisfies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Collectives:
    """Collectives over the default process group; without one, a world of a single rank.

    Every method is called by all ranks in the same order.
    """

    def __init__(self) -> None:
        grouped = dist.is_available() and dist.is_initialized()
        self.rank: int = dist.get_rank() if grouped else 0
        self.world_size: int = dist.get_world_size() if grouped else 1

    def sum_(self, tensor: Tensor, *, wait: bool = True) -> dist.Work | None:
        """Sum over ranks in place; with ``wait=False`` returns the handle to wait on (None in a world of one)."""
        if self.world_size == 1:
            return None
        work: dist.Work | None = dist.all_reduce(tensor, async_op=not wait)
        return work

    def sum_int(self, value: int) -> int:
        """Sum of one integer over ranks."""
        tensor = torch.tensor(value, dtype=torch.int64)
        self.sum_(tensor)
        return int(tensor)

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite the tensors of every rank by rank 0's, one message per element type."""
        if self.world_size == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in same])
            dist.broadcast(flat, src=0)
            for tensor, piece in zip(same, flat.split([tensor.numel() for tensor in same]), strict=True):
                tensor.detach().copy_(piece.view_as(tensor))

    def all_gather_object(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order. Pickles: only for small values of our own making."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier()
