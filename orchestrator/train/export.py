"""From a checkpoint to the recipe's own weights in one file; also run as a process by ``orchestrator export``."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from orchestrator.checkpoint.saved import SavedCheckpoint
from orchestrator.core.errors import CheckpointError


def export_weights(checkpoint: Path, file: Path) -> int:
    """Write full, unsharded weights under the names of the recipe's ``state_dict``, whatever engine saved them.

    Args:
        checkpoint: folder of one checkpoint.
        file: safetensors file; replaced as a whole when everything is written.

    Returns:
        Number of tensors.

    Raises:
        CheckpointError: where the checkpoint is damaged, or the file cannot be written.
    """
    weights = SavedCheckpoint(checkpoint).weights()
    hidden = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        save_file(weights, hidden)
        os.replace(hidden, file)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            hidden.unlink(missing_ok=True)
        raise CheckpointError(f"{file} cannot be written ({error}).") from error
    return len(weights)


def main() -> int:
    """``python -m orchestrator.train.export CHECKPOINT FILE``; 0 with JSON on stdout, or 1 with a line on stderr."""
    checkpoint, file = map(Path, sys.argv[1:])
    try:
        num_tensors = export_weights(checkpoint, file)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"tensors": num_tensors, "bytes": file.stat().st_size}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
