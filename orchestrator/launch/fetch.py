"""A job whose run directory is gone, from its copy."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.errors import UsageError
from orchestrator.core.mirror import Mirror
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.store import JobStore, taken_message


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came."""

    name: str
    files: int
    bytes: int


def fetch(mirror: Mirror, name: str, store: JobStore) -> Fetched:
    """Make a job of its copy, whole or not at all.

    Raises:
        UsageError: where there is no copy, or the storage has a job of this name.
        OutOfReachError: where the mirror does not answer.
    """
    if name in store:
        raise UsageError(taken_message(RunDirectory(store.storage / name)))
    mirror.state(name)  # before a folder is made for it
    sizes: list[int] = []
    with store.staging(name) as staged:
        num_files = mirror.pull(name, staged, lambda _, size: sizes.append(size))
        store.publish(staged, name)
    return Fetched(name, num_files, sum(sizes))
