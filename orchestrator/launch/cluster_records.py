"""Which local clusters this user has started: one file for each, with its token, readable by nobody else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock

from orchestrator.core.errors import UsageError
from orchestrator.launch.local_nodes import LocalClusterRecord, LocalNode

FOLDER_VARIABLE = "ORCHESTRATOR_CLUSTERS"
DEFAULT_FOLDER = "~/.orchestrator/clusters"


class ClusterRecords:
    """The records of one folder.

    Args:
        environ: may name another folder than ``DEFAULT_FOLDER``.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.folder = Path(environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER).expanduser().absolute()

    def path(self, name: str) -> Path:
        """The file of one cluster."""
        return self.folder / f"{name}.json"

    def names(self) -> list[str]:
        """All clusters on record."""
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def read(self, name: str) -> LocalClusterRecord | None:
        """One cluster; None where there is none of the name.

        Raises:
            UsageError: if its file is damaged.
        """
        path = self.path(name)
        if not path.exists():
            return None
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            nodes = tuple(LocalNode(**node) for node in fields.pop("nodes"))
            return LocalClusterRecord(**fields, nodes=nodes)
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(
                f"{path}: is no record of a cluster ({error}); end its processes, then remove it."
            ) from None

    def write(self, name: str, record: LocalClusterRecord) -> None:
        """Keep a cluster's record, in place of an older one."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self.folder / f".{name}.{os.getpid()}.tmp"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(record), indent=2) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, self.path(name))

    def remove(self, name: str) -> None:
        """Forget a cluster."""
        self.path(name).unlink(missing_ok=True)

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Hold a name against other commands that would start or end a cluster of it at the same time."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(self.folder / f".{name}.lock"):
            yield
