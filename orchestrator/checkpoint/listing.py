"""Which checkpoints a job has, by the names in its folder. No torch."""

from __future__ import annotations

import re
from pathlib import Path

MANIFEST_NAME = "manifest.json"


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest step first; what else somebody keeps there is left alone."""
    found = (path for path in folder.glob("step_*") if re.fullmatch(r"step_\d+", path.name))
    return sorted((path for path in found if (path / MANIFEST_NAME).exists()), key=step_of)


def step_of(path: Path) -> int:
    """The step that a checkpoint's name gives."""
    return int(path.name.removeprefix("step_"))


def latest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint of the highest step; None where there is none."""
    found = list_checkpoints(folder)
    return found[-1] if found else None
