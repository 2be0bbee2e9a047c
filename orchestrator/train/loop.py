"""The training loop. It knows seams and no method names.

One step, with the seam that answers at each line::

    plan = controller.plan(stats)                         # BatchController: how many samples
    num_samples, micro_batches = data.step(plan)          # Data: which samples, in which micro-batches
    for micro in micro_batches:                           # timed: here the rank works and waits for nobody
        engine.forward_backward(micro, recipe.loss)       # Engine + Recipe; Exchange starts with the last one
    engine.step(schedule.lr(samples, num_samples))        # Exchange ends, Modulators look, Optimizer updates
    recorder.record(...)                                  # Tracker: one line of metrics
    evaluate, checkpoint where due                        # Recipe, Checkpoint
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from orchestrator.core.protocols import BatchController, Engine, LossFunction, Modulator, Saver, TrainData
from orchestrator.core.seeding import seed_everything
from orchestrator.core.values import BatchPlan, StepStats
from orchestrator.optim.schedules import SampleSchedule
from orchestrator.train.rank_times import RankTimes
from orchestrator.train.recorder import Recorder

Outcome = Literal["finished", "stopped"]


@dataclass(kw_only=True)
class Job:
    """Everything that one rank trains with; made by ``assemble``."""

    engine: Engine
    modulators: Sequence[Modulator]
    loss: LossFunction
    data: TrainData
    controller: BatchController
    schedule: SampleSchedule
    recorder: Recorder
    times: RankTimes
    evaluate: Callable[[], dict[str, float]]
    """Metrics over the evaluation data; empty where there is none."""
    saver: Saver
    seed: int
    rank: int
    total_steps: int | None
    """Steps at which to end; None where only samples count."""
    total_samples: int
    eval_every: int | None
    save_every: int | None
    step: int = 0
    """Optimizer steps taken."""
    samples: int = 0
    """Samples seen by them over all ranks."""

    @property
    def done(self) -> bool:
        """Whether the last step has been taken."""
        return self.samples >= self.total_samples or (self.total_steps is not None and self.step >= self.total_steps)


def train(job: Job) -> Outcome:
    """Take steps until the job is done or somebody asks for a stop. A checkpoint is written in both cases.

    Raises:
        RecipeError: where user code fails or the loss is not finite.
        CheckpointError: where another attempt owns the job.
    """
    last_saved = job.step if job.step else None
    while not job.done and not job.recorder.stopping:
        stats = StepStats(step=job.step, samples=job.samples, loss=job.recorder.last_loss)
        _take_step(job, job.controller.plan(stats))
        if job.done or (job.eval_every is not None and job.step % job.eval_every == 0):
            job.recorder.add(job.evaluate())
        if job.save_every is not None and job.step % job.save_every == 0:
            # The line of this step goes first: a resume from this checkpoint does not log it again.
            job.recorder.flush()
            job.saver.save(job.step)
            last_saved = job.step
        job.saver.poll()
    job.recorder.flush(always=True)
    if last_saved != job.step:
        job.saver.save(job.step)
    job.saver.wait()
    return "finished" if job.done else "stopped"


def _take_step(job: Job, plan: BatchPlan) -> None:
    started = time.perf_counter()
    # Keyed by step and rank: a resumed job draws the numbers of the undisturbed one.
    seed_everything(job.seed, job.step, job.rank)
    num_samples, micro_batches = job.data.step(plan)
    lr = job.schedule.lr(job.samples, num_samples) * plan.lr_factor
    job.engine.begin_step()
    weighted: dict[str, Tensor] = {}
    # Ranks may wait for each other before this and after `stop`; what lies between is a rank's own.
    job.times.start(job.step + 1)
    for micro in micro_batches:
        _accumulate(weighted, job.engine.forward_backward(micro, job.loss))
        job.times.count(micro.batch)
    job.times.stop()
    engine_facts = job.engine.step(lr)
    job.step += 1
    job.samples += num_samples
    # A device may still compute: with the wait for the step before, a step takes what the device needs for one.
    job.recorder.read()
    elapsed_s = time.perf_counter() - started
    facts = {
        "samples": job.samples,
        "lr": lr,
        "global_size": num_samples,
        "samples_per_s": num_samples / elapsed_s,
        "step_s": elapsed_s,
        **engine_facts,
    }
    for modulator in job.modulators:
        facts.update(modulator.report())
    job.recorder.record(job.step, weighted, facts)


def _accumulate(sums: dict[str, Tensor], micro: dict[str, Tensor]) -> None:
    for name, value in micro.items():
        sums[name] = sums[name] + value if name in sums else value
