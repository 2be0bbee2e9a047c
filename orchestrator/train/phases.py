"""One phase after the other: each is a job for the loop, over the same engine."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from orchestrator.core.protocols import Tracker
from orchestrator.train.context import RankContext
from orchestrator.train.job import Job
from orchestrator.train.loop import Outcome, train


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase of a rank's training, ready for the loop."""

    job: Job
    """Ends with the phase."""
    number: int
    """From 1."""
    count: int
    """Phases of the whole training."""
    global_batch_size: int
    """Samples per step that the phase begins with."""
    total_steps: int | None
    """Steps at the end of the last phase; None where they depend on samples."""
    total_samples: int | None
    """Samples at the end of the last phase; None where they depend on a batch that changes."""


def train_phases(phases: Generator[Phase, None, None], context: RankContext, tracker: Tracker) -> tuple[Outcome, int]:
    """Train one phase after the other until all are done or somebody asks for a stop; the outcome and the last step.

    Raises:
        RecipeError: where user code fails or the loss is not finite.
        CheckpointError: where another attempt owns the job.
    """
    outcome: Outcome = "finished"
    step = 0
    with closing(phases):
        for index, phase in enumerate(phases):
            job = phase.job
            _announce(phase, "phase" if index else "resumed" if job.step else "started", context, tracker)
            _spare_what_stays()
            with closing(job.data):
                outcome, step = train(job), job.step
            if job.recorder.stopping and phase.number < phase.count:
                # Asked for in the phase's last step: the next phase is the resumed job's.
                outcome = "stopped"
            if outcome == "stopped":
                break
    return outcome, step


def _announce(phase: Phase, name: str, context: RankContext, tracker: Tracker) -> None:
    """Say where the training or its next phase starts, and on which nodes."""
    job = phase.job
    choices = job.engine.choices()  # the ranks agree on them
    if context.collectives.rank == 0:
        fields: dict[str, Any] = {"step": job.step, "samples": job.samples, "workers": len(context.worker_nodes)}
        fields |= {
            "nodes": context.worker_nodes,
            "phase": phase.number,
            "phases": phase.count,
            "global_size": phase.global_batch_size,
        }
        fields |= choices
        tracker.event(name, {**fields, "total_samples": phase.total_samples, "total_steps": phase.total_steps})
        print(
            f"{name} {phase.number} of {phase.count}" if name == "phase" else name, f"from step {job.step}", flush=True
        )


def _spare_what_stays() -> None:
    """Leave modules, model and data out of garbage collections: a full one would stop the training for 0.2 s."""
    gc.unfreeze()  # the data of the phase before may go
    gc.collect()
    gc.freeze()
