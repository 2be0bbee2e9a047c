"""The training loop. It knows seams and no method names.

One step, with the seam that answers at each line::

    plan = controller.plan(stats)                         # BatchController: how many samples, what to measure;
                                                          # after branches that it asks for, it plans again
    num_samples, micro_batches = data.step(plan)          # Data: which samples, in which micro-batches
    for micro in micro_batches:                           # timed: here the rank works and waits for nobody
        engine.forward_backward(micro, recipe.loss)       # Engine + Recipe; Exchange starts with the last one
    engine.step(schedule.lr(samples, num_samples))        # Exchange ends, Modulators look, Optimizer updates (x factor)
    recorder.record(...)                                  # Tracker: one line of metrics
    evaluate, checkpoint where due                        # Recipe, Checkpoint
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Literal

from torch import Tensor

from orchestrator.core.seeding import seed_everything
from orchestrator.core.values import BatchPlan, Measurement, StepStats
from orchestrator.train.job import Job

Outcome = Literal["finished", "stopped"]


def train(job: Job) -> Outcome:
    """Take steps until the job is done or somebody asks for a stop. A checkpoint is written in both cases.

    Raises:
        RecipeError: where user code fails or the loss is not finite.
        CheckpointError: where another attempt owns the job.
    """
    last_saved = job.step if job.step else None
    while not job.done and not job.recorder.stopping:
        _take_step(job, _plan(job))
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


def _plan(job: Job) -> BatchPlan:
    """The next step's plan, after what the controller wants to see first."""
    stats = _stats(job)
    plan = job.controller.plan(stats)
    if plan.branches is None:
        return plan
    losses = job.branching.losses(
        plan.branches,
        position=job.data.position,
        step=job.step,
        lr=job.lr(job.step_samples),
        micro_batch_size=plan.micro_batch_size,
    )
    return job.controller.plan(replace(stats, branch_losses=losses))


def _stats(job: Job) -> StepStats:
    """What the controller is shown; equal on all ranks."""
    norms = job.engine.measured()
    if norms is not None and norms.modules is not None:
        for modulator in job.measuring:
            modulator.take(norms)
    seconds = job.recorder.step_seconds(job.step - 1)
    return StepStats(
        step=job.step,
        samples=job.samples,
        loss=job.recorder.last_loss,
        lr=job.lr(job.step_samples),
        is_warmup=job.schedule.is_warmup(job.seen),
        gradient=norms if norms is not None and norms.for_controller else None,
        step_seconds=seconds,
        timed_plan=None if seconds is None else job.plans[0],
    )


def _take_step(job: Job, plan: BatchPlan) -> None:
    started = time.perf_counter()
    # Keyed by step and rank: a resumed job draws the numbers of the undisturbed one.
    seed_everything(job.seed, job.step, job.rank)
    num_samples, micro_batches = job.data.step(plan)
    lr = job.lr(num_samples) * plan.lr_factor
    job.averages.set(plan.averages_ratio)
    job.engine.begin_step(_measurement(job, plan, num_samples))
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
    if job.num_workers is not None:
        facts["workers"] = job.num_workers
    if plan.workers is not None:
        facts["workers_wanted"] = plan.workers
    for modulator in job.modulators:
        facts.update(modulator.report())
    job.plans.append(plan)
    job.recorder.record(job.step, weighted, facts)
    job.recorder.add_reasons(plan, lr, job.num_workers)


def _measurement(job: Job, plan: BatchPlan, num_samples: int) -> Measurement | None:
    """What the controller and the modulators want to know of the coming step."""
    is_warmup = job.schedule.is_warmup(job.seen)
    asking = [modulator for modulator in job.measuring if modulator.wants(job.step, is_warmup=is_warmup)]
    if not plan.sample_statistic and not asking:
        return None
    return Measurement(
        num_samples=num_samples,
        inner_products=plan.inner_products,
        for_controller=plan.sample_statistic,
        modules=bool(asking),
        halves=any(modulator.halves for modulator in asking),
        preconditioned=plan.preconditioned or any(modulator.preconditioned for modulator in asking),
    )


def _accumulate(sums: dict[str, Tensor], micro: dict[str, Tensor]) -> None:
    for name, value in micro.items():
        sums[name] = sums[name] + value if name in sums else value
