"""A copy of a run directory in an object store, or under whatever other URL fsspec opens.

What makes a copy one that can be gone on from is the order. `LATEST` and `state.json` are read first and written last:
a checkpoint that the copy's `LATEST` names is there as a whole, and what it no longer needs is deleted after that.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.core.errors import OutOfReachError, UsageError
from orchestrator.core.run_directory import RunDirectory, write_atomically

URL_PATTERN = r"[a-z][a-z0-9+.-]*://.*[^/]/*"
RECORD = ".mirror.json"
"""What is in the copy, beside the job: size and time of each file."""
POINTERS = ("LATEST", "state.json")
"""Names of the files that say what the others are worth."""
Stamp = tuple[int, int]
"""Size in bytes and time of the last change in nanoseconds."""


class Mirror:
    """The copies of jobs below one URL.

    Args:
        url: as in ``s3://bucket/folder``; the credentials are the environment's.

    Raises:
        UsageError: where fsspec does not know the protocol, or a package for it is missing.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        if re.fullmatch(URL_PATTERN, url) is None:
            raise UsageError(f"mirror: {url} is no URL; legal: such as s3://bucket/runs")
        self.url = url.rstrip("/")
        own_folders = url.startswith(("file://", "local://"))  # everywhere else a folder is only part of a name
        try:
            self._files, root = fsspec.core.url_to_fs(self.url, **({"auto_mkdir": True} if own_folders else {}))
        except (ImportError, ValueError) as error:
            raise UsageError(f"mirror: {url} cannot be opened: {error}") from None
        self._root = PurePosixPath(root)

    def check(self) -> None:
        """Make sure that it answers and can be written.

        Raises:
            OutOfReachError: if not.
        """
        probe = str(self._root / ".probe")
        with self._errors("take a file"):
            self._files.pipe_file(probe, b"")
            self._files.rm_file(probe)

    def names(self) -> list[str]:
        """The jobs that are there, in alphabetical order.

        Raises:
            OutOfReachError: where it does not answer.
        """
        with self._errors("be listed"):
            self._files.invalidate_cache()
            found = self._files.glob(f"{self._root}/*/state.json")
        return sorted(PurePosixPath(path).parent.name for path in found)

    def state(self, name: str) -> dict[str, Any]:
        """A job's ``state.json``.

        Raises:
            UsageError: where there is no such job.
            OutOfReachError: where it does not answer.
        """
        with self._errors("be read"):
            try:
                state: dict[str, Any] = json.loads(self._files.cat_file(str(self._root / name / "state.json")))
            except FileNotFoundError:
                raise UsageError(f"mirror: no {name} in {self.url}") from None
        return state

    def push(self, directory: RunDirectory) -> int:
        """Copy what has changed since the last time; returns how many files that were.

        Raises:
            OutOfReachError: where it does not answer; what was copied stays, and the next call goes on from there.
        """
        known = _read_record(directory.root)
        # With their times from before they are read: what is written meanwhile is seen by the next call.
        stamps = {path: stamp for path, stamp in _files_of(directory.root) if path.name in POINTERS}
        pointers = {path: (directory.root / path).read_bytes() for path in sorted(stamps, key=_rank)}
        found = {path: stamp for path, stamp in _files_of(directory.root) if path.name not in POINTERS}
        changed = [path for path, stamp in found.items() if known.get(str(path)) != stamp]
        with self._errors("take the copy"):
            for path in changed:
                try:
                    self._files.put_file(str(directory.root / path), self._at(directory, path))
                    known[str(path)] = found[path]
                except FileNotFoundError:
                    if (directory.root / path).exists():
                        raise
                    # A checkpoint was thinned out meanwhile: `LATEST` may be of before that. The next call sees to it.
                    pointers = {}
            for path, content in pointers.items():
                if known.get(str(path)) != stamps[path]:
                    self._files.pipe_file(self._at(directory, path), content)
                    known[str(path)] = stamps[path]
            if pointers:
                for gone in known.keys() - {str(path) for path in (*found, *stamps)}:
                    self._remove(self._at(directory, Path(gone)))
                    del known[gone]
        write_atomically(directory.root / RECORD, json.dumps(known))
        return len(changed)

    def pull(self, name: str, target: RunDirectory, tell: Callable[[str, int], None] | None = None) -> int:
        """Copy a job from there into an empty folder; returns the number of files.

        Args:
            name: of the job.
            target: where to.
            tell: given the path within the job and the bytes of every file that has arrived.

        Raises:
            UsageError: where there is no such job.
            OutOfReachError: where it does not answer.
        """
        self.state(name)
        root = self._root / name
        with self._errors("be read"):
            sizes = {path: int(about["size"]) for path, about in self._files.find(str(root), detail=True).items()}
            for remote, size in sizes.items():
                path = PurePosixPath(remote).relative_to(root)
                local = target.root / path
                local.parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(remote, str(local))
                if tell is not None:
                    tell(str(path), size)
        stamps = {str(path): stamp for path, stamp in _files_of(target.root)}
        write_atomically(target.root / RECORD, json.dumps(stamps))
        for trial in target.trials:
            if not trial.code.exists():
                trial.code.symlink_to(os.path.relpath(target.code, trial.root))
        return len(sizes)

    def _at(self, directory: RunDirectory, path: Path) -> str:
        return str(self._root / directory.name / path.as_posix())

    def _remove(self, remote: str) -> None:
        try:
            self._files.rm_file(remote)
        except FileNotFoundError:
            return

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        """Whatever a store's client raises, as one sentence."""
        try:
            yield
        except (UsageError, OutOfReachError):
            raise
        except Exception as error:  # each of fsspec's file systems has errors of its own
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise OutOfReachError(f"mirror: {self.url} cannot {action}: {text}") from error


def _files_of(root: Path) -> Iterator[tuple[Path, Stamp]]:
    """Everything that is copied, relative to the root: no links, nothing unfinished, not the record of this."""
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            is_unfinished = name.startswith(".") and name.endswith(".tmp")
            if is_unfinished or name == RECORD or path.is_symlink():
                continue
            try:
                about = path.stat()
            except FileNotFoundError:
                continue
            yield path.relative_to(root), (about.st_size, about.st_mtime_ns)


def _rank(pointer: Path) -> int:
    """Pointers before the states, which tell of what the pointers lead to."""
    return POINTERS.index(pointer.name)


def _read_record(root: Path) -> dict[str, Stamp]:
    path = root / RECORD
    if not path.exists():
        return {}
    return {name: (size, time) for name, (size, time) in json.loads(path.read_text(encoding="utf-8")).items()}
