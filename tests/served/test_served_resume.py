"""A served job that is stopped goes on where it was, also with another number of workers."""

from pathlib import Path

import pytest
from served.threads import train_served
from support import assert_same_weights, make_run_directory, tiny_spec

from orchestrator.core.run_directory import RunDirectory, read_json_lines
from orchestrator.core.served import MessageKey
from orchestrator.spec.load import dump_resolved

JOB = {
    "train": {"steps": 10},
    "batch": {"global_size": 48},
    "optimizer": {"name": "adamw", "lr": 0.01},
    "then": [{"train": {"steps": 4}, "batch": {"global_size": 24}, "recipe": {"args": {"smoothing": 0.1}}}],
    "exchange": {"name": "coded", "scheme": "fractional", "stragglers": 1},
}


@pytest.mark.parametrize(("stop_at", "workers_after"), [(4, 4), (4, 2), (11, 4)])
def test_stopped_and_resumed(stop_at: int, workers_after: int, tmp_path: Path) -> None:
    spec = tiny_spec(**JOB, resources={"workers": 4})
    whole = make_run_directory(tmp_path / "whole" / "tiny", spec)
    assert train_served(whole)[0] == "finished"
    directory = make_run_directory(tmp_path / "parts" / "tiny", spec)
    outcome, tracker, _ = train_served(directory, on_push=_stop_in_job(directory, stop_at))
    assert outcome == "stopped"
    directory.stop_file.unlink()
    stopped_at = tracker.lines[-1]["step"]
    assert stop_at <= stopped_at <= stop_at + 2
    resources = spec.resources.model_copy(update={"workers": workers_after})
    directory.resolved_spec.write_text(dump_resolved(spec.model_copy(update={"resources": resources})))
    outcome, tracker, _ = train_served(directory)
    assert outcome == "finished"
    assert [line["step"] for line in tracker.lines] == list(range(stopped_at + 1, 15))
    assert_same_weights(whole, directory, atol=1e-6)
    assert [row["step"] for row in read_json_lines(directory.worker_times_file)] == list(range(1, 15))


def _stop_in_job(directory: RunDirectory, job: int):
    def stop(port, key: MessageKey, message):
        if key.job == job:
            directory.stop_file.touch()
        return message

    return stop
