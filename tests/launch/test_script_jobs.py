"""Jobs with a script: prepared, planned and continued like others, but for what is the script's own affair."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.core.errors import UsageError
from orchestrator.launch.plan import make_plan
from orchestrator.launch.prepare import prepare, prepare_resume
from orchestrator.spec.load import LoadedSpec, load_spec


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
