"""All ranks' rows on every rank, and back: what one sends out the other sums to whom it belongs."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.losses.peers import Peers


def gather(rows: Tensor, peers: Peers) -> Tensor:
    """The rows of all ranks in the order of the ranks, shape [all samples, width].

    A row's gradient is the sum of what it is on every rank, as the losses of all ranks are summed. A collective, and
    so is its backward.

    Args:
        rows: this rank's, shape [samples, width].
        peers: of the batch.
    """
    if peers.world_size == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows, peers)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, peers: Peers) -> Tensor:
        ctx.peers = peers
        longest = max(peers.num_rows)
        own = rows.new_zeros(longest, rows.shape[1])
        own[: len(rows)] = rows
        everything = own.new_empty(peers.world_size * longest, rows.shape[1])
        dist.all_gather_into_tensor(everything, own)
        parts = everything.split(longest)
        return torch.cat([part[:count] for part, count in zip(parts, peers.num_rows, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _SumToOwners.apply(gradient, ctx.peers), None  # type: ignore[no-untyped-call]


class _SumToOwners(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, peers: Peers) -> Tensor:
        ctx.peers = peers
        longest = max(peers.num_rows)
        everything = rows.new_zeros(peers.world_size * longest, rows.shape[1])
        for part, own in zip(everything.split(longest), rows.split(list(peers.num_rows)), strict=True):
            part[: len(own)] = own
        summed = rows.new_empty(longest, rows.shape[1])
        dist.reduce_scatter_tensor(summed, everything)
        return summed[: peers.num_rows[peers.rank]]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Gather.apply(gradient, ctx.peers), None  # type: ignore[no-untyped-call]
