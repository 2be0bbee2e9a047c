"""What the command line says of a job with a script."""

import json
from pathlib import Path

import pytest

from orchestrator.launch.prepare import prepare
from orchestrator.spec.load import load_spec


@pytest.fixture
def script(tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "train.py").write_text("print('trains')\n")
    (folder / "job.yaml").write_text("name: tiny\nscript: {path: train.py, args: [-v]}\nresources: {workers: 2}\n")
    return folder / "job.yaml"


def test_check_and_plan(cli, script: Path, storage: Path) -> None:
    assert cli("check", script).out.endswith("job tiny is in order\n")
    answer = cli("plan", script, "--storage", storage)
    assert (answer.code, answer.err) == (0, "")
    assert "script                    python train.py -v, on every worker\n" in answer.out
    assert "batch, length and memory  decided by the script\n" in answer.out
    assert "placement                 2 workers with 1 CPU and 0 GPUs each, pack\n" in answer.out
    assert "BACKWARDS PER STEP" not in answer.out
    assert "resolved spec\nname: tiny\nscript:\n  path: train.py\n" in answer.out
    assert json.loads(cli("plan", script, "--storage", storage, "--json").out)["script"] == "python train.py -v"


def test_a_section_of_recipes_is_refused_in_one_line(cli, script: Path) -> None:
    answer = cli("check", script, "--set", "batch.global_size=64")
    assert (answer.code, answer.out) == (2, "")
    assert (
        "--set: batch: belongs to jobs with a recipe; a script decides this itself. Legal: name, script" in answer.err
    )


def test_status_and_list_show_no_steps(cli, script: Path, storage: Path) -> None:
    run = prepare(load_spec(script), storage).run_directory
    run.update_state(phase="failed", attempts=1, message="train.py on rank 1 ended with exit code 1: ValueError: boom")
    shown = cli("status", "tiny", "--storage", storage).out
    assert "ValueError: boom" in shown
    assert "progress" not in shown
    assert "next           orchestrator logs tiny, orchestrator resume tiny\n" in shown
    assert json.loads(cli("status", "tiny", "--storage", storage, "--json").out)["step"] is None
    assert cli("list", "--storage", storage).out.splitlines()[1].split()[:3] == ["tiny", "failed", "1"]
