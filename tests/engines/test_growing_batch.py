"""A batch that grows from step to step is the same training under every engine on every number of workers."""

from contextlib import closing
from pathlib import Path

import pytest
from engines.training import engine_spec, largest_difference, prepare, run_cases
from gloo import run_on_ranks
from support import ListTracker, assert_same_weights, export_here, job_here

from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.values import BatchPlan
from orchestrator.train.loop import _take_step

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]

GROWING = (32, 32, 64, 64, 100, 100)
"""Epochs of 1,500 end inside steps; 100 samples on three workers in micro-batches of 4 divide by nothing."""
STEPS = 12
ENGINES = {
    "ddp": {"name": "ddp"},
    "fsdp2": {"name": "fsdp2"},
    **{f"zero {stage}": {"name": "deepspeed", "zero_stage": stage} for stage in range(4)},
    "accelerate zero 2": {
        "name": "accelerate",
        "config": {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 2}},
    },
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """One process."""
    directory = prepare(tmp_path_factory.mktemp("alone") / "job", engine_spec({"name": "ddp"}, 1))
    run_cases(1, [(directory, STEPS)], GROWING)
    return directory


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_on_every_number_of_workers(tmp_path: Path, alone: RunDirectory, workers: int) -> None:
    jobs = {title: prepare(tmp_path / title, engine_spec(engine, workers)) for title, engine in ENGINES.items()}
    run_cases(workers, [(directory, STEPS) for directory in jobs.values()], GROWING)
    differences = {title: largest_difference(alone, directory) for title, directory in jobs.items()}
    assert differences == pytest.approx(dict.fromkeys(jobs, 0.0), abs=1e-6)


@pytest.mark.parametrize("workers", [1, 3])
def test_resumed_within_an_epoch_on_another_number_of_workers(
    tmp_path: Path, alone: RunDirectory, workers: int
) -> None:
    begun = prepare(tmp_path / "begun", engine_spec({"name": "fsdp2"}, 2))
    run_cases(2, [(begun, 5)], GROWING)
    jobs = {
        title: prepare(tmp_path / title, engine_spec(engine, workers), begun.checkpoints / "step_5")
        for title, engine in ENGINES.items()
    }
    run_cases(workers, [(directory, STEPS) for directory in jobs.values()], GROWING)
    differences = {title: largest_difference(alone, directory) for title, directory in jobs.items()}
    assert differences == pytest.approx(dict.fromkeys(jobs, 0.0), abs=1e-6)


def train_measured(roots: list[str], every: int) -> None:
    for root in roots:
        job = job_here(root, ListTracker())
        with closing(job.data):
            for step, size in enumerate(GROWING):
                measured = every > 0 and step % every == 0
                job.engine.measured()
                _take_step(job, BatchPlan(global_batch_size=size, micro_batch_size=4, sample_statistic=measured))
            job.saver.save(job.step)
            job.saver.wait()
        export_here(job, root)


@pytest.mark.parametrize("workers", [1, 2])
def test_measuring_changes_no_bit_of_the_training(tmp_path: Path, workers: int) -> None:
    jobs = {
        every: [
            prepare(tmp_path / f"{title} {every}", engine_spec(engine, workers)) for title, engine in ENGINES.items()
        ]
        for every in (0, 1, 2)
    }
    for every, directories in jobs.items():
        run_on_ranks(workers, train_measured, [str(directory.root) for directory in directories], every)
    for plain, measured, sampled in zip(*jobs.values(), strict=True):
        assert_same_weights(plain, measured)
        assert_same_weights(plain, sampled)
