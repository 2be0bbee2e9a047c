"""Real recipes whose failures count as the spec says: by the text of an error, or by what was printed before it."""

from pathlib import Path

import pytest
from end_to_end.user import lines, run, state, write_job

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.timeout(300)]
FRAIL = """
import os
from pathlib import Path
from tiny import Digits


class Frail(Digits):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.marker = Path(__file__).with_name(f"{how}_before")

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
SPEC = """
name: tiny
recipe: {target: 'frail.py:Frail', args: {how: ''}}
train: {steps: 6}
batch: {global_size: 96}
checkpoint: {every: 2}
tracking: {system_metrics_every_s: null}
trials: {concurrent: 2}
sweep:
  zip:
    recipe.args.how: [raises, dies]
    retries:
      - user_error: 0
        worker_crash: 1
        classes: [{cause: worker_crash, pattern: 'CUDA error: device-side assert'}]
      - user_error: 0
        worker_lost: 5
        classes:
          - {cause: worker_crash, pattern: unheard of}
          - {cause: user_error, pattern: '^watchdog: .* gone$'}
"""


def events(run_directory: Path, name: str) -> list[dict[str, object]]:
    return [event for event in lines(run_directory / "events.jsonl") if event["event"] == name]


def test_failures_count_as_their_text_or_what_was_printed_says(tmp_path: Path) -> None:
    spec = write_job(tmp_path / "job", SPEC)
    spec.with_name("frail.py").write_text(FRAIL)
    code, output = run("run", spec, "--storage", tmp_path / "runs")
    assert code == 1, output
    raises, dies = (tmp_path / "runs" / "tiny" / "trials" / number for number in ("0", "1"))
    # An error of the recipe is no user error where its text says so.
    assert state(raises)["phase"] == "succeeded", output
    (restarting,) = events(raises, "restarting")
    assert (restarting["cause"], restarting["told_by"]) == ("worker_crash", "retries.classes.0")
    assert [line["step"] for line in lines(raises / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    # A worker that printed why it dies is not started again.
    (gave_up,) = events(dies, "gave_up")
    assert (gave_up["cause"], gave_up["told_by"]) == ("user_error", "retries.classes.1")
    assert gave_up["budget"] == "retries.user_error 0 of 0, by retries.classes.1"
    assert (state(dies)["reason"], state(dies)["attempts"]) == ("user_error", 1)
