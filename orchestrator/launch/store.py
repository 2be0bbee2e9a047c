"""Where jobs live: the storage folder, the names in it, and the one rename that makes a job exist."""

from __future__ import annotations

import difflib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from orchestrator.core.errors import UsageError
from orchestrator.core.run_directory import RunDirectory

STORAGE_VARIABLE = "ORCHESTRATOR_STORAGE"
DEFAULT_STORAGE = "runs"
MAX_NAME_LENGTH = 63
PARTIAL_SUFFIX = ".partial"
"""Ending of the folders in which jobs are built before they exist."""


def resolve_storage(flag: str | None, spec_storage: str | None, environ: Mapping[str, str]) -> Path:
    """The storage folder as an absolute path: flag, else ``storage`` of the spec, else the environment, else ./runs.

    Relative paths are relative to the current folder, whoever named them.

    Raises:
        UsageError: if it is the address of an object store; only paths are supported.
    """
    candidates = {
        "--storage": flag,
        "storage": spec_storage,
        STORAGE_VARIABLE: environ.get(STORAGE_VARIABLE),
        "default": DEFAULT_STORAGE,
    }
    source, chosen = next((source, value) for source, value in candidates.items() if value)
    if re.match(r"^[A-Za-z][A-Za-z0-9+.-]+://", chosen):
        raise UsageError(f"{source}: {chosen} is not a path; give a folder that every node of the cluster mounts.")
    return Path(os.path.abspath(Path(chosen).expanduser()))


class NameTakenError(UsageError):
    """The storage already holds a job of this name."""


class JobStore:
    """The jobs of one storage folder. Reading never creates anything.

    Args:
        storage: Folder of all run directories; it need not exist yet.
    """

    def __init__(self, storage: Path) -> None:
        self.storage = storage

    def jobs(self) -> list[RunDirectory]:
        """Every job of the storage in alphabetical order; what has no state.json is not a job."""
        if not self.storage.is_dir():
            return []
        directories = (RunDirectory(path) for path in sorted(self.storage.iterdir()) if not path.name.startswith("."))
        return [directory for directory in directories if directory.state_file.is_file()]

    def __contains__(self, name: str) -> bool:
        """Whether the name is taken."""
        return (self.storage / name).exists()

    def get(self, name: str) -> RunDirectory:
        """The job of this name.

        Raises:
            UsageError: if there is none; the message shows the storage and the nearest name.
        """
        names = [job.name for job in self.jobs()]
        if name in names:
            return RunDirectory(self.storage / name)
        nearest = difflib.get_close_matches(name, names, n=1)
        if nearest:
            hint = f"did you mean {nearest[0]}?"
        elif names:
            hint = "`orchestrator list` shows the jobs there."
        else:
            hint = f"there are no jobs; --storage or {STORAGE_VARIABLE} names another folder."
        raise UsageError(f"job: no {name} in {self.storage}; {hint}")

    @contextmanager
    def staging(self, name: str) -> Iterator[RunDirectory]:
        """A hidden folder beside the jobs to build one in; whatever was not published is removed at the end."""
        self.storage.mkdir(parents=True, exist_ok=True)
        folder = self.storage / f".{name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}"
        folder.mkdir()
        try:
            yield RunDirectory(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, staged: RunDirectory, name: str) -> RunDirectory:
        """Make the staged folder the job of this name: one atomic rename, so that of two submitters one wins.

        Raises:
            NameTakenError: if another job has the name.
        """
        target = self.storage / name
        try:
            os.rename(staged.root, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise NameTakenError(taken_message(RunDirectory(target))) from None
        return RunDirectory(target)


def taken_message(existing: RunDirectory) -> str:
    """What to tell somebody who asks for a name that is in use."""
    phase = existing.read_state().get("phase")
    description = f"phase {phase}" if phase else "not a job, but in the way"
    mend = f"choose another name, or `orchestrator resume {existing.name}`" if phase else "choose another name"
    return f"name: job {existing.name} exists in {existing.root.parent} ({description}); {mend}."


def candidate_names(name: str) -> Iterator[str]:
    """The name, then name-2, name-3 and so on, each short enough to be a job's name."""
    yield name
    number = 2
    while True:
        suffix = f"-{number}"
        yield name[: MAX_NAME_LENGTH - len(suffix)].rstrip("-") + suffix
        number += 1
