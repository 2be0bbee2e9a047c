"""Trunk and branches: what is asked of each job, and that a branch goes on from the trunk's weights."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from support import RECIPES, make_run_directory, train_here

from orchestrator.core.errors import OrchestratorError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.branches import Branch, Study, give_checkpoint, measured_noise_scale, read_curve
from orchestrator.launch.prepare import PreparedJob
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import LoadedSpec
from orchestrator.spec.problems import SpecError


def study(folder: Path, **sections: Any) -> Study:
    """A study of the tiny recipe: five steps of the trunk, branches of 96 samples."""
    (folder / "job").mkdir()
    (folder / "job" / "tiny.py").write_text((RECIPES / "tiny.py").read_text(encoding="utf-8"), encoding="utf-8")
    spec = {
        "name": "tiny",
        "recipe": {"target": "tiny.py:Digits"},
        "train": {"epochs": 2},
        "batch": {"global_size": 16},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "schedule": {"name": "cosine", "warmup": {"steps": 2}},
        **sections,
    }
    file = folder / "job" / "job.yaml"
    file.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return Study(spec=file, overrides=[], storage=folder, trunk_steps=5, branch_samples=96, say=lambda message: None)


def job(loaded: LoadedSpec) -> JobSpec:
    assert isinstance(loaded.spec, JobSpec)
    return loaded.spec


def test_the_trunk_measures_and_never_grows(tmp_path: Path) -> None:
    spec = job(study(tmp_path).trunk())
    assert (spec.name, spec.train.steps, spec.train.epochs) == ("tiny-trunk", 5, None)
    assert (spec.schedule.name, spec.batch.controller.name) == ("constant", "noise_scale")
    assert spec.schedule.warmup is not None
    assert spec.schedule.warmup.steps == 2
    assert spec.batch.controller.guards.max_size == 16
    # One worker sees noise between micro-batches only.
    assert spec.batch.micro_size == 4


@pytest.mark.parametrize(("optimizer", "rates"), [("sgd", [0.025, 0.1, 0.4]), ("adamw", [0.05, 0.1, 0.2])])
def test_a_branchs_rate_goes_with_its_batch(tmp_path: Path, optimizer: str, rates: list[float]) -> None:
    branches = study(tmp_path, optimizer={"name": optimizer, "lr": 0.1}).branches([4, 0.25, 1])
    assert [branch.batch for branch in branches] == [4, 16, 64]
    assert [branch.lr for branch in branches] == pytest.approx(rates)


def test_the_jobs_own_scaling_is_not_applied_twice(tmp_path: Path) -> None:
    made = study(tmp_path, scaling={"rule": "sqrt", "reference_batch": 8})
    (phase,) = job(made.branch(Branch(batch=64, lr=0.2))).then
    assert (phase.batch.global_size, phase.optimizer.lr, phase.train.samples) == (64, 0.2, 96)
    assert phase.scaling.reference_batch == 32


def test_a_study_has_the_length_that_it_is_told(tmp_path: Path) -> None:
    made = study(tmp_path, scaling={"reference_batch": 8, "same_updates": True})
    assert job(made.trunk()).train.steps == 5
    assert job(made.branch(Branch(batch=64, lr=0.2))).then[0].train.samples == 96


def test_a_batch_that_workers_cannot_share_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    made = study(tmp_path, resources={"workers": 4})
    with pytest.raises(SpecError, match="each needs at least 1"):
        made.branch(Branch(batch=2, lr=0.1))
    assert made.workers_for(64) == 16


def test_a_branch_goes_on_from_the_trunk(tmp_path: Path) -> None:
    made = study(tmp_path)
    trunk = make_run_directory(tmp_path / "trunk", job(made.trunk()))
    outcome, _ = train_here(str(trunk.root))
    assert outcome == "finished"
    branch = Branch(batch=32, lr=0.2)
    spec = job(made.branch(branch))
    run = make_run_directory(tmp_path / "branch", spec)
    give_checkpoint(trunk, PreparedJob(run_directory=run, spec=spec, resumed=False))
    outcome, lines = train_here(str(run.root))
    assert outcome == "finished"
    assert [(line["step"], line["global_size"], line["samples"]) for line in lines] == [
        (6, 32, 112),
        (7, 32, 144),
        (8, 32, 176),
    ]
    assert {line["lr"] for line in lines} == {0.2}


def test_a_trunk_without_a_checkpoint_is_told(tmp_path: Path) -> None:
    made = study(tmp_path)
    spec = job(made.branch(Branch(batch=32, lr=0.2)))
    empty = make_run_directory(tmp_path / "trunk", job(made.trunk()))
    run = make_run_directory(tmp_path / "branch", spec)
    with pytest.raises(OrchestratorError, match="no checkpoint to branch from"):
        give_checkpoint(empty, PreparedJob(run_directory=run, spec=spec, resumed=False))


def test_only_the_branchs_own_steps_make_its_curve(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    text = "".join(
        f'{{"step": {step}, "global_size": 32, "loss": {1 / step}, "samples": {32 * step}}}\n' for step in range(4, 8)
    )
    run.metrics_file.write_text(text, encoding="utf-8")
    curve = read_curve(run, 32, after=5)
    assert curve.samples.tolist() == [0, 32]
    assert curve.loss.tolist() == [1 / 6, 1 / 7]
    with pytest.raises(OrchestratorError, match="no step"):
        read_curve(run, 32, after=7)


def test_the_noise_scale_is_that_of_the_last_decision(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert measured_noise_scale(run) is None
    run.event("batch", {"noise_scale": 12.0})
    run.event("checkpoint_saved", {})
    assert measured_noise_scale(run) == 12.0
    run.event("batch", {"noise_scale": None})
    assert measured_noise_scale(run) is None
