"""Tensors, manifests and pieces for the tests of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrator.checkpoint.manifest import Manifest, library_versions
from orchestrator.checkpoint.saved import SavedCheckpoint
from orchestrator.checkpoint.store import CheckpointStore
from orchestrator.core.collectives import Collectives
from orchestrator.core.shards import SMALL_TENSOR, Piece, piece_of, to_write
from orchestrator.core.values import DataPosition, PhaseStart


def tensors(step: int) -> dict[str, Tensor]:
    """One tensor of every form that a training has; all that are not empty are a function of the step."""
    return {
        "model.w": torch.arange(6.0).reshape(2, 3) + step,
        "model.large": (torch.arange(3.0 * SMALL_TENSOR + 1) + step).to(torch.float64),
        "model.count": torch.tensor(step),
        "model.empty": torch.empty(0, 4),
        "model.flags": torch.tensor([True, False, bool(step % 2)]),
        "model.transposed": (torch.arange(12.0) + step).reshape(3, 4).t(),
        "model.image": (torch.arange(48.0) + step).reshape(2, 3, 4, 2).contiguous(memory_format=torch.channels_last),
        "optimizer.w.exp_avg": torch.full((2, 3), 0.5 + step, dtype=torch.bfloat16),
        "optimizer.w.step": torch.tensor(float(step)),
    }


def zeros_like(expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Live tensors of the same forms, strides included, to read into."""
    return {name: torch.zeros_like(tensor) for name, tensor in expected.items()}


def pieces_of(live: Mapping[str, Tensor]) -> dict[str, Piece]:
    """The pieces of a rank that holds everything, as all others do."""
    return {name: piece_of(tensor) for name, tensor in live.items()}


def manifest(step: int, pieces: Mapping[str, Piece], **fields: Any) -> Manifest:
    """The manifest of a checkpoint of these pieces."""
    given = {
        "step": step,
        "world_size": Collectives().world_size,
        "spec_hash": "abc",
        "phase": PhaseStart(index=1, step=3, samples=30),
        "data": DataPosition(samples=step * 10),
        "controller": {"size": step},
        "engine": {"scaler": {}, "clipping": {}},
        "shapes": {name: list(piece.shape) for name, piece in pieces.items()},
        "tied": {},
        "versions": library_versions(),
    }
    return Manifest(**{**given, **fields})


def store(folder: Path, *, keep: int = 2, attempt: int = 1) -> CheckpointStore:
    """The store of this process's rank."""
    return CheckpointStore(folder, Collectives(), keep=keep, attempt=attempt)


def share(pieces: Mapping[str, Piece]) -> dict[str, Piece]:
    """What this process's rank writes of its pieces."""
    collectives = Collectives()
    return to_write(pieces, collectives.rank, collectives.world_size)


def save(folder: Path, step: int, *, current: bool = True, **fields: Any) -> Path:
    """Save ``tensors(step)``."""
    pieces = pieces_of(tensors(step))
    return store(folder).save(share(pieces), manifest(step, pieces, **fields), is_current=lambda: current)


def assert_holds(path: Path, step: int) -> None:
    """A checkpoint loads into live tensors and is ``tensors(step)`` bit for bit."""
    expected = tensors(step)
    live = zeros_like(expected)
    SavedCheckpoint(path).read(pieces_of(live))
    for name, tensor in expected.items():
        assert live[name].dtype == tensor.dtype
        assert live[name].stride() == tensor.stride()
        assert torch.equal(live[name], tensor), name
