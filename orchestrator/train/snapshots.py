"""One rank's side of checkpoints: what goes in, and how training goes on from one."""

from __future__ import annotations

from pathlib import Path

from orchestrator.checkpoint.manifest import Manifest, library_versions
from orchestrator.checkpoint.store import CheckpointStore, load_tensors, step_of
from orchestrator.core.errors import CheckpointError
from orchestrator.core.protocols import BatchController, Engine, Tracker, TrainData
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import spec_hash
from orchestrator.train.context import RankContext


class Snapshots:
    """Writes the state of the job at a step boundary; called by all ranks with the step."""

    def __init__(
        self,
        spec: JobSpec,
        context: RankContext,
        tracker: Tracker,
        *,
        engine: Engine,
        controller: BatchController,
        data: TrainData,
    ) -> None:
        self._spec_hash = spec_hash(spec)
        self._context = context
        self._tracker = tracker
        self._engine = engine
        self._controller = controller
        self._data = data
        self._store = CheckpointStore(
            context.run_directory.checkpoints, context.collectives, keep=spec.checkpoint.keep, attempt=context.attempt
        )

    def __call__(self, step: int) -> None:
        """Write one checkpoint.

        Raises:
            CheckpointError: where another attempt owns the job.
        """
        manifest = Manifest(
            step=step,
            world_size=self._context.collectives.world_size,
            spec_hash=self._spec_hash,
            data=self._data.position,
            controller=self._controller.state_dict(),
            scaler=self._engine.scaler_state(),
            versions=library_versions(),
        )
        path = self._store.save(self._engine.state_tensors(), manifest, is_current=self._context.is_current)
        self._tracker.event("checkpoint_saved", {"step": step, "path": str(path)})


def restore(spec: JobSpec, folder: Path, engine: Engine, controller: BatchController) -> Manifest:
    """Put engine and controller into the state of a checkpoint; the manifest holds the rest.

    Raises:
        CheckpointError: where the checkpoint is damaged or of another training.
    """
    manifest = Manifest.read(folder)
    if manifest.spec_hash != spec_hash(spec):
        raise CheckpointError(f"{folder} was written by another training: the spec differs in what defines the result.")
    if step_of(folder) != manifest.step:
        raise CheckpointError(f"{folder} says that it is of step {manifest.step}.")
    engine.load_state_tensors(load_tensors(folder))
    engine.load_scaler_state(manifest.scaler)
    controller.load_state_dict(manifest.controller)
    return manifest
