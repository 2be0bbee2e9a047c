"""Writing and retiring the checkpoints of one job."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult

from orchestrator.checkpoint.listing import MANIFEST_NAME, list_checkpoints
from orchestrator.checkpoint.manifest import Manifest
from orchestrator.checkpoint.planner import PieceWriter, first_fault
from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import CheckpointError
from orchestrator.core.run_directory import write_atomically
from orchestrator.core.shards import Piece

LATEST = "LATEST"
COPY_AHEAD_BYTES = 10_000_000
"""How far torch copies from a GPU ahead of the disk."""


class CheckpointStore:
    """``checkpoints/`` of one job.

    A checkpoint is written under a hidden name that carries the attempt, and moved to ``step_<n>`` when everything
    in it is on disk; one that is retired is hidden before it is removed: a name that can be seen is complete.

    Args:
        folder: the job's ``checkpoints/``.
        collectives: all ranks call ``save`` together.
        keep: how many of the latest checkpoints stay.
        attempt: the job's attempt, which keeps leftovers of a dying attempt apart.
    """

    def __init__(self, folder: Path, collectives: Collectives, *, keep: int, attempt: int) -> None:
        self._folder = folder
        self._collectives = collectives
        self._keep = keep
        self._attempt = attempt
        alone_is_fine()

    def save(self, pieces: Mapping[str, Piece], manifest: Manifest, *, is_current: Callable[[], bool]) -> Path:
        """Write one checkpoint and retire the oldest.

        Args:
            pieces: what this rank writes; the ranks' pieces cover every tensor once.
            manifest: everything else.
            is_current: asked by rank 0 before the checkpoint becomes visible; False means that a newer attempt owns
                the job and this process is a leftover.

        Raises:
            CheckpointError: on all ranks, where it could not be written, or this attempt no longer owns the job.
        """
        final = self._folder / f"step_{manifest.step}"
        hidden = self._folder / f".step_{manifest.step}.attempt_{self._attempt}"

        def prepare() -> None:
            shutil.rmtree(hidden, ignore_errors=True)
            hidden.mkdir(parents=True)

        def publish() -> None:
            fault = first_fault(table, manifest.shapes)
            if fault is not None:
                raise CheckpointError(f"The ranks' pieces of {fault}.")
            if not is_current():
                raise CheckpointError("Another attempt of this job has started; this one must not write any more.")
            write_atomically(hidden / MANIFEST_NAME, manifest.to_json())
            self._show(hidden, final)
            self._retire()

        try:
            self._on_first_rank(prepare)
            table = self._write(pieces, hidden)
            self._on_first_rank(publish)
        except CheckpointError:
            if self._collectives.rank == 0:
                shutil.rmtree(hidden, ignore_errors=True)
            raise
        return final

    def _on_first_rank(self, action: Callable[[], None]) -> None:
        """Let rank 0 act while the others wait; what goes wrong there is an error of all ranks."""
        failure: Exception | None = None
        if self._collectives.rank == 0:
            try:
                action()
            except Exception as error:
                failure = error
        message = None if failure is None else f"{self._folder}: {_in_a_line(failure)}"
        message = self._collectives.all_gather_object(message)[0]
        if message is not None:
            raise CheckpointError(message) from failure

    def _write(self, pieces: Mapping[str, Piece], hidden: Path) -> Metadata:
        """Write the tensors; returns the table of contents of all ranks."""
        # torch would look for a GPU even where there is nothing to copy from it.
        copies = any(piece.data.is_cuda for piece in pieces.values())
        writer = _Writer(hidden, sync_files=True, per_thread_copy_ahead=COPY_AHEAD_BYTES if copies else 0)
        try:
            table: Metadata = save(
                dict(pieces),
                storage_writer=writer,
                planner=PieceWriter(),
                process_group=self._collectives.group,
                no_dist=self._collectives.world_size == 1,
            )
            return table
        except CheckpointException as failure:
            raise CheckpointError(f"{hidden}: the tensors cannot be written ({reason_of(failure)}).") from failure

    def _show(self, hidden: Path, final: Path) -> None:
        _to_disk(hidden)
        if final.exists():
            _remove(final)
        os.replace(hidden, final)
        _to_disk(self._folder)
        write_atomically(self._folder / LATEST, f"{final.name}\n")

    def _retire(self) -> None:
        for old in list_checkpoints(self._folder)[: -self._keep]:
            _remove(old)
        for hidden in self._folder.glob(".step_*"):
            attempt = hidden.name.rpartition(".attempt_")[2]
            if not attempt.isdecimal() or int(attempt) <= self._attempt:
                shutil.rmtree(hidden, ignore_errors=True)


class _Writer(FileSystemWriter):
    """torch's writer; where a disk is full, it says so, and not only that an archive is out of step."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
        """See the base class."""
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint, hidden first: one that is half removed must not be seen."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.removed")
    shutil.rmtree(hidden, ignore_errors=True)
    os.replace(checkpoint, hidden)
    shutil.rmtree(hidden)


def _to_disk(folder: Path) -> None:
    """Flush the names in a folder to disk, so that a power failure does not undo them out of order."""
    descriptor = os.open(folder, os.O_RDONLY)
    # Some network file systems have nothing to flush for a folder and say so by an error.
    with suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)


def _in_a_line(error: BaseException) -> str:
    text = next(iter(str(error).splitlines()), "")
    return text if isinstance(error, CheckpointError) else f"{type(error).__name__}: {text}".removesuffix(": ")


def reason_of(failure: CheckpointException) -> str:
    """The first of the ranks' reasons in one line; torch shows all of them with their tracebacks."""
    rank, (error, _) = next(iter(failure.failures.items()))
    return f"rank {rank}: {_in_a_line(error)}"


def alone_is_fine() -> None:
    """Torch warns that it works in one process where there is no process group, which is what we mean.

    For the whole process: what could be undone would be undone for other threads as well.
    """
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
