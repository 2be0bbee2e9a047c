"""Reading what is appended to a file, line by line, while somebody else writes it."""

from __future__ import annotations

import os
from pathlib import Path


class Tail:
    """The complete lines that were appended to a file since the last look; the file may not exist yet.

    A file that was cut or replaced is not repeated: reading goes on at its new end.
    """

    def __init__(self, path: Path, *, skip_existing: bool = False) -> None:
        self.path = path
        self._inode: int | None = None
        self._offset = 0
        if skip_existing and path.exists():
            self._inode, self._offset = path.stat().st_ino, path.stat().st_size

    def lines(self, *, with_unfinished: bool = False) -> list[str]:
        """New lines without their line ends; a last line that is still being written waits unless asked for."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as stream:
            self._notice_replacement(os.fstat(stream.fileno()))
            stream.seek(self._offset)
            new = stream.read()
        end = len(new) if with_unfinished else new.rfind(b"\n") + 1
        self._offset += end
        text = new[:end].decode(errors="replace")
        return text.removesuffix("\n").split("\n") if text else []

    def _notice_replacement(self, status: os.stat_result) -> None:
        replaced = self._inode is not None and status.st_ino != self._inode
        if replaced or status.st_size < self._offset:
            self._offset = status.st_size
        self._inode = status.st_ino


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a file, at most ``count``; empty where the file is missing. Reads its last 64 KiB at most."""
    if not path.exists():
        return []
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 65536))
        text = stream.read().decode(errors="replace")
    return text.rstrip("\n").split("\n")[-count:] if text.strip() else []
