"""``tracking.json``: how far ``metrics.jsonl`` has reached MLflow."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from orchestrator.core.run_directory import RunDirectory, write_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Everything before ``offset`` is in the MLflow run ``run_id``.

    The offset saves reading and counts what is left. That no point is sent twice rests on what MLflow says it has:
    a cursor that is too low costs time only.
    """

    run_id: str | None = None
    """The MLflow run that the offset is about."""
    offset: int = 0
    """Bytes of ``metrics.jsonl`` that MLflow has acknowledged."""
    step: int = -1
    """Last step acknowledged; -1 before the first."""

    @staticmethod
    def path(run_directory: RunDirectory) -> Path:
        """``tracking.json``."""
        return run_directory.root / "tracking.json"

    @classmethod
    def load(cls, run_directory: RunDirectory, run_id: str | None = None) -> Cursor:
        """The saved cursor, or the start where there is none or it is about another run than the one asked for."""
        path = cls.path(run_directory)
        if not path.exists():
            return cls(run_id=run_id)
        cursor = cls(**json.loads(path.read_text(encoding="utf-8")))
        return cursor if run_id in {None, cursor.run_id} else cls(run_id=run_id)

    def advanced(self, offset: int, step: int) -> Cursor:
        """A cursor of the same run at another place."""
        return replace(self, offset=offset, step=step)

    def save(self, run_directory: RunDirectory) -> None:
        """Write atomically."""
        write_atomically(self.path(run_directory), json.dumps(asdict(self)) + "\n")
