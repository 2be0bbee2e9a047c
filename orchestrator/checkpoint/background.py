"""Writing checkpoints beside the training: the loop waits for a copy in host memory, not for the disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from orchestrator.checkpoint.manifest import Manifest
from orchestrator.checkpoint.store import CheckpointStore
from orchestrator.core.shards import Piece


@dataclass(frozen=True, slots=True)
class Written:
    """A checkpoint that is complete on disk."""

    path: Path
    step: int
    pause_s: float
    """How long the training stood still for it, in seconds, the wait for the checkpoint before included."""
    write_s: float
    """How long it took to write, in seconds."""


class CheckpointWriter:
    """Writes one checkpoint at a time, while training goes on or not.

    Args:
        store: where checkpoints go; with ``asynchronous`` its collectives must be apart from the training's.
        asynchronous: whether to write from a copy in a thread.
        on_written: told in the training's thread of every complete checkpoint, at the latest by ``wait``.
    """

    def __init__(self, store: CheckpointStore, *, asynchronous: bool, on_written: Callable[[Written], None]) -> None:
        self._store = store
        self._asynchronous = asynchronous
        self._on_written = on_written
        self._copy = HostCopy()
        self._pending: Future[Written] | None = None
        self._pause_s = 0.0

    def save(
        self,
        pieces: Mapping[str, Piece],
        manifest: Manifest,
        *,
        is_current: Callable[[], bool],
        since: float | None = None,
    ) -> None:
        """Write one checkpoint; waits for the one before.

        Args:
            pieces: see ``CheckpointStore.save``.
            manifest: see ``CheckpointStore.save``.
            is_current: see ``CheckpointStore.save``.
            since: when the training stopped for it, by ``time.perf_counter``; None is now.

        Raises:
            CheckpointError: where this checkpoint, or the one before, could not be written or is not ours to write.
        """
        started = time.perf_counter() if since is None else since
        self.wait()
        if not self._asynchronous:
            written = self._write(pieces, manifest, is_current)
            self._on_written(replace(written, pause_s=time.perf_counter() - started))
            return
        copied = self._copy.take(pieces)
        # A thread of its own, which ends with the checkpoint: nothing is left to close, whatever becomes of the job.
        thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending = thread.submit(self._write, copied, _as_it_is(manifest), is_current)
        thread.shutdown(wait=False)
        self._pause_s = time.perf_counter() - started

    def wait(self) -> None:
        """Wait until the checkpoint under way is complete.

        Raises:
            CheckpointError: as ``save``; once.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            self._on_written(replace(pending.result(), pause_s=self._pause_s))

    def poll(self) -> None:
        """Tell of the checkpoint under way if it is complete by now; does not wait.

        Raises:
            CheckpointError: as ``save``; once.
        """
        if self._pending is not None and self._pending.done():
            self.wait()

    def _write(self, pieces: Mapping[str, Piece], manifest: Manifest, is_current: Callable[[], bool]) -> Written:
        started = time.perf_counter()
        path = self._store.save(pieces, manifest, is_current=is_current)
        return Written(path, manifest.step, pause_s=0.0, write_s=time.perf_counter() - started)


def _as_it_is(manifest: Manifest) -> Manifest:
    """A manifest that the next steps cannot change: controllers may hand out their live state."""
    return replace(
        manifest,
        data=deepcopy(manifest.data),
        controller=deepcopy(manifest.controller),
        engine=deepcopy(manifest.engine),
    )


class HostCopy:
    """A copy of pieces in host memory that is allocated once."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, pieces: Mapping[str, Piece]) -> dict[str, Piece]:
        """The pieces as they are now; the next call overwrites what this one returned."""
        copied = {
            name: replace(piece, data=self._buffer(name, piece.data), live=None) for name, piece in pieces.items()
        }
        for name, piece in pieces.items():
            copied[name].data.copy_(piece.data, non_blocking=True)
        if any(piece.data.is_cuda for piece in pieces.values()):
            torch.cuda.synchronize()
        return copied

    def _buffer(self, name: str, data: Tensor) -> Tensor:
        buffer = self._buffers.get(name)
        if buffer is None or (buffer.numel(), buffer.dtype) != (data.numel(), data.dtype):
            buffer = torch.empty(data.numel(), dtype=data.dtype, pin_memory=data.is_cuda)
            self._buffers[name] = buffer
        return buffer
