"""What a checkpoint says about itself, as JSON beside its tensors."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator.checkpoint.listing import MANIFEST_NAME
from orchestrator.core.errors import CheckpointError
from orchestrator.core.values import DataPosition, PhaseStart

FORMAT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The state of a job at a step boundary, but for the tensors."""

    step: int
    """Optimizer steps taken."""
    world_size: int
    """Ranks that wrote it; any number may read it."""
    spec_hash: str
    """Hash of what defines the training."""
    phase: PhaseStart
    """The phase that the training is in, and where it began."""
    data: DataPosition
    """Where the next step starts reading the data of the phase."""
    controller: dict[str, Any]
    """State of the batch controller."""
    engine: dict[str, Any]
    """Numbers of the engine: the dynamic loss scale, gradient norms that clipping remembers."""
    shapes: dict[str, list[int]]
    """Shape of every tensor by its name in the checkpoint, where all tensors are stored flat."""
    tied: dict[str, str]
    """Further names of tied tensors in the recipe's state_dict, with the name that the checkpoint has."""
    versions: dict[str, str]
    """Versions of the libraries that wrote it."""
    staleness: dict[str, Any] = dataclasses.field(default_factory=dict)
    """How old gradients have been so far; empty where they cannot be old."""
    modulators: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """State of the modulators that have one, by name."""

    def to_json(self) -> str:
        """The text of ``manifest.json``."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read a checkpoint's manifest.

        Raises:
            CheckpointError: where it is missing, damaged or of another format.
        """
        try:
            fields = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
            found = fields.pop("format")
            if found != FORMAT:
                raise CheckpointError(
                    f"{folder}: checkpoint format {found} is not the format {FORMAT} of this version; "
                    "the version that wrote it can read it."
                )
            position = DataPosition(
                samples=fields["data"]["samples"],
                stream_states=tuple(fields["data"]["stream_states"]),
                ledger=fields["data"].get("ledger", {}),
            )
            return cls(**{**fields, "data": position, "phase": PhaseStart(**fields["phase"])})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{folder}: the manifest cannot be read ({error}).") from error


@cache  # looking them up reads files
def library_versions() -> dict[str, str]:
    """Versions that decide what a checkpoint's numbers mean."""
    return {name: metadata.version(name) for name in ("torch", "numpy", "large-batch-orchestrator")}
