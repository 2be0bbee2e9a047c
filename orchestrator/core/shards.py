"""Pieces of tensors: how every engine shows its state, whatever it divides among the ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Protocol

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from orchestrator.core.errors import CheckpointError

SMALL_TENSOR = 2**16
"""Elements below which a tensor that all ranks hold is written by one of them as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A run of consecutive elements of one whole tensor, counted in row-major order.

    Rows of a tensor (FSDP2), a run of a flat buffer of many (ZeRO) and a whole tensor (a replica) are all such runs,
    so one form carries the state of every engine into every other.
    """

    data: Tensor
    """The elements, [number of elements], on the rank's device; empty where the rank holds none."""
    start: int
    """Index of the first element in the whole tensor."""
    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    on_all_ranks: bool = False
    """Whether every rank holds the same elements."""
    live: Tensor | None = None
    """The tensor that ``data`` was copied from, where it could not be viewed as a run; None where ``data`` is live."""

    @property
    def numel(self) -> int:
        """Elements of the whole tensor."""
        return prod(self.shape)

    def part(self, start: int, stop: int) -> Piece:
        """The elements ``start`` to ``stop`` of this piece."""
        return replace(self, data=self.data[start:stop], start=self.start + start, on_all_ranks=False)

    def commit(self) -> None:
        """Give what was written into ``data`` to the live tensor."""
        if self.live is not None:
            with torch.no_grad():
                self.live.copy_(self.data.view(self.live.shape))


class SavedState(Protocol):
    """A checkpoint that pieces can be read from."""

    @property
    def names(self) -> frozenset[str]:
        """Names of all its tensors."""

    def read(self, pieces: Mapping[str, Piece]) -> None:
        """Overwrite the elements of the pieces; they must be those of all the tensors.

        Raises:
            CheckpointError: where names or shapes differ, or the files are damaged.
        """


def piece_of(tensor: Tensor) -> Piece:
    """A rank's piece of a tensor that it holds as a whole, or of a DTensor sharded by rows.

    Raises:
        CheckpointError: where a DTensor is divided in another way.
    """
    if not isinstance(tensor, DTensor):
        return _run(tensor.detach(), start=0, shape=tuple(tensor.shape), on_all_ranks=True)
    if not all(isinstance(p, Replicate) or (isinstance(p, Shard) and p.dim == 0) for p in tensor.placements):
        raise CheckpointError(f"A tensor placed as {tensor.placements} cannot be saved: only rows can be divided.")
    start = _first_element(tensor.shape, tensor.device_mesh, tensor.placements)
    on_all_ranks = all(isinstance(placement, Replicate) for placement in tensor.placements)
    with torch.no_grad():  # else torch would record the way to the rows
        local = tensor.to_local()
    return _run(local.detach(), start=start, shape=tuple(tensor.shape), on_all_ranks=on_all_ranks)


@cache  # a training asks for the same ones at every checkpoint, and torch takes its time
def _first_element(shape: torch.Size, mesh: DeviceMesh, placements: tuple[Placement, ...]) -> int:
    _, offset = compute_local_shape_and_global_offset(shape, mesh, placements)
    return offset[0] * prod(shape[1:]) if offset else 0


def _run(local: Tensor, *, start: int, shape: tuple[int, ...], on_all_ranks: bool) -> Piece:
    if local.is_contiguous():
        return Piece(data=local.view(-1), start=start, shape=shape, on_all_ranks=on_all_ranks)
    return Piece(data=local.contiguous().view(-1), start=start, shape=shape, on_all_ranks=on_all_ranks, live=local)


def to_write(pieces: Mapping[str, Piece], rank: int, world_size: int) -> dict[str, Piece]:
    """What this rank writes of its pieces: of what all ranks hold, every rank takes its share."""
    written: dict[str, Piece] = {}
    for index, (name, piece) in enumerate(pieces.items()):
        size = piece.data.numel()
        if not piece.on_all_ranks:
            written[name] = piece
        elif size < SMALL_TENSOR:
            written[name] = piece.part(0, size if index % world_size == rank else 0)
        else:
            written[name] = piece.part(size * rank // world_size, size * (rank + 1) // world_size)
    return written
