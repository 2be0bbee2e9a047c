"""From a checkpoint to the recipe's own weights in one file; also run as a process by ``orchestrator export``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from safetensors.torch import save_file

from orchestrator.checkpoint.saved import SavedCheckpoint
from orchestrator.core.errors import OrchestratorError


def export_weights(checkpoint: Path, file: Path) -> None:
    """Write full, unsharded weights under the names of the recipe's ``state_dict``, whatever engine saved them.

    Args:
        checkpoint: folder of one checkpoint.
        file: safetensors file; replaced as a whole when everything is written.

    Raises:
        CheckpointError: where the checkpoint is damaged.
    """
    weights = SavedCheckpoint(checkpoint).weights()
    hidden = file.with_name(f".{file.name}.tmp")
    save_file(weights, hidden)
    os.replace(hidden, file)


def main() -> int:
    """``python -m orchestrator.train.export CHECKPOINT FILE``; 0, or 1 with one line on stderr."""
    try:
        export_weights(Path(sys.argv[1]), Path(sys.argv[2]))
    except (OrchestratorError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
