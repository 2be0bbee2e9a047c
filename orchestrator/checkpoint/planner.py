"""How torch.distributed.checkpoint writes and reads pieces: every tensor as a flat one, in runs of elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    ReadItem,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from orchestrator.core.shards import Piece


def _chunk(piece: Piece) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(offsets=torch.Size([piece.start]), sizes=torch.Size([piece.data.numel()]))


class PieceWriter(DefaultSavePlanner):
    """Plans the writing of a mapping of pieces."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def create_local_plan(self) -> SavePlan:
        """One item per piece that is not empty; a tensor without elements has its place in the table as well."""
        written = {name: piece for name, piece in self.state_dict.items() if len(piece.data) or not piece.numel}
        self.plan = SavePlan([_write_item(name, piece) for name, piece in written.items()])
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        """The elements of an item."""
        piece: Piece = self.state_dict[index.fqn]
        return piece.data


def _write_item(name: str, piece: Piece) -> WriteItem:
    return WriteItem(
        index=MetadataIndex(name, torch.Size([piece.start])),
        type=WriteItemType.SHARD,
        tensor_data=TensorWriteData(
            chunk=_chunk(piece),
            properties=TensorProperties.create_from_tensor(piece.data),
            size=torch.Size([piece.numel]),
        ),
    )


class PieceReader(DefaultLoadPlanner):
    """Plans the reading into a mapping of pieces: only the stored runs that a piece overlaps."""

    def set_up_planner(
        self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """See the base class, which would look inside the pieces."""
        self.state_dict = state_dict
        self.metadata = metadata
        self.is_coordinator = is_coordinator

    def create_local_plan(self) -> LoadPlan:
        """Items for every piece that is not empty."""
        assert self.metadata is not None  # torch sets it up before it asks
        items: list[ReadItem] = []
        for name, piece in self.state_dict.items():
            stored = self.metadata.state_dict_metadata[name]
            assert isinstance(stored, TensorStorageMetadata)  # `read_table` has made sure
            if len(piece.data):
                items += create_read_items_for_chunk_list(name, stored, [_chunk(piece)])
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        """Where an item's elements go."""
        piece: Piece = self.state_dict[index.fqn]
        return piece.data


def first_fault(table: Metadata, shapes: Mapping[str, Sequence[int]]) -> str | None:
    """The first tensor whose stored runs are not exactly its elements, and how; None where all is in order."""
    for name in sorted(shapes.keys() ^ table.state_dict_metadata.keys()):
        return f"{name!r} are not in both the manifest and the table of contents"
    for name, shape in shapes.items():
        stored = table.state_dict_metadata[name]
        assert isinstance(stored, TensorStorageMetadata)  # pieces are nothing else, `read_table` has made sure
        end = 0
        for chunk in sorted(stored.chunks, key=lambda chunk: chunk.offsets[0]):
            if chunk.offsets[0] != end:
                return f"{name!r} do not follow each other at element {end}"
            end += chunk.sizes[0]
        if (end,) != tuple(stored.size) or end != prod(shape):
            return f"{name!r} end at element {end} of {prod(shape)}"
    return None
