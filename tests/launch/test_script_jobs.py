"""Jobs with a script: prepared, planned and continued like others, but for what is the script's own affair."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.core.errors import UsageError
from orchestrator.launch.plan import make_plan
from orchestrator.launch.prepare import prepare, prepare_resume
from orchestrator.spec.job import ScriptJobSpec
from orchestrator.spec.load import LoadedSpec, load_resolved, load_spec


@pytest.fixture
def load_script(tmp_path: Path) -> Callable[..., LoadedSpec]:
    def write_and_load(text: str = "", ignored: str = "") -> LoadedSpec:
        folder = tmp_path / "job"
        (folder / "src").mkdir(parents=True, exist_ok=True)
        (folder / "src" / "train.py").write_text("print('trains')\n")
        (folder / ".rayignore").write_text(ignored)
        (folder / "job.yaml").write_text(
            f"name: tiny\nscript: {{path: src/train.py, args: [--note, two words, --lr, 0.5]}}\n{text}"
        )
        return load_spec(folder / "job.yaml")

    return write_and_load


def test_its_steps_are_not_counted(load_script: Callable[..., LoadedSpec], storage: Path) -> None:
    prepared = prepare(load_script(), storage)
    assert prepared.run_directory.read_state()["step"] is None
    assert (prepared.run_directory.code / "src" / "train.py").exists()


@pytest.mark.parametrize("ignored", ["train.py", "src/"])
def test_a_script_that_would_not_travel_is_refused(
    ignored: str, load_script: Callable[..., LoadedSpec], storage: Path
) -> None:
    with pytest.raises(UsageError, match=r"^script\.path: src/train\.py would not travel with the job"):
        prepare(load_script(ignored=ignored), storage)


def test_the_plan_leaves_to_the_script_what_is_the_scripts(
    load_script: Callable[..., LoadedSpec], storage: Path
) -> None:
    plan = make_plan(load_script("resources: {workers: 3}\n"), storage, os.environ)
    assert plan.script == "python src/train.py --note 'two words' --lr 0.5"
    assert (plan.batch, plan.total_steps, plan.total_samples, plan.memory) == ((), None, None, None)
    assert plan.memory_unknown == "the script decides"
    assert (plan.workers, plan.experiment, plan.package.files) == (
        3,
        "tiny",
        (".rayignore", "job.yaml", "src/train.py"),
    )


def test_it_resumes_with_other_resources_but_not_with_another_command_line(
    load_script: Callable[..., LoadedSpec], storage: Path
) -> None:
    job = prepare(load_script(), storage).run_directory
    job.update_state(phase="stopped")
    with pytest.raises(UsageError, match=r"--set: script\.args would change the training"):
        prepare_resume(job, ["script.args=[--lr, 1]"])
    resumed = prepare_resume(job, ["resources.workers=2", "retries.user_error=3"])
    assert (resumed.spec.resources.workers, resumed.spec.retries.user_error) == (2, 3)


SWEEP = "sweep: {script.args.1: [one, two], script.options.amp: [true, false]}\ntrials: {concurrent: 2}\n"


def test_each_trial_of_a_sweep_is_a_job_with_the_script(load_script: Callable[..., LoadedSpec], storage: Path) -> None:
    job = prepare(load_script(SWEEP), storage).run_directory
    assert (job.read_state()["step"], job.read_state()["concurrent"]) == (None, 2)
    specs = [load_resolved(trial.resolved_spec) for trial in job.trials]
    assert all(isinstance(spec, ScriptJobSpec) and spec.tracking.experiment == "tiny" for spec in specs)
    assert [spec.name for spec in specs] == ["tiny-0", "tiny-1", "tiny-2", "tiny-3"]
    assert {trial.read_state()["step"] for trial in job.trials} == {None}
    assert (job.trial(3).code / "src" / "train.py").exists()
    job.update_state(phase="stopped")
    job.trial(0).update_state(phase="succeeded", finished_at=3.0)
    with pytest.raises(UsageError, match=r"--set: sweep.* would change the training"):
        prepare_resume(job, ["sweep={script.args.1: [one]}"])
    prepare_resume(job, ["trials.concurrent=1"])
    assert [trial.read_state()["phase"] for trial in job.trials] == ["succeeded", "queued", "queued", "queued"]


def test_the_plan_of_a_sweep_shows_its_trials(load_script: Callable[..., LoadedSpec], storage: Path) -> None:
    plan = make_plan(load_script(SWEEP), storage, os.environ)
    assert plan.script == "python src/train.py --note one --lr 0.5 --amp"
    assert (plan.concurrent, len(plan.trials)) == (2, 4)
    assert plan.trials[3] == {"script.args.1": "two", "script.options.amp": False}
