"""Saving, finding, loading and retiring the checkpoints of one job."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from orchestrator.checkpoint.manifest import MANIFEST_NAME, Manifest
from orchestrator.checkpoint.safe_reader import SafeReader, read_table
from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import CheckpointError
from orchestrator.core.run_directory import write_atomically

LATEST = "LATEST"


class CheckpointStore:
    """``checkpoints/`` of one job.

    A checkpoint is written under a hidden name that carries the attempt, and moved to ``step_<n>`` when everything
    in it is on disk: a name that can be seen is complete.

    Args:
        folder: the job's ``checkpoints/``.
        collectives: the job's collectives; all ranks call ``save`` and ``load`` together.
        keep: how many of the latest checkpoints stay.
        attempt: the job's attempt, which keeps leftovers of a dying attempt apart.
    """

    def __init__(self, folder: Path, collectives: Collectives, *, keep: int, attempt: int) -> None:
        self._folder = folder
        self._collectives = collectives
        self._keep = keep
        self._attempt = attempt

    def save(self, tensors: Mapping[str, Tensor], manifest: Manifest, *, is_current: Callable[[], bool]) -> Path:
        """Write one checkpoint and retire the oldest.

        Args:
            tensors: whole tensors, equal on all ranks; ranks share the writing.
            manifest: everything else.
            is_current: asked by rank 0 before the checkpoint becomes visible; False means that a newer attempt owns
                the job and this process is a leftover.

        Raises:
            CheckpointError: where this attempt no longer owns the job.
        """
        final = self._folder / f"step_{manifest.step}"
        hidden = self._folder / f".step_{manifest.step}.attempt_{self._attempt}"
        if self._collectives.rank == 0:
            shutil.rmtree(hidden, ignore_errors=True)
            hidden.mkdir(parents=True)
        self._collectives.barrier()
        with _alone_is_fine():
            save(dict(tensors), storage_writer=FileSystemWriter(hidden, sync_files=True))
        if self._collectives.rank == 0:
            if not is_current():
                shutil.rmtree(hidden, ignore_errors=True)
                raise CheckpointError("Another attempt of this job has started; this one must not write any more.")
            write_atomically(hidden / MANIFEST_NAME, manifest.to_json())
            shutil.rmtree(final, ignore_errors=True)
            os.replace(hidden, final)
            write_atomically(self._folder / LATEST, f"{final.name}\n")
            self._retire()
        self._collectives.barrier()
        return final

    def _retire(self) -> None:
        for old in list_checkpoints(self._folder)[: -self._keep]:
            shutil.rmtree(old)
        for hidden in self._folder.glob(".step_*"):
            shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def _alone_is_fine() -> Iterator[None]:
    """Torch warns that it works in one process where there is no process group, which is what we mean."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest step first."""
    found = [path for path in folder.glob("step_*") if (path / MANIFEST_NAME).exists()]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The step that a checkpoint's name gives."""
    return int(path.name.removeprefix("step_"))


def latest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint of the highest step; None where there is none."""
    found = list_checkpoints(folder)
    return found[-1] if found else None


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, whole, on the CPU, whatever the number of ranks that wrote it.

    Raises:
        CheckpointError: where the checkpoint is damaged.
    """
    table = read_table(path)
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in table.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    try:
        # Every rank reads for itself: no collectives, so a world of any size can load.
        with _alone_is_fine():
            load(tensors, storage_reader=SafeReader(path), no_dist=True)
    except CheckpointException as error:
        reason = str(next(iter(error.failures.values()))[0]).splitlines()[0]
        raise CheckpointError(f"{path}: the tensors cannot be read ({reason}).") from error
    return tensors
