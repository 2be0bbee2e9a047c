"""One rank's side of checkpoints: what goes in, and how training goes on from one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from orchestrator.checkpoint.background import CheckpointWriter, Written
from orchestrator.checkpoint.manifest import Manifest, library_versions
from orchestrator.checkpoint.saved import SavedCheckpoint
from orchestrator.checkpoint.store import CheckpointStore
from orchestrator.core.errors import CheckpointError
from orchestrator.core.protocols import BatchController, Engine, MeasuringModulator, Modulator, Tracker, TrainData
from orchestrator.core.shards import to_write
from orchestrator.core.staleness import Staleness
from orchestrator.core.values import PhaseStart
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import spec_hash
from orchestrator.train.context import RankContext


class Snapshots:
    """Writes the state of one phase of the job at step boundaries. Satisfies ``core.protocols.Saver``.

    Args:
        spec: the whole job, all phases.
        context: of this rank.
        writer: of the job, see ``open_writer``.
        engine: with the model and its optimizer.
        controller: of the phase's batch.
        data: of the phase.
        phase: where the phase began.
        staleness: of the gradients so far.
        modulators: of gradients, by name.
    """

    def __init__(
        self,
        spec: JobSpec,
        context: RankContext,
        writer: CheckpointWriter,
        *,
        engine: Engine,
        controller: BatchController,
        data: TrainData,
        phase: PhaseStart,
        staleness: Staleness,
        modulators: Mapping[str, Modulator],
    ) -> None:
        self._spec_hash = spec_hash(spec)
        self._context = context
        self._engine = engine
        self._controller = controller
        self._data = data
        self._phase = phase
        self._staleness = staleness
        self._measuring = {name: m for name, m in modulators.items() if isinstance(m, MeasuringModulator)}
        self._writer = writer
        self.poll = writer.poll
        self.wait = writer.wait

    def save(self, step: int) -> None:
        """Start writing a checkpoint; waits for the one before.

        Raises:
            CheckpointError: where another attempt owns the job, or this checkpoint or the last cannot be written.
        """
        started = time.perf_counter()
        collectives = self._context.collectives
        pieces = self._engine.pieces()
        manifest = Manifest(
            step=step,
            world_size=collectives.world_size,
            spec_hash=self._spec_hash,
            phase=self._phase,
            data=self._data.position,
            controller=self._controller.state_dict(),
            engine=self._engine.numbers(),
            shapes={name: list(piece.shape) for name, piece in pieces.items()},
            tied=dict(self._engine.tied),
            versions=library_versions(),
            staleness=self._staleness.state_dict() if self._staleness.is_asynchronous else {},
            modulators={name: modulator.state_dict() for name, modulator in self._measuring.items()},
        )
        mine = to_write(pieces, collectives.rank, collectives.world_size)
        self._writer.save(mine, manifest, is_current=self._context.is_current, since=started)


def open_writer(spec: JobSpec, context: RankContext, tracker: Tracker) -> CheckpointWriter:
    """The writer of the job's checkpoints, which tells the tracker of each; called by all ranks together, once."""

    def announce(written: Written) -> None:
        fields = {"step": written.step, "path": str(written.path)}
        tracker.event("checkpoint_saved", {**fields, "pause_s": written.pause_s, "write_s": written.write_s})

    store = CheckpointStore(
        context.run_directory.checkpoints,
        context.collectives.on_hosts(),
        keep=spec.checkpoint.keep,
        attempt=context.attempt,
    )
    return CheckpointWriter(store, asynchronous=spec.checkpoint.asynchronous, on_written=announce)


def restore(spec: JobSpec, folder: Path, engine: Engine) -> Manifest:
    """Put the engine into the state of a checkpoint; the manifest holds the rest.

    Args:
        spec: the whole job, all phases.
        folder: the checkpoint.
        engine: to restore.

    Raises:
        CheckpointError: where the checkpoint is damaged or of another training.
    """
    saved = SavedCheckpoint(folder)
    manifest = saved.manifest
    if manifest.spec_hash != spec_hash(spec):
        raise CheckpointError(f"{folder} was written by another training: the spec differs in what defines the result.")
    engine.load(saved)
    engine.load_numbers(manifest.engine)
    return manifest
