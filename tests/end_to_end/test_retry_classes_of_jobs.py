"""Real scripts and recipes whose failures count as the spec says: by exit code, error text or what was printed."""

from pathlib import Path

import pytest
from end_to_end.user import lines, run, state, write_job

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.timeout(300)]
SCRIPT = """
import os, sys
first = os.environ["ORCHESTRATOR_ATTEMPT"] == "1"
sys.exit(75 if first else 0)
"""
SCRIPT_SPEC = """
name: tiny
script: {path: train.py}
retries: {infrastructure: 1, classes: [{cause: infrastructure, exit_codes: [75]}]}
tracking: {system_metrics_every_s: null}
"""
FRAIL = """
import os
from pathlib import Path
from tiny import Digits


class Frail(Digits):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.marker = Path(__file__).with_name("failed_before")

    def loss(self, model, batch):
        self.num_calls += 1
        if self.num_calls == 3 and not self.marker.exists():
            self.marker.touch()
            if self.how == "dies":
                print("watchdog: the sensor is gone", flush=True)
                os.kill(os.getpid(), 9)
            raise ValueError("CUDA error: device-side assert triggered")
        return super().loss(model, batch)
"""
RECIPE_SPEC = """
name: tiny
recipe: {{target: 'frail.py:Frail', args: {{how: {how}}}}}
train: {{steps: 6}}
batch: {{global_size: 96}}
checkpoint: {{every: 2}}
retries: {{{budgets}, classes: [{classes}]}}
tracking: {{system_metrics_every_s: null}}
"""


def events(run_directory: Path, name: str) -> list[dict[str, object]]:
    return [event for event in lines(run_directory / "events.jsonl") if event["event"] == name]


def write_recipe_job(folder: Path, **fields: str) -> Path:
    spec = write_job(folder, RECIPE_SPEC.format(**fields))
    spec.with_name("frail.py").write_text(FRAIL)
    return spec


def test_a_script_says_by_its_exit_code_that_it_was_not_to_blame(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "train.py").write_text(SCRIPT)
    (tmp_path / "job" / "job.yaml").write_text(SCRIPT_SPEC)
    code, output = run("run", tmp_path / "job" / "job.yaml", "--storage", tmp_path / "runs")
    assert code == 0, output
    assert "ended with exit code 75; restarting (retries.infrastructure 1 of 1, by retries.classes.0)" in output
    (restarting,) = events(tmp_path / "runs" / "tiny", "restarting")
    assert (restarting["cause"], restarting["told_by"]) == ("infrastructure", "retries.classes.0")
    assert state(tmp_path / "runs" / "tiny")["retries_used"] == {"infrastructure": 1}


def test_an_error_of_the_recipe_is_no_user_error_where_its_text_says_so(tmp_path: Path) -> None:
    spec = write_recipe_job(
        tmp_path / "job",
        how="raises",
        budgets="user_error: 0, worker_crash: 1",
        classes="{cause: worker_crash, pattern: 'CUDA error: device-side assert'}",
    )
    code, output = run("run", spec, "--storage", tmp_path / "runs")
    assert code == 0, output
    run_directory = tmp_path / "runs" / "tiny"
    (restarting,) = events(run_directory, "restarting")
    assert (restarting["cause"], restarting["told_by"]) == ("worker_crash", "retries.classes.0")
    assert [line["step"] for line in lines(run_directory / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_a_worker_that_printed_why_it_dies_is_not_started_again(tmp_path: Path) -> None:
    spec = write_recipe_job(
        tmp_path / "job",
        how="dies",
        budgets="worker_lost: 5, user_error: 0",
        classes="{cause: worker_crash, pattern: unheard of}, {cause: user_error, pattern: '^watchdog: .* gone$'}",
    )
    code, output = run("run", spec, "--storage", tmp_path / "runs")
    assert code == 1, output
    run_directory = tmp_path / "runs" / "tiny"
    (gave_up,) = events(run_directory, "gave_up")
    assert (gave_up["cause"], gave_up["told_by"]) == ("user_error", "retries.classes.1")
    assert gave_up["budget"] == "retries.user_error 0 of 0, by retries.classes.1"
    assert (state(run_directory)["reason"], state(run_directory)["attempts"]) == ("user_error", 1)
