"""``pushes.csv``: the order in which an asynchronous job has taken its pushes; see ``spec.push_order``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.core.served import AcceptedPush
from orchestrator.spec.push_order import HEADER

_LINES_AT_ONCE = 64


class PushLog:
    """Appends to the file. A later phase of a training counts its chunks anew.

    Args:
        path: of the file; it need not exist.
        version: where training goes on from; what the file has of later updates is removed, as they are taken again.
    """

    def __init__(self, path: Path, *, version: int) -> None:
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []
        kept = [line for line in lines if line.count(",") == len(HEADER) - 1 and int(line.split(",")[0]) < version]
        path.write_text("".join(f"{line}\n" for line in (",".join(HEADER), *kept)), encoding="utf-8")
        self._lines: list[str] = []

    def add(self, update: int, pushes: Sequence[AcceptedPush]) -> None:
        """Take the pushes of an update; ``update`` is how many there were before it."""
        for push in pushes:
            self._lines.append(f"{update},{push.key.sender.worker},{push.chunk},{push.read_version}\n")
        if len(self._lines) >= _LINES_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Hand what was added to the operating system."""
        lines, self._lines = self._lines, []
        with self._path.open("a", encoding="utf-8") as stream:
            stream.writelines(lines)
