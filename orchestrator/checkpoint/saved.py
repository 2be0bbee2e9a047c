"""Reading a checkpoint: any rank of any world reads the runs of elements that it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from orchestrator.checkpoint.manifest import Manifest
from orchestrator.checkpoint.planner import PieceReader, first_fault
from orchestrator.checkpoint.safe_reader import SafeReader, read_table
from orchestrator.checkpoint.store import alone_is_fine, reason_of
from orchestrator.core.errors import CheckpointError
from orchestrator.core.shards import Piece
from orchestrator.core.state_naming import MODEL


class SavedCheckpoint:
    """One checkpoint on disk. Satisfies ``core.shards.SavedState``.

    Raises:
        CheckpointError: where the manifest or the table of contents is damaged, or they contradict each other.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = Manifest.read(folder)
        table = read_table(folder)
        fault = first_fault(table, self.manifest.shapes)
        if fault is not None:
            raise CheckpointError(f"{folder}: the pieces of {fault}.")
        if folder.name != f"step_{self.manifest.step}":
            raise CheckpointError(f"{folder} says that it is of step {self.manifest.step}.")
        self._table = table.state_dict_metadata
        self.names = frozenset(self._table)

    def read(self, pieces: Mapping[str, Piece]) -> None:
        """Overwrite the elements of the pieces; they must be those of all the tensors.

        Raises:
            CheckpointError: where names or shapes differ, or the files are damaged.
        """
        for name in sorted(self.names - pieces.keys()):
            raise CheckpointError(f"{self.folder} holds {name!r}, which this training does not have.")
        for name in sorted(pieces.keys() - self.names):
            raise CheckpointError(f"{self.folder} lacks {name!r}, which this training has.")
        for name, piece in pieces.items():
            if list(piece.shape) != self.manifest.shapes[name]:
                shape = tuple(self.manifest.shapes[name])
                raise CheckpointError(
                    f"{self.folder}: {name!r} has the shape {shape}, this training's is {piece.shape}."
                )
        self._read(pieces)

    def weights(self) -> dict[str, Tensor]:
        """The recipe's own ``state_dict``, whole, on the CPU, tied tensors under all their names.

        Raises:
            CheckpointError: where the files are damaged.
        """
        pieces = {name: self._empty(name) for name in self.manifest.shapes if name.startswith(MODEL)}
        self._read(pieces)
        weights = {name.removeprefix(MODEL): piece.data.view(piece.shape) for name, piece in pieces.items()}
        return {**weights, **{alias: weights[first].clone() for alias, first in self.manifest.tied.items()}}

    def _empty(self, name: str) -> Piece:
        entry, shape = self._table[name], tuple(self.manifest.shapes[name])
        assert isinstance(entry, TensorStorageMetadata)  # `read_table` has made sure
        whole = Piece(data=torch.empty(0), start=0, shape=shape)
        return replace(whole, data=torch.empty(whole.numel, dtype=entry.properties.dtype))

    def _read(self, pieces: Mapping[str, Piece]) -> None:
        alone_is_fine()
        try:
            # Every rank reads for itself: no collectives, so a world of any size can load.
            load(dict(pieces), storage_reader=SafeReader(self.folder), planner=PieceReader(), no_dist=True)
        except CheckpointException as failure:
            raise CheckpointError(f"{self.folder}: the tensors cannot be read ({reason_of(failure)}).") from failure
        for piece in pieces.values():
            piece.commit()
